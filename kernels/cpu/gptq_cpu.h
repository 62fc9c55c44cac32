// Parts of the GPTQ operations on CPUs, one a file, and what they share. Used
// by gptq_*_cpu.cc only.
#ifndef QS_KERNELS_CPU_GPTQ_CPU_H_
#define QS_KERNELS_CPU_GPTQ_CPU_H_

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "kernels/gptq_ops.h"

namespace qs::gptq {

absl::Status FactorCpu(const GptqFactorArgs& args, int threads);
absl::Status SolveCpu(const GptqSolveArgs& args, int threads);
absl::Status RefineCpu(const GptqRefineArgs& args, int threads);
absl::Status OutputErrorCpu(const GptqErrorArgs& args, int threads);

// A PanelCheck for several threads: one call at a time, and the first error
// stops all. Also carries other errors of tiles.
class SharedCheckpoint {
 public:
  // `steps` calls of Step make the whole.
  SharedCheckpoint(const PanelCheck& checkpoint, int64_t steps)
      : checkpoint_(checkpoint), steps_(steps) {}

  // False: stop.
  bool Step();
  void Fail(absl::Status status);
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }
  absl::Status status();

 private:
  const PanelCheck checkpoint_;
  const int64_t steps_;
  std::atomic<bool> stopped_{false};
  absl::Mutex mutex_;
  int64_t done_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

// The flat index of the first NaN or Inf, or -1.
int64_t FirstNonFinite(const TensorView& view, int threads);

}  // namespace qs::gptq

#endif  // QS_KERNELS_CPU_GPTQ_CPU_H_

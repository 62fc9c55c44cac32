// Backend: one device and its implementation of every operation family.
//
// The only kernels/ header, beside the *_ops.h and base/, that quant/ may
// include. A backend is chosen once per worker and belongs to that worker's
// thread; the CPU and reference ones hold no mutable state and may be shared.
#ifndef QS_KERNELS_BACKEND_H_
#define QS_KERNELS_BACKEND_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/affine_ops.h"
#include "kernels/awq_ops.h"
#include "kernels/gptq_ops.h"
#include "kernels/gram_ops.h"
#include "kernels/hqq_ops.h"
#include "kernels/nf4_ops.h"
#include "kernels/stats_ops.h"
#include "kernels/stream.h"

namespace qs {

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;         // "cpu"
  virtual std::string description() const = 0;  // "AVX3, 2 threads"
  virtual Stream& stream() = 0;
  virtual Nf4Ops& nf4() = 0;
  virtual AffineOps& affine() = 0;
  virtual StatsOps& stats() = 0;
  virtual HqqOps& hqq() = 0;
  virtual GramOps& gram() = 0;
  virtual GptqOps& gptq() = 0;
  virtual AwqOps& awq() = 0;
};

// The definition: plain loops, no threads. Slow; for tests.
std::unique_ptr<Backend> NewReferenceBackend();

// SIMD by run-time dispatch. `threads` > 1 splits large operations over that
// many threads of oneTBB; 1 runs on the caller's thread.
std::unique_ptr<Backend> NewCpuBackend(int threads);
// The same with `solver_threads` for second moments, GPTQ and AWQ: workers that
// each quantize on one thread may all wait for one factorisation, which then
// takes every core.
std::unique_ptr<Backend> NewCpuBackend(int threads, int solver_threads);

// Every implementation present in this build, for the differential test.
std::vector<std::unique_ptr<Backend>> AllBackends();

// CPU time-to-run names of the SIMD targets of this machine, best first, and a
// switch for tests (empty: back to automatic). Unknown names are NOT_FOUND.
std::vector<std::string> SimdTargets();
absl::Status ForceSimdTargetForTest(std::string_view name);

}  // namespace qs

#endif  // QS_KERNELS_BACKEND_H_

// GptqOps on CPUs: what its parts share, and the smallest of them.
// Tested by tests/kernels/gptq_differential_test.cc.
#include "kernels/cpu/gptq_cpu.h"

#include <algorithm>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/gptq_simd.h"
#include "kernels/cpu/parallel.h"
#include "kernels/factories.h"
#include "kernels/gptq_check.h"

namespace qs {
namespace gptq {

bool SharedCheckpoint::Step() {
  if (stopped()) return false;
  if (!checkpoint_) return true;
  absl::MutexLock lock(&mutex_);
  if (!status_.ok()) return false;
  // Work that has to be done again would count above 1.
  const int64_t done = std::min(done_++, steps_);
  status_ = checkpoint_(static_cast<double>(done) /
                        static_cast<double>(std::max<int64_t>(steps_, 1)));
  if (!status_.ok()) stopped_.store(true, std::memory_order_relaxed);
  return status_.ok();
}

void SharedCheckpoint::Fail(absl::Status status) {
  if (status.ok()) return;
  absl::MutexLock lock(&mutex_);
  if (status_.ok()) status_ = std::move(status);
  stopped_.store(true, std::memory_order_relaxed);
}

absl::Status SharedCheckpoint::status() {
  absl::MutexLock lock(&mutex_);
  return status_;
}

int64_t FirstNonFinite(const TensorView& view, int threads) {
  constexpr int64_t kTile = int64_t{1} << 18;
  const int64_t n = view.num_elements();
  std::vector<int64_t> found(static_cast<size_t>(CeilDiv(n, kTile)), -1);
  ParallelTiles(threads, n, kTile, [&](int64_t begin, int64_t end) {
    found[static_cast<size_t>(begin / kTile)] = FindNonFinite(view, begin, end);
  });
  for (int64_t index : found) {
    if (index >= 0) return index;
  }
  return -1;
}

}  // namespace gptq

namespace {

class GptqCpu final : public GptqOps {
 public:
  explicit GptqCpu(int threads) : threads_(threads) {}

  absl::Status Factor(const GptqFactorArgs& args, Stream&) override {
    return gptq::FactorCpu(args, threads_);
  }
  absl::Status Solve(const GptqSolveArgs& args, Stream&) override {
    return gptq::SolveCpu(args, threads_);
  }
  absl::Status Refine(const GptqRefineArgs& args, Stream&) override {
    return gptq::RefineCpu(args, threads_);
  }
  absl::Status OutputError(const GptqErrorArgs& args, Stream&) override {
    return gptq::OutputErrorCpu(args, threads_);
  }

  absl::Status Decode(const GptqDecodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckGptqDecode(args));
    const int64_t cols = args.weight.cols;
    const int64_t tile = std::max<int64_t>(1, kDecodeTile / cols);
    ParallelTiles(threads_, args.weight.rows, tile,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t r = begin; r < end; ++r) DecodeRow(args, r);
                  });
    return absl::OkStatus();
  }

 private:
  static constexpr int64_t kDecodeTile = int64_t{1} << 17;

  // Every value of a group's code is worked out once.
  static void DecodeRow(const GptqDecodeArgs& args, int64_t row) {
    const int64_t cols = args.weight.cols;
    const int64_t groups = CeilDiv(cols, args.grid.group_size);
    const int64_t codes = int64_t{1} << args.grid.bits;
    std::vector<float> table(static_cast<size_t>(groups * codes));
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t at = row * groups + g;
      const float scale = LoadAsFloat(args.scales, args.grid.scale_dtype, at);
      const auto zero = static_cast<float>(
          args.zero_points == nullptr ? codes / 2 : args.zero_points[at]);
      for (int64_t q = 0; q < codes; ++q) {
        table[static_cast<size_t>(g * codes + q)] =
            (static_cast<float>(q) - zero) * scale;
      }
    }
    const uint8_t* const from = args.codes + row * cols;
    for (int64_t c = 0; c < cols; ++c) {
      const int64_t g = args.group_index == nullptr ? c / args.grid.group_size
                                                    : args.group_index[c];
      StoreFromFloat(args.weight.data, args.weight.dtype, row * cols + c,
                     table[static_cast<size_t>(g * codes + from[c])]);
    }
  }

  const int threads_;
};

}  // namespace

std::unique_ptr<GptqOps> NewGptqCpu(int threads) {
  return std::make_unique<GptqCpu>(threads);
}

}  // namespace qs

// StatsOps: how far decoded weights are from the originals.
//
// *Reductions* in the sense of the design: sums over a fixed partition (runs of
// kStatsRun elements, added in order, in double), so one implementation gives
// the same bytes on a rerun and at any thread count; implementations agree
// within tests/testing/tolerance.h (inside a run they may add in F32). A
// histogram is the same everywhere. Host pointers for the results.
// Thread: thread-compatible.
#ifndef QS_KERNELS_STATS_OPS_H_
#define QS_KERNELS_STATS_OPS_H_

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/stream.h"

namespace qs {

constexpr int64_t kStatsRun = 4096;
constexpr int kHistogramBins = 32;

// Sums, so that parts of a tensor add up (in order) to the whole.
struct ErrorSums {
  int64_t count = 0;
  double squared_error = 0;   // sum (w - v)^2
  double absolute_error = 0;  // sum |w - v|
  double max_absolute_error = 0;
  double weight_squared = 0;   // sum w^2
  double decoded_squared = 0;  // sum v^2
  double dot = 0;              // sum w v
  std::array<int64_t, kHistogramBins> histogram{};

  void Add(const ErrorSums& other);
};

struct ErrorSumsArgs {
  TensorView weight;   // F32, F16 or BF16, one flat run
  TensorView decoded;  // same dtype and shape
  // Groups of consecutive elements of the flat run; the last may be short.
  int64_t group_size = 64;
  // [num groups]: the step that a histogram bin is relative to (bin =
  // |w - v| * (kHistogramBins / step) in F32, cut to an integer, last bin open;
  // a step <= 0 counts in bin 0). Null: no histogram.
  const float* steps = nullptr;
  ErrorSums* sums = nullptr;              // out
  double* group_squared_error = nullptr;  // out, [num groups]; may be null
  // Out, may be null; its histogram stays zero. The yardstick of the same
  // weights: the sums of symmetric absmax round to nearest at `rtn_bits` (2 to
  // 8) in the same groups, nothing written. scale = absmax / (2^(rtn_bits-1) -
  // 0.5), code = clamp(rne(w * fl(1 / scale))); a scale below the normal
  // numbers gives zeros.
  ErrorSums* rtn = nullptr;
  int rtn_bits = 4;
};

class StatsOps {
 public:
  virtual ~StatsOps() = default;
  virtual absl::Status Errors(const ErrorSumsArgs& args, Stream& stream) = 0;
};

}  // namespace qs

#endif  // QS_KERNELS_STATS_OPS_H_

// GramOps: second moments of activations, H = sum over tokens of x x^T, and
// sums of magnitudes.
//
// A *reduction*: the same sequence of calls gives the same bytes at any thread
// count. Inside a call F32 products are added in F32 over at most
// kGramRunTokens tokens, then in F64 to the sum, so that H does not lose its
// small directions to rounding. Products of two F16 or BF16 values are exact in
// F32. Values are within 1.1e-5 sqrt(H_ii H_jj) of the exact sum; where tensor
// cores add F16 or BF16 products, within 7.7e-5 (tests/testing/tolerance.h),
// and below it on the diagonal: they cut off what others round. Host pointers.
// Errors: INVALID_ARGUMENT — dtype or shape; RESOURCE_EXHAUSTED — no memory for
// scratch. Thread: thread-compatible.
#ifndef QS_KERNELS_GRAM_OPS_H_
#define QS_KERNELS_GRAM_OPS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/stream.h"

namespace qs {

// Results depend on where a stream of tokens is cut into calls: cut it at
// multiples of this (or of a divisor) to be independent of how it arrives.
constexpr int64_t kGramRunTokens = 2048;

struct GramAccumulateArgs {
  TensorView activations;     // [tokens, inputs] F32, F16 or BF16
  double* sum = nullptr;      // in, out: [inputs, inputs]; upper triangle only
  double* abs_sum = nullptr;  // in, out: [inputs]
  // First flat index that is NaN or infinite, -1 when there is none. With one,
  // nothing is added.
  int64_t* first_non_finite = nullptr;
};

struct GramFinishArgs {
  const double* sum = nullptr;
  const double* abs_sum = nullptr;
  int64_t inputs = 0;
  float* second_moment = nullptr;  // out: [inputs, inputs], both triangles
  float* abs_sum_f32 = nullptr;    // out: [inputs]
};

class GramOps {
 public:
  virtual ~GramOps() = default;
  virtual absl::Status Accumulate(const GramAccumulateArgs& args,
                                  Stream& s) = 0;
  virtual absl::Status Finish(const GramFinishArgs& args, Stream& s) = 0;
};

}  // namespace qs

#endif  // QS_KERNELS_GRAM_OPS_H_

// Launchers of the second moments' kernels (gram.cu). Contract: cuda_ops.h.
#ifndef QS_KERNELS_CUDA_GRAM_LAUNCH_H_
#define QS_KERNELS_CUDA_GRAM_LAUNCH_H_

#include <cstdint>

#include "kernels/base/tensor_view.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/gram_ops.h"

namespace qs::cuda {

// Tokens whose magnitudes one thread sums; a divisor of kGramRunTokens.
constexpr int64_t kGramSlice = 128;

// The sums of magnitudes by slice of tokens, and the first element that is not
// finite.
struct GramColumnArgs {
  TensorView activations;
  double* partial = nullptr;  // out, [CeilDiv(tokens, kGramSlice), inputs]
  int64_t* first_non_finite = nullptr;  // out
};
int LaunchGramColumns(const GramColumnArgs& args, cudaStream_t stream);

// abs_sum += the slices, in order, unless something was not finite.
struct GramAbsArgs {
  const double* partial = nullptr;
  int64_t slices = 0;
  int64_t inputs = 0;
  const int64_t* first_non_finite = nullptr;
  double* abs_sum = nullptr;  // in, out
};
int LaunchGramAbs(const GramAbsArgs& args, cudaStream_t stream);

// sum[i, first + j] += product[i, j] for i <= first + j, likewise.
struct GramFlushArgs {
  const float* product = nullptr;  // [first + width, width]
  int64_t first = 0;
  int64_t width = 0;
  int64_t inputs = 0;
  const int64_t* first_non_finite = nullptr;
  double* sum = nullptr;  // in, out, [inputs, inputs]
};
int LaunchGramFlush(const GramFlushArgs& args, cudaStream_t stream);

int LaunchGramFinish(const GramFinishArgs& args, cudaStream_t stream);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_GRAM_LAUNCH_H_

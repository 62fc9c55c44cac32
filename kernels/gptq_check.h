// Argument checks of the GPTQ family, the same for every implementation.
#ifndef QS_KERNELS_GPTQ_CHECK_H_
#define QS_KERNELS_GPTQ_CHECK_H_

#include "absl/status/status.h"
#include "kernels/gptq_ops.h"
#include "kernels/gram_ops.h"

namespace qs {

absl::Status CheckGptqFactor(const GptqFactorArgs& args);
absl::Status CheckGptqSolve(const GptqSolveArgs& args);
absl::Status CheckGptqRefine(const GptqRefineArgs& args);
absl::Status CheckGptqDecode(const GptqDecodeArgs& args);
absl::Status CheckGptqError(const GptqErrorArgs& args);
absl::Status CheckGramAccumulate(const GramAccumulateArgs& args);
absl::Status CheckGramFinish(const GramFinishArgs& args);

// INVALID_ARGUMENT "hessian: NaN|Inf at [i, j]" or "... negative diagonal ...".
absl::Status HessianError(const float* hessian, int64_t size, int64_t index);
// The same for an element that was read elsewhere.
absl::Status HessianValueError(float value, int64_t size, int64_t index);

}  // namespace qs

#endif  // QS_KERNELS_GPTQ_CHECK_H_

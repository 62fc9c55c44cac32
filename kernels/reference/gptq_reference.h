// Parts of the GPTQ reference, one a file. Used by gptq_reference.cc only.
#ifndef QS_KERNELS_REFERENCE_GPTQ_REFERENCE_H_
#define QS_KERNELS_REFERENCE_GPTQ_REFERENCE_H_

#include "absl/status/status.h"
#include "kernels/gptq_ops.h"

namespace qs::gptq {

absl::Status FactorReference(const GptqFactorArgs& args);
absl::Status SolveReference(const GptqSolveArgs& args);
absl::Status RefineReference(const GptqRefineArgs& args);

}  // namespace qs::gptq

#endif  // QS_KERNELS_REFERENCE_GPTQ_REFERENCE_H_

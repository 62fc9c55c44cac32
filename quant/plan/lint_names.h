// The part of Lint that goes by the names of modules. Errors of each function:
// CANCELLED — nobody wants the plan any more.
#ifndef QS_QUANT_PLAN_LINT_NAMES_H_
#define QS_QUANT_PLAN_LINT_NAMES_H_

#include "absl/status/status.h"
#include "quant/plan/draft.h"

namespace qs {

// Adds an error for a module that is not quantized where the list of such,
// which has no way to say that a name ends, would name a quantized one with it.
absl::Status CheckSkipNames(const Draft& draft, const EngineRules& rules,
                            FindingList* findings);

// Adds an error for a module that is quantized outside of the model's blocks:
// transformers has GPTQ files loaded by optimum, which makes packed linears
// there alone.
absl::Status CheckBlocks(const Draft& draft, const EngineRules& rules,
                         FindingList* findings);

}  // namespace qs

#endif  // QS_QUANT_PLAN_LINT_NAMES_H_

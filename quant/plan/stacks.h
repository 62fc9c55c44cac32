// How a 3-D tensor with the linears of all experts is cut into 2-D weights. The
// stages that do it (SplitStacks, JoinStacks) are declared in draft.h.
#ifndef QS_QUANT_PLAN_STACKS_H_
#define QS_QUANT_PLAN_STACKS_H_

#include <cstdint>
#include <string>

#include "quant/plan/catalogue.h"
#include "quant/plan/draft.h"

namespace qs {

// Every part of every expert is [rows, cols].
struct StackCut {
  const StackRule* rule = nullptr;  // null: not cut
  int64_t experts = 0;
  int64_t rows = 0;
  int64_t cols = 0;
};

// As `rule` says that `tensor` is stored; returns why that cannot be, or "".
std::string CutStack(const StackRule& rule, const PlanTensor& tensor,
                     StackCut* cut);

// "...experts.3.up_proj.weight" of "...experts.gate_up_proj".
std::string SliceName(const PlanTensor& stack, const StackCut& cut,
                      int64_t expert, int64_t part);

}  // namespace qs

#endif  // QS_QUANT_PLAN_STACKS_H_

// Which modules of a plan have which grid, in the words of compressed-tensors.
#ifndef QS_QUANT_PLAN_SCHEME_TARGETS_H_
#define QS_QUANT_PLAN_SCHEME_TARGETS_H_

#include <vector>

#include "quant/formats/compressed_tensors.h"
#include "quant/plan/draft.h"

namespace qs {

// Of a plan with one grid: one group, for every linear. Else a group for each
// grid, the request's last, and every quantized module is named: by itself, or
// with those of other layers and experts by one expression, so that the list of
// a large mixture stays short.
//
// An expression matches the end of a name from its list of layers on, since
// engines prefix what is before it in their own ways. No class name: some
// engines ask for that before they look at the parts of a fused layer.
std::vector<CompressedTensorsGroup> SchemeGroups(const Draft& draft);

}  // namespace qs

#endif  // QS_QUANT_PLAN_SCHEME_TARGETS_H_

// AwqGroup: the SolveGroup of AWQ, and of GPTQ with AWQ scaling first. Scales
// of every site of the group are searched, folded into the tensors before it,
// and given to its readers.
//
// Solve, once all input is there:
//   1. for each site with a legal fold, the scales with the least error of the
//      linears that read it (awq_scales.h), made exact for the fold
//      (awq_fold.h); a site without one keeps scales of 1. Then the second
//      moment of the scaled input S^-1 H S^-1, and the site is let go of;
//   2. to solve codes, the factor of each of these;
//   3. every tensor of the group gets what concerns it.
// Codes are made tile by tile afterwards (awq_quantizer.h, gptq_quantizer.h).
// For GPTQ scales are judged by what solving with them leaves on a few rows.
//
// Scores are of each linear's own output, as in the paper's equation; AutoAWQ
// looks at the whole attention or MLP block for q, k, v and gate, up.
//
// Results do not depend on the number of threads, nor on the order of tiles.
// Memory: 4 inputs^2 bytes a site (H or S^-1 H S^-1), 8 for the one whose
// scales are searched and, where codes are solved, for each at last (a factor),
// about 4 more for a while where F64 must factor it, and what the tensors'
// quantizers hold, all of their input included.
#ifndef QS_QUANT_AWQ_GROUP_H_
#define QS_QUANT_AWQ_GROUP_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "quant/group_info.h"
#include "quant/quant_spec.h"
#include "quant/solve_group.h"

namespace qs {

// A group's quantizers must live until its Solve returned; the group may go
// then. REQUIRES: SolvesInGroups(spec), ValidateGroup is OK.
// Errors: INVALID_ARGUMENT — a fold whose sizes do not match, a tensor that the
// spec cannot hold; RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<SolveGroup>> NewAwqGroup(
    const QuantSpec& spec, GroupInfo info, const QuantizeOptions& options);

// Upper bound of the bytes that the group holds at once, sites included, with
// `max_tiles` of all its tensors running. REQUIRES: as above. Errors:
// INVALID_ARGUMENT as above.
absl::StatusOr<int64_t> EstimateAwqGroupBytes(const QuantSpec& spec,
                                              const GroupInfo& info,
                                              const QuantizeOptions& options,
                                              int64_t max_tiles);

}  // namespace qs

#endif  // QS_QUANT_AWQ_GROUP_H_

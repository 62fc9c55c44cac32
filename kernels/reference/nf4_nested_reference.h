// The definition of NestedRefine (kernels/nf4_ops.h), for nf4_reference.cc.
#ifndef QS_KERNELS_REFERENCE_NF4_NESTED_REFERENCE_H_
#define QS_KERNELS_REFERENCE_NF4_NESTED_REFERENCE_H_

#include <vector>

#include "absl/status/status.h"
#include "kernels/nf4_ops.h"

namespace qs {

absl::Status NestedRefineReference(const NestedRefineArgs& args);

// Steps 1 and 2 of the search (kernels/nf4_math.h), in nf4_reference.cc.
float Nf4FittedAbsmax(Codebook codebook, const std::vector<float>& block,
                      float max_abs);

}  // namespace qs

#endif  // QS_KERNELS_REFERENCE_NF4_NESTED_REFERENCE_H_

// What a group must be for AwqGroup to solve it, beside what ValidateGroup
// asks. Thread: pure functions.
#ifndef QS_QUANT_AWQ_CHECKS_H_
#define QS_QUANT_AWQ_CHECKS_H_

#include <span>

#include "absl/status/status.h"
#include "kernels/base/tensor_view.h"
#include "quant/group_info.h"
#include "quant/quant_spec.h"
#include "quant/tensor_quantizer.h"

namespace qs {

// INVALID_ARGUMENT naming the first element that is not finite, or OK.
absl::Status CheckFinite(const TensorInfo& info,
                         std::span<const TensorView> pieces);

// INVALID_ARGUMENT — a tensor that cannot be quantized, or changed, as `spec`
// has it.
absl::Status CheckAwqTensors(const QuantSpec& spec, const GroupInfo& info);

}  // namespace qs

#endif  // QS_QUANT_AWQ_CHECKS_H_

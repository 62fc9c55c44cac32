// HqqQuantizer: HQQ to compressed-tensors (integer zero points, rows of codes)
// or to hqq's own state dict (float zeros, any axis).
//
// BEST solves each group by itself, in tiles of whole rows (compressed-tensors)
// or whole groups. REFERENCE stops where the mean error of the whole tensor
// does, and axis 0 cuts its groups across the tensor: both have one tile.
// hqq packs code rows from all over the tensor into one byte, so that its
// packed codes are made at the end, from one byte a code; compressed-tensors'
// leave tile by tile.
// Everything packed is unpacked again and compared.
#ifndef QS_QUANT_HQQ_QUANTIZER_H_
#define QS_QUANT_HQQ_QUANTIZER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "quant/quantizer_base.h"

namespace qs {

// REQUIRES (both): ValidateSpec, ValidateSpecForShape and the tensor's own
// checks passed.
TensorSizes HqqSizes(const QuantSpec& spec, const TensorInfo& info,
                     const QuantizeOptions& options);

// Errors: INVALID_ARGUMENT — what the format cannot hold; RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewHqqQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options);

}  // namespace qs

#endif  // QS_QUANT_HQQ_QUANTIZER_H_

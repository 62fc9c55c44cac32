// The tensors of an AWQ group. AwqQuantizer: a linear's weight, scaled by
// columns and divided by rows as the group's solution says, to codes.
// AwqFoldedTensor: a tensor that comes back changed but not quantized.
//
// Codes of a tile of rows: REFERENCE, and BEST without solve_codes: clipped
// limits, then rounding. BEST: GPTQ's loop and coordinate descent against the
// second moment of the scaled input, ranges by its conditional curvature; a row
// that clipping and rounding serves better keeps those codes.
#ifndef QS_QUANT_AWQ_QUANTIZER_H_
#define QS_QUANT_AWQ_QUANTIZER_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/awq_member.h"
#include "quant/formats/grid_writer.h"
#include "quant/quantizer_base.h"

namespace qs {

// The grid of AWQ's operations for a tensor. REQUIRES: spec.awq(). `stored`:
// scales as the file has them; else as the search of REFERENCE has them, in the
// weight's dtype.
AwqGridSpec AwqGrid(const QuantSpec& spec, DType weight, int64_t cols,
                    bool stored);

// REQUIRES (both): ValidateSpec, ValidateSpecForShape and the tensor's own
// checks passed.
TensorSizes AwqSizes(const QuantSpec& spec, const TensorInfo& info,
                     const QuantizeOptions& options);

// Errors (both): RESOURCE_EXHAUSTED; GridWriter::Create's.
absl::StatusOr<AwqTensor> NewAwqQuantizer(const QuantSpec& spec,
                                          const TensorInfo& info,
                                          const QuantizeOptions& options);
absl::StatusOr<AwqTensor> NewAwqFoldedTensor(const QuantSpec& spec,
                                             const TensorInfo& info,
                                             const QuantizeOptions& options);

}  // namespace qs

#endif  // QS_QUANT_AWQ_QUANTIZER_H_

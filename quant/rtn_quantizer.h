// RtnQuantizer: round to nearest on an integer grid per group of a row, to
// compressed-tensors.
//
// Each slice of whole rows is encoded, packed, unpacked again and compared code
// by code, decoded from the unpacked codes and measured. Codes exist one a byte
// for a slice at a time. With zero points a slice has a multiple of 32 rows:
// they are packed along dimension 0, and 32 codes end on a word border.
#ifndef QS_QUANT_RTN_QUANTIZER_H_
#define QS_QUANT_RTN_QUANTIZER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "quant/quantizer_base.h"

namespace qs {

// REQUIRES (both): ValidateSpec, ValidateSpecForShape and the tensor's own
// checks passed.
TensorSizes RtnSizes(const RtnSpec& spec, const TensorInfo& info,
                     const QuantizeOptions& options);

// Errors: RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewRtnQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options);

}  // namespace qs

#endif  // QS_QUANT_RTN_QUANTIZER_H_

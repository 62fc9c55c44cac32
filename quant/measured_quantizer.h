// Quantizers of methods that see no calibration, with one: the report then says
// what the rounding does to the layer's output, and what rounding to nearest at
// the same bits would.
//
//   output error = sum over rows of (w - v) H (w - v)^T,  H undamped
//
// Keeps the whole input and, at the end, the decoded weight beside it.
#ifndef QS_QUANT_MEASURED_QUANTIZER_H_
#define QS_QUANT_MEASURED_QUANTIZER_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "quant/quant_spec.h"
#include "quant/tensor_quantizer.h"

namespace qs {

// What one holds beside the quantizer of the method.
int64_t MeasuredExtraBytes(const TensorInfo& info);

// REQUIRES: options.site has AsMatrix(info.shape).cols inputs, or the error
// says so. Errors: TensorQuantizer::Create's.
absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewMeasuredQuantizer(
    const QuantSpec& spec, const TensorInfo& info,
    const QuantizeOptions& options);

}  // namespace qs

#endif  // QS_QUANT_MEASURED_QUANTIZER_H_

// Dequantize: what a file's tensors stand for, as the floats that an engine
// computes with.
// Thread: pure function.
#ifndef QS_QUANT_FORMATS_DEQUANTIZE_H_
#define QS_QUANT_FORMATS_DEQUANTIZE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"

namespace qs {

// `tensors`: all that store weight `name`, as a quantizer gives them. One
// tensor comes back, called `name`, of `shape`, rounded to `dtype`. A tensor
// that is stored under its own name (one that was only folded into) comes back
// as it is. Errors: INVALID_ARGUMENT — the tensors do not fit the spec;
// RESOURCE_EXHAUSTED.
absl::StatusOr<OutputTensor> Dequantize(
    const QuantSpec& spec, const std::string& name, DType dtype,
    const std::vector<int64_t>& shape,
    const std::vector<OutputTensor>& tensors);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_DEQUANTIZE_H_

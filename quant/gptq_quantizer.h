// GptqQuantizer: integer codes on a grid per group of a row, solved against the
// second moments of the tensor's input, to any format of GridWriter.
//
// A tile is a run of whole rows: rows are independent given the factor of their
// input, which the first tile of the first reader makes. BEST solves each row
// from several scales, goes on with coordinate descent and refitted scales, and
// rounds a row that rounding serves better; so no row's output error is above
// rounding's.
#ifndef QS_QUANT_GPTQ_QUANTIZER_H_
#define QS_QUANT_GPTQ_QUANTIZER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "quant/quantizer_base.h"

namespace qs {

// `extra` has the moments and the factor of the input, 8 inputs^2 bytes, which
// all its readers share. (A second moment that F32 cannot factor takes as much
// again while it is factored.)
// REQUIRES (both): ValidateSpec, ValidateSpecForShape and the tensor's own
// checks passed.
TensorSizes GptqSizes(const QuantSpec& spec, const TensorInfo& info);

// Errors: INVALID_ARGUMENT — no site, or one of another size;
// RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewGptqQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options);

}  // namespace qs

#endif  // QS_QUANT_GPTQ_QUANTIZER_H_

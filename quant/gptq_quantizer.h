// GptqQuantizer: integer codes on a grid per group of a row, solved against the
// second moments of the tensor's input, to any format of GridWriter.
//
// A tile is a run of whole rows: rows are independent given the factor of their
// input, which the first tile of the first reader makes. What a tile does is
// gptq_tile.h's; no row's output error is above that of rounding what BEST
// solves.
//
// In a group with AWQ scaling (awq_group.h) the group has moments and factor
// for it, and the weight is scaled as a tile reads it.
#ifndef QS_QUANT_GPTQ_QUANTIZER_H_
#define QS_QUANT_GPTQ_QUANTIZER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "quant/awq_member.h"
#include "quant/quantizer_base.h"

namespace qs {

// Without what the tensor's site holds for all its readers (solve_group.h).
// REQUIRES (all): ValidateSpec, ValidateSpecForShape and the tensor's own
// checks passed.
TensorSizes GptqSizes(const QuantSpec& spec, const TensorInfo& info,
                      const QuantizeOptions& options);

// Errors: INVALID_ARGUMENT — no site, or one of another size;
// RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewGptqQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options);

// One of a group, which gives it a solution. Errors: RESOURCE_EXHAUSTED.
absl::StatusOr<AwqTensor> NewGptqMember(const QuantSpec& spec,
                                        const TensorInfo& info,
                                        const QuantizeOptions& options);

}  // namespace qs

#endif  // QS_QUANT_GPTQ_QUANTIZER_H_

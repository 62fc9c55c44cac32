// Nf4Quantizer: NF4 and FP4, plain or with nested absmax, to bitsandbytes.
//
// Plain: each slice is encoded, decoded again from its packed bytes, checked
// and measured; Finish only names the parts. Nested: absmax is known only when
// all tiles are done; it is coded then, and a second round searches among what
// the coding can express (BEST) and measures what a reader decodes.
//
// Check: every code is read back on the host and compared with its weight
// (kernels/nf4_verify_ops.h), in each round that makes codes.
#ifndef QS_QUANT_NF4_QUANTIZER_H_
#define QS_QUANT_NF4_QUANTIZER_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/quantizer_base.h"

namespace qs {

// What one call of a kernel gets, at most: whole blocks. `large`:
// QuantizeOptions::large_tiles.
int64_t Nf4SliceElements(const TensorInfo& info, bool large);

// REQUIRES (both): ValidateSpec and the tensor's own checks passed;
// num_elements is the shape's product.
TensorSizes Nf4Sizes(const Nf4Spec& spec, const TensorInfo& info,
                     const QuantizeOptions& options, int64_t num_elements);

// Whether codes, or their errors, are made once all absmax are known.
bool Nf4HasSecondRound(const QuantSpec& spec, const QuantizeOptions& options);

// Errors: RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewNf4Quantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options,
    int64_t num_elements);

}  // namespace qs

#endif  // QS_QUANT_NF4_QUANTIZER_H_

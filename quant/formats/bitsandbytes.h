// The bitsandbytes 4-bit file format: names, dtypes, shapes, the quant_state
// JSON, and the decoder used to verify. Facts: packed_formats.md.
#ifndef QS_QUANT_FORMATS_BITSANDBYTES_H_
#define QS_QUANT_FORMATS_BITSANDBYTES_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/formats/safetensors.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"

namespace qs {

// The packed pieces of one weight, as kernels give them.
struct Nf4Pieces {
  Buffer packed;         // [(n + 1) / 2]
  Buffer absmax;         // F32 [nb], or U8 [nb] when nested
  Buffer nested_absmax;  // F32, nested only
  float nested_offset = 0;
};

// Output tensors in the format's order: weight, absmax, quant_map,
// [nested_absmax, nested_quant_map,] quant_state. `name` is the weight's
// ("...up_proj.weight"). Errors: RESOURCE_EXHAUSTED — no memory.
absl::StatusOr<std::vector<OutputTensor>> BitsandbytesTensors(
    const Nf4Spec& spec, const std::string& name, DType dtype,
    const std::vector<int64_t>& shape, Nf4Pieces pieces);

// The UTF-8 bytes of quant_state: Python's json.dumps of it.
std::string QuantStateJson(const Nf4Spec& spec, DType dtype,
                           const std::vector<int64_t>& shape,
                           float nested_offset);

// `repr` of a float as Python prints it (shortest round trip of the double).
std::string PythonFloatRepr(double value);

// Decodes a weight from its file's tensors alone: `tensors` maps full names to
// items. Errors: INVALID_ARGUMENT — a piece is missing or does not fit.
// `out` gets rows x cols values in the recorded dtype.
struct DecodedWeight {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  Buffer data;
};
absl::StatusOr<DecodedWeight> DecodeBitsandbytes(
    const std::map<std::string, SafetensorsItem>& tensors,
    const std::string& name);

// Reads the tensors of BitsandbytesTensors back, all but the codes (which may
// have left already), as DecodeBitsandbytes does. `absmax`: what the codes were
// chosen against, for nested ones; empty otherwise. Errors: INTERNAL — a piece
// does not say what it was made from.
absl::Status VerifyBitsandbytes(const std::vector<OutputTensor>& tensors,
                                const Nf4Spec& spec, DType dtype,
                                const std::vector<int64_t>& shape,
                                std::span<const float> absmax);

// `quantization_config` for config.json, as transformers writes it.
// `skip_modules`: module names left unquantized (becomes
// llm_int8_skip_modules).
std::string BitsandbytesConfigJson(
    const Nf4Spec& spec, DType compute_dtype,
    const std::vector<std::string>& skip_modules);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_BITSANDBYTES_H_

// The GPTQ file format, v1 and v2: names, dtypes, shapes, packing,
// quantization_config, and the reader used to verify. Facts: packed_formats.md.
//
// Methods write it through GridWriter (grid_writer.h).
#ifndef QS_QUANT_FORMATS_GPTQ_FORMAT_H_
#define QS_QUANT_FORMATS_GPTQ_FORMAT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/formats/bitsandbytes.h"
#include "quant/formats/grid_writer.h"
#include "quant/formats/stored_tensors.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"

namespace qs {

enum class GptqVersion {
  kV1,  // stores zero point - 1: a zero point of 0 is refused
  kV2,  // stores the zero point
};

// One weight of a file.
struct GptqFileLayout {
  GridShape shape;
  GridSpec grid;  // bits 2, 3, 4, 8; the last group may be shorter
  GptqVersion version = GptqVersion::kV1;

  int64_t groups() const;
};

// INVALID_ARGUMENT — bits, group size, name, or a shape that leaves a word
// part empty (bits 2, 4, 8: 32 / bits, bits 3: 32, in both directions).
absl::Status CheckGptqLayout(const GptqFileLayout& layout);

// Bytes of .qweight, .qzeros, .scales and .g_idx together.
int64_t GptqOutputBytes(const GptqFileLayout& layout);

// A weight read back from a file's tensors.
struct GptqWeight {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t groups = 0;
  Buffer codes;        // U8 [rows, cols]
  Buffer zero_points;  // U8 [rows, groups]
  DType scale_dtype = DType::kF16;
  Buffer scales;  // scale_dtype [rows, groups]
  Buffer g_idx;   // I32 [cols]
};

// `name` is the weight's; grid and version stand in config.json.
// Errors: INVALID_ARGUMENT — a piece is missing or does not fit; a scale that
// is not finite or is negative; a group index out of range; v1: a stored field
// of 2^bits - 1, which readers take differently.
absl::StatusOr<GptqWeight> ReadGptq(const GridSpec& grid, GptqVersion version,
                                    const StoredTensors& tensors,
                                    const std::string& name);

// (code - zero point) * scale, rounded once to `dtype`.
absl::StatusOr<DecodedWeight> DecodeGptq(const GridSpec& grid,
                                         GptqVersion version,
                                         const StoredTensors& tensors,
                                         const std::string& name,
                                         DType dtype = DType::kF16);

// What config.json says beside the grid.
struct GptqConfig {
  bool desc_act = false;       // dynamic act-order: g_idx matters
  bool static_groups = false;  // act-order with groups as stored
  double damping = 0.01;
  // Exact names without ".weight".
  std::vector<std::string> skip_modules;
  // Regular expressions, for names of the same modules in other trees.
  std::vector<std::string> skip_expressions;
  std::vector<std::string> quantized_modules;
};
GptqConfig GptqConfigOf(const GptqSpec& spec);

// A regular expression that matches this text alone wherever it begins.
std::string RegexEscape(std::string_view text);

// `quantization_config` for config.json, which GPTQModel, transformers and vLLM
// read where there is no quantize_config.json beside it. A linear that is not
// quantized is named in `dynamic` (GPTQModel); `quantized_modules`, when given,
// is the list that optimum and vLLM want where not every linear of the blocks
// is quantized.
std::string GptqConfigJson(const GridSpec& grid, GptqVersion version,
                           const GptqConfig& config);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_GPTQ_FORMAT_H_

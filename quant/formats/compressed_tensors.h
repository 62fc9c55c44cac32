// The compressed-tensors `pack-quantized` file format: names, dtypes, shapes,
// quantization_config, and the decoder used to verify. Facts:
// packed_formats.md.
#ifndef QS_QUANT_FORMATS_COMPRESSED_TENSORS_H_
#define QS_QUANT_FORMATS_COMPRESSED_TENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/formats/bitsandbytes.h"
#include "quant/formats/safetensors.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"

namespace qs {

struct AffinePieces {
  Buffer words;             // I32 [rows, CeilDiv(cols * bits, 32)]
  Buffer scales;            // model dtype [rows, groups]
  Buffer zero_point_words;  // I32 [CeilDiv(rows * bits, 32), groups] or empty
};

// weight_packed, weight_scale, [weight_zero_point,] weight_shape. `name` is the
// weight's and must end in ".weight". Errors: INVALID_ARGUMENT — the name;
// RESOURCE_EXHAUSTED — no memory.
absl::StatusOr<std::vector<OutputTensor>> CompressedTensors(
    const GridSpec& grid, const std::string& name, DType dtype, int64_t rows,
    int64_t cols, AffinePieces pieces);

// INVALID_ARGUMENT — bits, group size.
absl::Status CheckCompressedTensorsGrid(const GridSpec& grid);

// Exact bytes of the tensors of one weight.
int64_t CompressedTensorsBytes(const GridSpec& grid, DType dtype, int64_t rows,
                               int64_t cols);

// Decodes a weight from its file's tensors alone. `grid` gives bits, group size
// and symmetry (they stand in config.json, not in the file). Values are
// (code - zero point) * scale, rounded once to the dtype of the scales. Errors:
// INVALID_ARGUMENT — a piece is missing or does not fit.
absl::StatusOr<DecodedWeight> DecodeCompressedTensors(
    const GridSpec& grid, const std::map<std::string, SafetensorsItem>& tensors,
    const std::string& name);

// Modules with one grid. A target is a module class, a module's name, or "re:"
// and a regular expression that matches from a name's beginning on. Of several
// that match loaders take a name before an expression, or the first.
struct CompressedTensorsGroup {
  GridSpec grid;
  std::vector<std::string> targets = {"Linear"};
};

// `quantization_config` for config.json, exact module names in `ignore`, which
// goes before all targets. `ignore` are modules without ".weight", checkpoint
// order.
std::string CompressedTensorsConfigJson(
    const std::vector<CompressedTensorsGroup>& groups,
    const std::vector<std::string>& ignore);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_COMPRESSED_TENSORS_H_

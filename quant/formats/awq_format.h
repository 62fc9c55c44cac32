// The AWQ GEMM file format (4 bits): names, dtypes, shapes, packing,
// quantization_config, and the reader used to verify. Facts: packed_formats.md.
//
// Methods write it through GridWriter (grid_writer.h).
#ifndef QS_QUANT_FORMATS_AWQ_FORMAT_H_
#define QS_QUANT_FORMATS_AWQ_FORMAT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/formats/bitsandbytes.h"
#include "quant/formats/grid_writer.h"
#include "quant/formats/stored_tensors.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"

namespace qs {

// One weight of a file.
struct AwqLayout {
  GridShape shape;
  GridSpec grid;  // 4 bits; group size -1 or a divisor of cols

  int64_t groups() const;
};

// INVALID_ARGUMENT — bits, group size, name, or rows that are no multiple of 8.
absl::Status CheckAwqLayout(const AwqLayout& layout);

// Bytes of .qweight, .qzeros and .scales together.
int64_t AwqOutputBytes(const AwqLayout& layout);

// A weight read back from a file's tensors.
struct AwqWeight {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t groups = 0;
  Buffer codes;        // U8 [rows, cols]
  Buffer zero_points;  // U8 [rows, groups]
  DType scale_dtype = DType::kF16;
  Buffer scales;  // scale_dtype [rows, groups]
};

// `name` is the weight's; the grid stands in config.json.
// Errors: INVALID_ARGUMENT — a piece is missing or does not fit; a scale that
// is not finite or is negative.
absl::StatusOr<AwqWeight> ReadAwq(const GridSpec& grid,
                                  const StoredTensors& tensors,
                                  const std::string& name);

// (code - zero point) * scale, rounded once to `dtype`.
absl::StatusOr<DecodedWeight> DecodeAwq(const GridSpec& grid,
                                        const StoredTensors& tensors,
                                        const std::string& name,
                                        DType dtype = DType::kF16);

// `quantization_config` for config.json. zero_point is true for symmetric grids
// too: their zero points, all 8, are stored, and readers demand it.
// `skip_modules` become modules_to_not_convert: a module whose name *contains*
// an entry is left alone, so who makes the list keeps quantized names out.
std::string AwqConfigJson(const GridSpec& grid,
                          const std::vector<std::string>& skip_modules);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_AWQ_FORMAT_H_

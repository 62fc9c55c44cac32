// Tested by tests/formats/grid_writer_test.cc.
#include "quant/formats/grid_writer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "quant/formats/awq_format.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/formats/gptq_format.h"
#include "quant/formats/grid_pieces.h"

namespace qs {

StoredScale StoredScaleOf(OutputFormat format, DType weight) {
  if (format == OutputFormat::kCompressedTensors ||
      format == OutputFormat::kHqq) {
    return {weight, weight == DType::kF16 ? 0x1p-24f : 0x1p-126f};
  }
  if (weight == DType::kBF16) return {DType::kBF16, 0x1p-17f};
  return {DType::kF16, 0x1p-24f};
}

absl::StatusOr<std::unique_ptr<GridWriter>> GridWriter::Create(
    const QuantSpec& spec, GridShape shape, bool streamed) {
  const GridSpec grid = SpecGrid(spec);
  switch (spec.format) {
    case OutputFormat::kCompressedTensors:
      return grid::NewCompressedTensorsWriter(grid, std::move(shape), streamed);
    case OutputFormat::kGptq:
    case OutputFormat::kGptqV2:
      return grid::NewGptqWriter(grid, std::move(shape),
                                 spec.format == OutputFormat::kGptq);
    case OutputFormat::kAwqGemm:
      return grid::NewAwqWriter(grid, std::move(shape));
    default:
      return absl::InternalError(absl::StrCat(
          "tensor \"", shape.name, "\": got a format without rows of codes"));
  }
}

int64_t GridOutputBytes(const QuantSpec& spec, const GridShape& shape) {
  const GridSpec grid = SpecGrid(spec);
  switch (spec.format) {
    case OutputFormat::kGptq:
    case OutputFormat::kGptqV2:
      return GptqOutputBytes({shape, grid, GptqVersion::kV2});
    case OutputFormat::kAwqGemm:
      return AwqOutputBytes({shape, grid});
    default:
      return CompressedTensorsBytes(grid, shape.dtype, shape.rows, shape.cols);
  }
}

}  // namespace qs

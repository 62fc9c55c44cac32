// GptqLayout: how GPTQ cuts a tensor into groups and tiles.
// Thread: pure functions.
#ifndef QS_QUANT_GPTQ_LAYOUT_H_
#define QS_QUANT_GPTQ_LAYOUT_H_

#include <algorithm>
#include <cstdint>

#include "kernels/base/checked_math.h"
#include "quant/formats/grid_writer.h"
#include "quant/quant_spec.h"
#include "quant/tensor_quantizer.h"

namespace qs {

// A tile reads the factor once: the more rows, the less that costs, up to what
// one operation takes together.
constexpr int64_t kGptqTileRows = 512;
constexpr int64_t kLeastGptqTileRows = 128;
constexpr int64_t kGptqTileElements = int64_t{1} << 22;

struct GptqLayout {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;
  int64_t groups = 0;     // a row
  int64_t tile_rows = 0;  // a multiple of kGridRowUnit

  int64_t most_rows() const { return std::min(tile_rows, rows); }  // of a tile
  // The error report's groups lie one after the other in the flat tensor.
  int64_t report_group() const {
    return cols % group_size == 0 ? group_size : cols;
  }
};

inline GptqLayout GptqLayoutOf(const GptqSpec& spec, const TensorInfo& info) {
  const MatrixShape shape = AsMatrix(info.shape);
  GptqLayout layout;
  layout.rows = shape.rows;
  layout.cols = shape.cols;
  layout.group_size = spec.group_size == -1
                          ? shape.cols
                          : std::min(spec.group_size, shape.cols);
  layout.groups = CeilDiv(shape.cols, layout.group_size);
  layout.tile_rows =
      std::clamp(kGptqTileElements / shape.cols / kGridRowUnit * kGridRowUnit,
                 kLeastGptqTileRows, kGptqTileRows);
  return layout;
}

}  // namespace qs

#endif  // QS_QUANT_GPTQ_LAYOUT_H_

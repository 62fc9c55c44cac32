// GptqLayout: how GPTQ cuts a tensor into groups, units and tiles
// (large_tiles.h).
// Thread: pure functions.
#ifndef QS_QUANT_GPTQ_LAYOUT_H_
#define QS_QUANT_GPTQ_LAYOUT_H_

#include <algorithm>
#include <cstdint>

#include "kernels/base/checked_math.h"
#include "quant/formats/grid_writer.h"
#include "quant/large_tiles.h"
#include "quant/quant_spec.h"
#include "quant/tensor_quantizer.h"

namespace qs {

// A unit reads the factor once: the more rows, the less that costs, up to what
// one operation takes together on a CPU.
constexpr int64_t kGptqUnitRows = 512;
constexpr int64_t kLeastGptqUnitRows = 128;
constexpr int64_t kGptqUnitElements = int64_t{1} << 22;

struct GptqLayout {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;
  int64_t groups = 0;     // a row
  int64_t unit_rows = 0;  // a multiple of kGridRowUnit
  int64_t tile_rows = 0;  // whole units

  int64_t most_rows() const { return std::min(tile_rows, rows); }  // of a tile
  int64_t units() const { return CeilDiv(rows, unit_rows); }
  // The error report's groups lie one after the other in the flat tensor.
  int64_t report_group() const {
    return cols % group_size == 0 ? group_size : cols;
  }
};

// `large`: QuantizeOptions::large_tiles.
inline GptqLayout GptqLayoutOf(const GptqSpec& spec, const TensorInfo& info,
                               bool large) {
  const MatrixShape shape = AsMatrix(info.shape);
  GptqLayout layout;
  layout.rows = shape.rows;
  layout.cols = shape.cols;
  layout.group_size = spec.group_size == -1
                          ? shape.cols
                          : std::min(spec.group_size, shape.cols);
  layout.groups = CeilDiv(shape.cols, layout.group_size);
  layout.unit_rows =
      std::clamp(kGptqUnitElements / shape.cols / kGridRowUnit * kGridRowUnit,
                 kLeastGptqUnitRows, kGptqUnitRows);
  layout.tile_rows =
      large ? LargeTileRows(shape.rows, shape.cols, layout.unit_rows)
            : layout.unit_rows;
  return layout;
}

}  // namespace qs

#endif  // QS_QUANT_GPTQ_LAYOUT_H_

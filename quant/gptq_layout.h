// GptqLayout: how GPTQ cuts a tensor into groups, units and tiles.
//
// A unit of rows is what the report adds up by and what scales are searched by,
// the same for all workers. A tile is what is solved at once: a unit, or for
// workers that prefer large operations many of them. Rows are independent, so
// results do not depend on tiles.
// Thread: pure functions.
#ifndef QS_QUANT_GPTQ_LAYOUT_H_
#define QS_QUANT_GPTQ_LAYOUT_H_

#include <algorithm>
#include <cstdint>

#include "kernels/base/checked_math.h"
#include "kernels/device_tiles.h"
#include "quant/formats/grid_writer.h"
#include "quant/quant_spec.h"
#include "quant/tensor_quantizer.h"

namespace qs {

// A unit reads the factor once: the more rows, the less that costs, up to what
// one operation takes together on a CPU.
constexpr int64_t kGptqUnitRows = 512;
constexpr int64_t kLeastGptqUnitRows = 128;
constexpr int64_t kGptqUnitElements = int64_t{1} << 22;
// Of a large tile: the columns are a chain of steps, in which a GPU does as
// many rows as there are in about the time of a few. 4096 x 16384 of them, or
// all rows of most linears; what that takes of a GPU's memory is about 16 bytes
// an element.
constexpr int64_t kGptqLargeElements = int64_t{1} << 26;

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

// Units of a large tile: of those that are not much smaller than the largest
// that may be, the one that leaves least of a device's own tiles of rows empty.
inline int64_t GptqLargeUnits(const GptqLayout& layout) {
  const int64_t unit = layout.unit_rows;
  const int64_t most = std::clamp<int64_t>(
      kGptqLargeElements / (unit * layout.cols), 1, layout.units());
  if (most == layout.units()) return most;
  const auto filled = [unit](int64_t units) {
    const int64_t tile = kGpuTiles.solve_rows;
    return static_cast<double>(units * unit) /
           static_cast<double>(CeilDiv(units * unit, tile) * tile);
  };
  int64_t best = most;
  for (int64_t units = most - 1; units > most / 2; --units) {
    if (filled(units) > filled(best)) best = units;
  }
  return best;
}

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
  layout.tile_rows = layout.unit_rows * (large ? GptqLargeUnits(layout) : 1);
  return layout;
}

}  // namespace qs

#endif  // QS_QUANT_GPTQ_LAYOUT_H_

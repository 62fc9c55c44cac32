// AwqCut: how AWQ cuts a tensor into units and tiles (large_tiles.h).
// Thread: pure functions.
#ifndef QS_QUANT_AWQ_CUT_H_
#define QS_QUANT_AWQ_CUT_H_

#include <algorithm>
#include <cstdint>

#include "kernels/base/checked_math.h"
#include "quant/formats/grid_writer.h"
#include "quant/large_tiles.h"
#include "quant/tensor_quantizer.h"

namespace qs {

struct AwqCut {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t unit_rows = 0;  // a multiple of kGridRowUnit
  int64_t tile_rows = 0;  // whole units

  int64_t most_rows() const { return std::min(tile_rows, rows); }  // of a tile
  int64_t units() const { return CeilDiv(rows, unit_rows); }
};

// `large`: QuantizeOptions::large_tiles.
inline AwqCut AwqCutOf(const TensorInfo& info, bool large) {
  const MatrixShape shape = AsMatrix(info.shape);
  const int64_t least = kGridRowUnit * shape.cols * DTypeBytes(info.dtype);
  AwqCut cut;
  cut.rows = shape.rows;
  cut.cols = shape.cols;
  cut.unit_rows = kGridRowUnit * std::max<int64_t>(1, kTileBytes / least);
  cut.tile_rows = large ? LargeTileRows(shape.rows, shape.cols, cut.unit_rows)
                        : cut.unit_rows;
  return cut;
}

}  // namespace qs

#endif  // QS_QUANT_AWQ_CUT_H_

// How many rows are solved at once for workers that prefer large operations
// (QuantizeOptions::large_tiles), by methods whose rows are independent.
//
// A unit of rows is what the report adds up by and what scales are searched by,
// the same for all workers; a large tile has many of them, so that results do
// not depend on tiles.
// Thread: pure functions.
#ifndef QS_QUANT_LARGE_TILES_H_
#define QS_QUANT_LARGE_TILES_H_

#include <algorithm>
#include <cstdint>

#include "kernels/base/checked_math.h"
#include "kernels/device_tiles.h"

namespace qs {

// Of a large tile: the columns are a chain of steps, in which a GPU does as
// many rows as there are in about the time of a few. 4096 x 16384 of them, or
// all rows of most linears; what that takes of a GPU's memory is about 16 bytes
// an element.
constexpr int64_t kLargeTileElements = int64_t{1} << 26;

// Rows of a large tile of a tensor [rows, cols], whole units: of those that are
// not much smaller than the largest that may be, the one that leaves least of a
// device's own tiles of rows empty. Above `rows` where the last unit is.
inline int64_t LargeTileRows(int64_t rows, int64_t cols, int64_t unit_rows) {
  const int64_t all = CeilDiv(rows, unit_rows);
  const int64_t most =
      std::clamp<int64_t>(kLargeTileElements / (unit_rows * cols), 1, all);
  if (most == all) return most * unit_rows;
  const auto filled = [unit_rows](int64_t units) {
    const int64_t tile = kGpuTiles.solve_rows;
    return static_cast<double>(units * unit_rows) /
           static_cast<double>(CeilDiv(units * unit_rows, tile) * tile);
  };
  int64_t best = most;
  for (int64_t units = most - 1; units > most / 2; --units) {
    if (filled(units) > filled(best)) best = units;
  }
  return best * unit_rows;
}

}  // namespace qs

#endif  // QS_QUANT_LARGE_TILES_H_

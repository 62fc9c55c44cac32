// How the operations of a device cut matrices into tiles: what they work by
// (kernels/cuda/tiles.h) and what their memory is estimated by
// (device_bytes.h).
#ifndef QS_KERNELS_DEVICE_TILES_H_
#define QS_KERNELS_DEVICE_TILES_H_

#include <cstdint>

namespace qs {

struct DeviceTiles {
  int64_t solve_rows;     // of GPTQ's tiles, the last one filled up
  int64_t gram_columns;   // of a product of second moments
  int64_t loss_elements;  // of AWQ's differences of a tile of rows
  int64_t clip_elements;  // of its clip search's candidates
  int64_t loss_columns;   // of a product of its losses
  int64_t loss_parts;     // partial sums of a loss
};
constexpr DeviceTiles kGpuTiles = {
    1024, 1024, int64_t{1} << 26, int64_t{1} << 26, 1024, 512};
// So that small matrices have several of each.
constexpr DeviceTiles kEmulatedTiles = {64, 48, 3000, 20000, 64, 3};

}  // namespace qs

#endif  // QS_KERNELS_DEVICE_TILES_H_

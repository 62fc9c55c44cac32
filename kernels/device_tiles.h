// How the operations of a device cut matrices into tiles: what they work by
// (kernels/cuda/tiles.h) and what their memory is estimated by
// (device_bytes.h).
#ifndef QS_KERNELS_DEVICE_TILES_H_
#define QS_KERNELS_DEVICE_TILES_H_

#include <algorithm>
#include <cstdint>

namespace qs {

struct DeviceTiles {
  int64_t solve_rows;      // of GPTQ's tiles, the last one filled up
  int64_t gram_columns;    // of a product of second moments
  int64_t loss_elements;   // of AWQ's differences of a tile of rows
  int64_t clip_rows;       // of a product of its clip search, filled up
  int64_t loss_columns;    // of a product of its losses
  int64_t loss_parts;      // partial sums of a loss
  int64_t factor_columns;  // of a block that a library factors
};
constexpr DeviceTiles kGpuTiles = {1024, 1024, int64_t{1} << 26, 128, 1024,
                                   512,  2048};
// So that small matrices have several of each.
constexpr DeviceTiles kEmulatedTiles = {64, 48, 3000, 16, 64, 3, 72};

// Bytes of scratch that a library may take for blocks of a factor [size, size].
// cuSOLVER 12.0.4 asks for 16 KiB for 2048 columns, and 160 bytes at least,
// where there is no device; another version, or one on a device, may for more.
constexpr int64_t MostFactorScratch(int64_t size, const DeviceTiles& tiles) {
  const int64_t columns = std::min(size, tiles.factor_columns);
  return 8 * columns * std::max<int64_t>(columns, 32);
}

}  // namespace qs

#endif  // QS_KERNELS_DEVICE_TILES_H_

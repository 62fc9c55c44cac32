// Tiles: what the threads of a block take at a time where a kernel does the
// same for all elements, each some chunks, kTileStride elements apart.
#ifndef QS_KERNELS_CUDA_NF4_TILES_H_
#define QS_KERNELS_CUDA_NF4_TILES_H_

#include <algorithm>
#include <cstdint>

#include "kernels/base/checked_math.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/nf4_device.h"

namespace qs::cuda {

// The emulation has small tiles, so that tests have many, and few blocks. A
// device is busy with thousands, and their beginning costs little.
#if defined(QS_CUDA_EMULATION)
constexpr int kTileThreads = 64;
constexpr int64_t kTileGrid = 3;
#else
constexpr int kTileThreads = kMaxBlockThreads;
constexpr int64_t kTileGrid = 2048;
#endif
constexpr int64_t kTileStride = int64_t{kTileThreads} * kChunk;

// Blocks for a kernel that loops over tiles of `tile` elements.
inline int64_t TileGrid(int64_t count, int64_t tile) {
  return std::min(CeilDiv(count, tile), kTileGrid);
}

// A warp holds 256 elements in chunks of 8.
constexpr int64_t kMaxTileBlock = 256;

// What LaunchNf4Encode (cuda_ops.h) does for such blocks without search; its
// checks are made. `first_non_finite` is lowered, not set. REQUIRES: elements.
int EncodeTiles(const Nf4EncodeArgs& args, cudaStream_t stream);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_NF4_TILES_H_

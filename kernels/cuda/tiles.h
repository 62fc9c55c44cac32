// The tiles of the device that is compiled for.
#ifndef QS_KERNELS_CUDA_TILES_H_
#define QS_KERNELS_CUDA_TILES_H_

#include "kernels/device_tiles.h"

namespace qs::cuda {

#if defined(QS_CUDA_EMULATION)
constexpr DeviceTiles kTiles = kEmulatedTiles;
#else
constexpr DeviceTiles kTiles = kGpuTiles;
#endif

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_TILES_H_

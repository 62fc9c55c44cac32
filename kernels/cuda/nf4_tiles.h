// What LaunchNf4Encode (cuda_ops.h) does for blocks up to kMaxTileBlock
// elements without search; its checks are made.
#ifndef QS_KERNELS_CUDA_NF4_TILES_H_
#define QS_KERNELS_CUDA_NF4_TILES_H_

#include "kernels/cuda/cuda_ops.h"

namespace qs::cuda {

// A warp holds 256 elements in chunks of 8.
constexpr int64_t kMaxTileBlock = 256;

// `first_non_finite` is lowered, not set. REQUIRES: elements.
int EncodeTiles(const Nf4EncodeArgs& args, cudaStream_t stream);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_NF4_TILES_H_

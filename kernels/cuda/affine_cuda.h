// The affine family on a CUDA device (or on the emulation, in tests).
#ifndef QS_KERNELS_CUDA_AFFINE_CUDA_H_
#define QS_KERNELS_CUDA_AFFINE_CUDA_H_

#include <memory>

#include "kernels/affine_ops.h"

namespace qs {

// Operations enqueue on the stream they are given and return at once. What
// Encode gives for a group with a NaN or an infinity is unspecified.
// Thread: the caller's current device is used; one thread per device.
std::unique_ptr<AffineOps> NewAffineCuda();

}  // namespace qs

#endif  // QS_KERNELS_CUDA_AFFINE_CUDA_H_

// The NF4 family on a CUDA device (or on the emulation, in tests).
#ifndef QS_KERNELS_CUDA_NF4_CUDA_H_
#define QS_KERNELS_CUDA_NF4_CUDA_H_

#include <memory>

#include "kernels/nf4_ops.h"

namespace qs {

// Operations enqueue on the stream they are given and return at once.
// Thread: the caller's current device is used; one thread per device.
std::unique_ptr<Nf4Ops> NewNf4Cuda();

}  // namespace qs

#endif  // QS_KERNELS_CUDA_NF4_CUDA_H_

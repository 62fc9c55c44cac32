// The HQQ family on a CUDA device (or on the emulation, in tests).
#ifndef QS_KERNELS_CUDA_HQQ_CUDA_H_
#define QS_KERNELS_CUDA_HQQ_CUDA_H_

#include <memory>

#include "kernels/cuda/scratch.h"
#include "kernels/hqq_ops.h"

namespace qs {

// Enqueues and returns at once, but for Encode with `facts`, which waits for
// them. Errors beside the interface's: those of `scratch`, which must outlive
// it.
// Thread: the caller's current device is used; one thread per device.
std::unique_ptr<HqqOps> NewHqqCuda(cuda::Scratch& scratch);

}  // namespace qs

#endif  // QS_KERNELS_CUDA_HQQ_CUDA_H_

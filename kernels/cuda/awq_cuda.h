// AwqOps on a CUDA device (or on the emulation, in tests).
#ifndef QS_KERNELS_CUDA_AWQ_CUDA_H_
#define QS_KERNELS_CUDA_AWQ_CUDA_H_

#include <memory>

#include "kernels/awq_ops.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/workspace.h"

namespace qs::cuda {

// Pointers of the arguments are device memory but those that awq_ops.h keeps on
// the host. Statistics and ScaleLosses wait for their results. Losses go
// through products of values rounded to TF32 (2^-12 each, at random), clip
// errors through F32. Scratch is the workspace's and the caller's to give back.
// Both must outlive it. Thread: of the workspace.
std::unique_ptr<AwqOps> NewAwqCuda(Workspace& workspace, Blas& blas);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_AWQ_CUDA_H_

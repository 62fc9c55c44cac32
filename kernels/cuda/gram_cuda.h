// GramOps on a CUDA device (or on the emulation, in tests).
#ifndef QS_KERNELS_CUDA_GRAM_CUDA_H_
#define QS_KERNELS_CUDA_GRAM_CUDA_H_

#include <memory>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/workspace.h"
#include "kernels/gram_ops.h"

namespace qs::cuda {

// All pointers of the arguments are device memory, `first_non_finite` too: with
// one, nothing is added, and nobody waits to find out. Scratch is the
// workspace's and the caller's to give back. Both must outlive it.
// Thread: of the workspace.
std::unique_ptr<GramOps> NewGramCuda(Workspace& workspace, Blas& blas);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_GRAM_CUDA_H_

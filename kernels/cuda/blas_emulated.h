// Blas and Cholesky on the emulated device, for tests: plain loops, every
// matrix checked against the allocation that it lies in.
#ifndef QS_KERNELS_CUDA_BLAS_EMULATED_H_
#define QS_KERNELS_CUDA_BLAS_EMULATED_H_

#include <memory>

#include "kernels/cuda/blas.h"

namespace qs::cuda {

// With a Cholesky factorisation.
std::unique_ptr<Blas> NewEmulatedBlas();
// Without: as where there is cuBLAS and no cuSOLVER.
std::unique_ptr<Blas> NewEmulatedBlasAlone();
// `scratch_bytes`: that it wants, whatever the shape; -1: as many as the block
// has.
std::unique_ptr<Cholesky> NewEmulatedCholesky(int64_t scratch_bytes = -1);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_BLAS_EMULATED_H_

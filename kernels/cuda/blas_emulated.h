// Blas on the emulated device, for tests: plain loops, every matrix checked
// against the allocation that it lies in.
#ifndef QS_KERNELS_CUDA_BLAS_EMULATED_H_
#define QS_KERNELS_CUDA_BLAS_EMULATED_H_

#include <memory>

#include "kernels/cuda/blas.h"

namespace qs::cuda {

std::unique_ptr<Blas> NewEmulatedBlas();

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_BLAS_EMULATED_H_

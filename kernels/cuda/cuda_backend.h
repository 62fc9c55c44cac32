// CudaBackend: a Backend on one device, for host memory. Every operation copies
// what it needs in and its results out (staged_ops.h); the host's backend does
// what the device cannot.
#ifndef QS_KERNELS_CUDA_CUDA_BACKEND_H_
#define QS_KERNELS_CUDA_CUDA_BACKEND_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.h"

namespace qs::cuda {

// `memory_cap`: bytes of device memory that it takes at most. Without `blas`
// the host does second moments, GPTQ and AWQ; the description says why. Errors:
// as Device. Thread: the backend belongs to one thread at a time, but for
// health and memory.
absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(
    std::shared_ptr<Device> device, absl::StatusOr<std::unique_ptr<Blas>> blas,
    std::unique_ptr<Backend> host, int64_t memory_cap);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_CUDA_BACKEND_H_

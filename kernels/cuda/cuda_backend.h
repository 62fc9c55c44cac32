// CudaBackend: a Backend on one device, for host memory. Every operation copies
// what it needs in and its results out (staged_ops.h); the host's backend does
// what the device cannot.
#ifndef QS_KERNELS_CUDA_CUDA_BACKEND_H_
#define QS_KERNELS_CUDA_CUDA_BACKEND_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.h"

namespace qs::cuda {

// A library for one lane: a thread of its own uses it.
using BlasSource = std::function<absl::StatusOr<std::unique_ptr<Blas>>()>;

// `memory_cap`: bytes of device memory that all its lanes together take at
// most. Without a library the host does second moments, GPTQ and AWQ; the
// description says why. Has `lanes` lanes, or fewer where there is no pinned
// memory or no library for another. `host` must hold no mutable state.
// Errors: as Device; FAILED_PRECONDITION — an older device than the kernels are
// compiled for. Thread: each lane belongs to one thread at a time, but for
// health and memory.
absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(
    std::shared_ptr<Device> device, const BlasSource& new_blas,
    std::unique_ptr<Backend> host, int64_t memory_cap, int lanes);

// With one lane.
absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(
    std::shared_ptr<Device> device, absl::StatusOr<std::unique_ptr<Blas>> blas,
    std::unique_ptr<Backend> host, int64_t memory_cap);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_CUDA_BACKEND_H_

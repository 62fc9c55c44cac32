// The CUDA runtime's devices. Only in builds with nvcc.
#ifndef QS_KERNELS_CUDA_RUNTIME_DEVICE_H_
#define QS_KERNELS_CUDA_RUNTIME_DEVICE_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"

namespace qs::cuda {

// Not empty. Errors: UNAVAILABLE — why there is no device: no driver, one that
// is too old for this build, none visible.
absl::StatusOr<std::vector<DeviceFacts>> ListRuntimeDevices();

// Threads of the process that wait for the device sleep from now on: a GPU has
// several lanes, each a thread that waits most of its time, and would by
// default keep a core busy meanwhile, which other workers and the host's part
// of the work want. A wait takes some microseconds longer for it.
//
// QS_CUDA_SYNC=1 in the environment makes it wait after every launch, so that a
// kernel's error shows at that kernel. Errors: as List; INTERNAL.
absl::StatusOr<std::shared_ptr<Device>> OpenRuntimeDevice(
    const DeviceFacts& facts);

// Of the CUDA runtime in this build: 13.
int RuntimeMajor();

// Bytes that are free on the device now. Errors: as Device.
absl::StatusOr<int64_t> FreeMemoryBytes(const DeviceFacts& facts);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_RUNTIME_DEVICE_H_

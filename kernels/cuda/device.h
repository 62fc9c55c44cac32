// Device: the few calls of a GPU's runtime that a worker needs, so that
// everything above them also runs on the emulation with injected faults.
//
// Errors of all: RESOURCE_EXHAUSTED — no memory for it, the device goes on;
// INTERNAL — the device is lost: this call and every later one says so, and
// only another process may get it back (CUDA calls such an error sticky).
// Thread: thread-safe.
#ifndef QS_KERNELS_CUDA_DEVICE_H_
#define QS_KERNELS_CUDA_DEVICE_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_ops.h"

typedef struct CUevent_st* cudaEvent_t;

namespace qs::cuda {

struct DeviceFacts {
  int index = 0;
  std::string name;          // "NVIDIA H200"
  int compute_major = 0;     // 9
  int compute_minor = 0;     // 0
  int64_t memory_bytes = 0;  // all of it
  int multiprocessors = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceFacts& facts() const = 0;

  // Device memory, aligned to 256 bytes; indeterminate. `bytes` > 0.
  virtual absl::StatusOr<void*> Allocate(int64_t bytes) = 0;
  virtual void Free(void* memory) = 0;
  // Host memory that copies read and write without a detour.
  virtual absl::StatusOr<void*> AllocatePinned(int64_t bytes) = 0;
  virtual void FreePinned(void* memory) = 0;

  virtual absl::StatusOr<cudaStream_t> NewStream() = 0;
  virtual void DestroyStream(cudaStream_t stream) = 0;
  virtual absl::StatusOr<cudaEvent_t> NewEvent() = 0;
  virtual void DestroyEvent(cudaEvent_t event) = 0;

  // Enqueued; the pinned memory is in use until the stream is past it.
  virtual absl::Status CopyIn(void* device, const void* pinned, int64_t bytes,
                              cudaStream_t stream) = 0;
  virtual absl::Status CopyOut(void* pinned, const void* device, int64_t bytes,
                               cudaStream_t stream) = 0;
  virtual absl::Status Record(cudaEvent_t event, cudaStream_t stream) = 0;
  // Wait, on the host, until the stream was past the event's last Record (at
  // once if there was none), or is past everything.
  virtual absl::Status Wait(cudaEvent_t event) = 0;
  virtual absl::Status Synchronize(cudaStream_t stream) = 0;

  // Calls `enqueue` on this thread with the device current: what launches
  // kernels. Returns its status.
  virtual absl::Status Launch(absl::FunctionRef<absl::Status()> enqueue) = 0;
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_DEVICE_H_

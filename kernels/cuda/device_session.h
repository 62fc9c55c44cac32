// DeviceSession: a worker's device for as long as it computes, and the choice
// of who does an operation: the device, or the host when the device has no
// memory for it (this once) or is lost (from then on).
// Thread: one thread at a time, but for health, ledger and host_calls.
#ifndef QS_KERNELS_CUDA_DEVICE_SESSION_H_
#define QS_KERNELS_CUDA_DEVICE_SESSION_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/cuda/staged_call.h"
#include "kernels/cuda/workspace.h"

namespace qs::cuda {

class DeviceSession {
 public:
  // `memory_cap`: bytes of the device that it takes at most.
  // Errors: as Device.
  static absl::StatusOr<std::unique_ptr<DeviceSession>> Create(
      std::shared_ptr<Device> device, int64_t memory_cap);

  // Errors: of the one that did it. INVALID_ARGUMENT or what a checkpoint
  // returned ends the operation on the device, too.
  absl::Status Do(absl::FunctionRef<absl::Status(StagedCall&)> on_device,
                  absl::FunctionRef<absl::Status()> on_host);

  // INTERNAL once the device is lost: why.
  absl::Status health() const;
  Device& device() { return *device_; }
  const MemoryLedger& ledger() const { return ledger_; }
  // For operations that take scratch of their own while they run.
  Workspace& workspace() { return *workspace_; }
  // Operations that the host did.
  int64_t host_calls() const { return host_calls_; }

 private:
  DeviceSession(std::shared_ptr<Device> device, int64_t memory_cap)
      : device_(std::move(device)), ledger_(memory_cap) {}

  const std::shared_ptr<Device> device_;
  MemoryLedger ledger_;
  std::unique_ptr<Workspace> workspace_;
  std::atomic<int64_t> host_calls_ = 0;
  mutable absl::Mutex mutex_;
  absl::Status health_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_DEVICE_SESSION_H_

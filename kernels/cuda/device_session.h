// DeviceSession: one lane's device for as long as it computes, and the choice
// of who does an operation: the device, or the host when the device has no
// memory for it or its library fails (this once) or is lost (from then on).
// SharedDevice: what the lanes of one device have together.
//
// An operation that finds no memory is tried again, alone: once no other lane's
// operation runs, all of them give back the memory that they keep between
// operations, and the whole cap is there for this one. Only then the host does
// it.
#ifndef QS_KERNELS_CUDA_DEVICE_SESSION_H_
#define QS_KERNELS_CUDA_DEVICE_SESSION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/cuda/staged_call.h"
#include "kernels/cuda/workspace.h"
#include "kernels/device_bytes.h"

namespace qs::cuda {

// Thread: thread-safe.
class SharedDevice {
 public:
  // `memory_cap`: bytes of the device that all lanes together take at most.
  SharedDevice(std::shared_ptr<Device> device, int64_t memory_cap)
      : device_(std::move(device)), ledger_(memory_cap) {}

  Device& device() { return *device_; }
  MemoryLedger& ledger() { return ledger_; }
  // INTERNAL once the device is lost: why.
  absl::Status health() const;
  // Operations that the host did, and why the last of them.
  int64_t host_calls() const { return host_calls_; }
  std::string host_reason() const;

 private:
  friend class DeviceSession;

  void Add(Workspace* workspace);
  void Remove(Workspace* workspace);
  void Lose(const absl::Status& why);
  void LeaveToHost(const absl::Status& why);
  void TrimAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(calls_);

  const std::shared_ptr<Device> device_;
  MemoryLedger ledger_;
  std::atomic<int64_t> host_calls_ = 0;
  // A library failed at an operation that was alone: it was not memory.
  std::atomic<bool> library_fails_ = false;
  // Read while an operation runs on the device; written to be alone.
  absl::Mutex calls_;
  std::vector<Workspace*> workspaces_ ABSL_GUARDED_BY(calls_);
  mutable absl::Mutex mutex_;
  absl::Status health_ ABSL_GUARDED_BY(mutex_);
  std::string host_reason_ ABSL_GUARDED_BY(mutex_);
};

// Thread: one thread at a time, but for health, ledger, host_calls and
// host_reason.
class DeviceSession {
 public:
  // Errors: as Device.
  static absl::StatusOr<std::unique_ptr<DeviceSession>> Create(
      std::shared_ptr<SharedDevice> device);
  // On a device of its own.
  static absl::StatusOr<std::unique_ptr<DeviceSession>> Create(
      std::shared_ptr<Device> device, int64_t memory_cap);
  ~DeviceSession();
  DeviceSession(const DeviceSession&) = delete;
  DeviceSession& operator=(const DeviceSession&) = delete;

  // `need`: what the operation takes at most; where there is room for all of it
  // it is taken at once. Errors: of the one that did it. INVALID_ARGUMENT or
  // what a checkpoint returned ends the operation on the device, too.
  // `on_device` may be called twice; the first time ended before it wrote a
  // result.
  absl::Status Do(const DeviceBytes& need,
                  absl::FunctionRef<absl::Status(StagedCall&)> on_device,
                  absl::FunctionRef<absl::Status()> on_host);

  // Of all lanes.
  absl::Status health() const { return shared_->health(); }
  const MemoryLedger& ledger() const { return shared_->ledger(); }
  int64_t host_calls() const { return shared_->host_calls(); }
  std::string host_reason() const { return shared_->host_reason(); }
  Device& device() { return shared_->device(); }
  const Device& device() const { return shared_->device(); }
  // For operations that take scratch of their own while they run.
  Workspace& workspace() { return *workspace_; }

 private:
  explicit DeviceSession(std::shared_ptr<SharedDevice> shared)
      : shared_(std::move(shared)) {}
  absl::Status OnDevice(const DeviceBytes& need,
                        absl::FunctionRef<absl::Status(StagedCall&)> on_device);

  const std::shared_ptr<SharedDevice> shared_;
  std::unique_ptr<Workspace> workspace_;
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_DEVICE_SESSION_H_

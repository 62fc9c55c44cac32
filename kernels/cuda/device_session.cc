// Tested by tests/kernels/cuda_session_test.cc.
#include "kernels/cuda/device_session.h"

#include <utility>

#include "kernels/base/status_macros.h"

namespace qs::cuda {

absl::StatusOr<std::unique_ptr<DeviceSession>> DeviceSession::Create(
    std::shared_ptr<Device> device, int64_t memory_cap) {
  std::unique_ptr<DeviceSession> session(
      new DeviceSession(std::move(device), memory_cap));
  QS_ASSIGN_OR_RETURN(session->workspace_,
                      Workspace::Create(*session->device_, session->ledger_));
  return session;
}

absl::Status DeviceSession::Do(
    absl::FunctionRef<absl::Status(StagedCall&)> on_device,
    absl::FunctionRef<absl::Status()> on_host) {
  if (health().ok()) {
    absl::Status status;
    {
      StagedCall call(*workspace_);
      status = on_device(call);
    }
    if (absl::IsInternal(status)) {
      absl::MutexLock lock(&mutex_);
      health_ = status;
    } else if (absl::IsResourceExhausted(status)) {
      workspace_->Trim();
    } else {
      return status;
    }
  }
  ++host_calls_;
  return on_host();
}

absl::Status DeviceSession::health() const {
  absl::MutexLock lock(&mutex_);
  return health_;
}

}  // namespace qs::cuda

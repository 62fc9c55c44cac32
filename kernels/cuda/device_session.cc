// Tested by tests/kernels/cuda_session_test.cc.
#include "kernels/cuda/device_session.h"

#include <algorithm>
#include <utility>

#include "kernels/base/status_macros.h"

namespace qs::cuda {
namespace {

// UNAVAILABLE: a library's, for whatever reason (SolverCall).
bool MayLackMemory(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsUnavailable(status);
}

}  // namespace

absl::Status SharedDevice::health() const {
  absl::MutexLock lock(&mutex_);
  return health_;
}

void SharedDevice::Lose(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  if (health_.ok()) health_ = why;
}

std::string SharedDevice::host_reason() const {
  absl::MutexLock lock(&mutex_);
  return host_reason_;
}

void SharedDevice::LeaveToHost(const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    host_reason_ = std::string(why.message());
  }
  ++host_calls_;
}

void SharedDevice::Add(Workspace* workspace) {
  absl::WriterMutexLock lock(&calls_);
  workspaces_.push_back(workspace);
}

void SharedDevice::Remove(Workspace* workspace) {
  absl::WriterMutexLock lock(&calls_);
  std::erase(workspaces_, workspace);
}

void SharedDevice::TrimAll() {
  for (Workspace* workspace : workspaces_) workspace->Trim();
}

absl::StatusOr<std::unique_ptr<DeviceSession>> DeviceSession::Create(
    std::shared_ptr<SharedDevice> device) {
  std::unique_ptr<DeviceSession> session(new DeviceSession(std::move(device)));
  SharedDevice& shared = *session->shared_;
  QS_ASSIGN_OR_RETURN(session->workspace_,
                      Workspace::Create(shared.device(), shared.ledger()));
  shared.Add(session->workspace_.get());
  return session;
}

absl::StatusOr<std::unique_ptr<DeviceSession>> DeviceSession::Create(
    std::shared_ptr<Device> device, int64_t memory_cap) {
  return Create(std::make_shared<SharedDevice>(std::move(device), memory_cap));
}

DeviceSession::~DeviceSession() {
  if (workspace_ != nullptr) shared_->Remove(workspace_.get());
}

absl::Status DeviceSession::OnDevice(
    const DeviceBytes& need,
    absl::FunctionRef<absl::Status(StagedCall&)> on_device) {
  const auto call = [&] {
    workspace_->Expect(need.taken);
    StagedCall staged(*workspace_);
    return on_device(staged);
  };
  {
    absl::ReaderMutexLock lock(&shared_->calls_);
    const absl::Status status = call();
    if (!MayLackMemory(status)) return status;
    if (absl::IsUnavailable(status) && shared_->library_fails_) return status;
  }
  absl::WriterMutexLock lock(&shared_->calls_);
  shared_->TrimAll();
  const absl::Status status = call();
  if (absl::IsUnavailable(status)) shared_->library_fails_ = true;
  if (MayLackMemory(status)) shared_->TrimAll();
  return status;
}

absl::Status DeviceSession::Do(
    const DeviceBytes& need,
    absl::FunctionRef<absl::Status(StagedCall&)> on_device,
    absl::FunctionRef<absl::Status()> on_host) {
  absl::Status status = health();
  if (status.ok()) {
    status = OnDevice(need, on_device);
    if (absl::IsInternal(status)) {
      shared_->Lose(status);
    } else if (!MayLackMemory(status)) {
      return status;
    }
  }
  shared_->LeaveToHost(status);
  return on_host();
}

}  // namespace qs::cuda

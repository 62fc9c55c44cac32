// Tested by tests/kernels/cuda_session_test.cc.
#include "kernels/cuda/staged_call.h"

#include <cstring>
#include <utility>

#include "kernels/base/status_macros.h"

namespace qs::cuda {

void* StagedCall::Take(int64_t bytes) {
  absl::StatusOr<void*> memory = workspace_.Take(bytes);
  if (!memory.ok()) {
    status_.Update(memory.status());
    return nullptr;
  }
  return *memory;
}

const void* StagedCall::InBytes(const void* host, int64_t bytes) {
  if (host == nullptr || !status_.ok()) return nullptr;
  void* const device = Take(bytes);
  if (device != nullptr) status_.Update(workspace_.CopyIn(device, host, bytes));
  return device;
}

const void* StagedCall::InBytes(const void* host, int64_t bytes, uint64_t id) {
  if (id == 0) return InBytes(host, bytes);
  if (host == nullptr || !status_.ok()) return nullptr;
  absl::StatusOr<const void*> copy = workspace_.Resident(id, host, bytes);
  status_.Update(copy.status());
  return copy.ok() ? *copy : nullptr;
}

TensorView StagedCall::InRows(std::span<const TensorView> pieces) {
  TensorView all = pieces.front();
  all.rows = 0;
  for (const TensorView& piece : pieces) all.rows += piece.rows;
  if (!status_.ok()) return all;
  auto* to = static_cast<uint8_t*>(Take(all.num_bytes()));
  all.data = to;
  for (const TensorView& piece : pieces) {
    if (!status_.ok()) break;
    status_.Update(workspace_.CopyIn(to, piece.data, piece.num_bytes()));
    to += piece.num_bytes();
  }
  return all;
}

void* StagedCall::OutBytes(void* host, int64_t bytes) {
  if (host == nullptr || !status_.ok()) return nullptr;
  void* const device = Take(bytes);
  results_.push_back({host, device, bytes, Buffer()});
  return device;
}

void* StagedCall::InOutBytes(void* host, int64_t bytes) {
  void* const device = OutBytes(host, bytes);
  if (device == nullptr) return nullptr;
  absl::StatusOr<Buffer> kept = Buffer::Allocate(bytes);
  status_.Update(kept.status());
  if (!status_.ok()) return nullptr;
  results_.back().kept = *std::move(kept);
  status_.Update(workspace_.CopyIn(device, host, bytes));
  return device;
}

absl::Status StagedCall::CopyResults() {
  for (Result& result : results_) {
    void* const to = result.kept.size() > 0 ? result.kept.data() : result.host;
    QS_RETURN_IF_ERROR(workspace_.CopyOut(to, result.device, result.bytes));
  }
  for (const Result& result : results_) {
    if (result.kept.size() == 0) continue;
    std::memcpy(result.host, result.kept.data(),
                static_cast<size_t>(result.bytes));
  }
  return absl::OkStatus();
}

absl::Status StagedCall::Run(
    absl::FunctionRef<absl::Status(Stream&)> operation) {
  return RunSteps([&](Stream& stream) {
    return workspace_.device().Launch([&] { return operation(stream); });
  });
}

absl::Status StagedCall::RunSteps(
    absl::FunctionRef<absl::Status(Stream&)> operation) {
  QS_RETURN_IF_ERROR(status_);
  QS_RETURN_IF_ERROR(operation(workspace_.stream()));
  // An error of the kernels shows here, before anything is written.
  QS_RETURN_IF_ERROR(workspace_.Synchronize());
  return CopyResults();
}

}  // namespace qs::cuda

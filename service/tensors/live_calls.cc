// Tested by tests/service/tensors/tensor_service_test.cc.
#include "service/tensors/live_calls.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "service/server/error.h"

namespace qs {

absl::Status LiveCalls::Admit(const std::shared_ptr<LiveCall>& call) {
  absl::MutexLock lock(&mutex_);
  if (draining_) return DrainingError();
  const auto live = static_cast<int64_t>(calls_.size());
  if (live >= most_) {
    return RetryableError(
        absl::StatusCode::kResourceExhausted, "TOO_MANY_STREAMS",
        absl::StrCat("streams: got ", live + 1, ", allowed ", most_),
        {{"allowed", absl::StrCat(most_)}});
  }
  calls_.emplace(call.get(), call);
  return absl::OkStatus();
}

void LiveCalls::Remove(const LiveCall* call) {
  absl::MutexLock lock(&mutex_);
  calls_.erase(call);
}

int64_t LiveCalls::live() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(calls_.size());
}

void LiveCalls::StartDraining() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
}

bool LiveCalls::draining() const {
  absl::MutexLock lock(&mutex_);
  return draining_;
}

std::vector<std::shared_ptr<LiveCall>> LiveCalls::Calls() const {
  std::vector<std::shared_ptr<LiveCall>> calls;
  absl::MutexLock lock(&mutex_);
  for (const auto& [unused, weak] : calls_) {
    if (auto call = weak.lock()) calls.push_back(std::move(call));
  }
  return calls;
}

void LiveCalls::EndAll() {
  for (const auto& call : Calls()) call->End(DrainingError());
}

void LiveCalls::EndStalled(absl::Time now) {
  for (const auto& call : Calls()) {
    if (now - call->waiting_since() < idle_timeout_) continue;
    call->End(RetryableError(
        absl::StatusCode::kDeadlineExceeded, "STREAM_STALLED",
        absl::StrCat("stream: got nothing from the client for ",
                     absl::ToInt64Seconds(idle_timeout_), " s")));
  }
}

}  // namespace qs

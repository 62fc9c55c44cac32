// Tested by tests/service/quantize_stream_test.cc.
#include "service/stream/quantize_context.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/server/error.h"
#include "service/stream/quantize_session.h"

namespace qs {

QuantizeContext::QuantizeContext(QuantizeContextOptions options)
    : options_(std::move(options)),
      budget_(options_.limits.memory_budget_bytes()),
      poller_rest_(options_.most_pollers_that_rest),
      pool_(std::make_unique<WorkerPool>(options_.make_backends(),
                                         options_.on_lost)),
      sweeper_([this] { SweepUntilStopped(); }) {}

QuantizeContext::~QuantizeContext() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  sweeper_.join();
  // Its tasks may hold the last reference to a session, which needs the rest.
  pool_.reset();
}

absl::Status QuantizeContext::Admit(
    const std::shared_ptr<QuantizeSession>& session) {
  if (draining_) {
    return DrainingError();
  }
  absl::MutexLock lock(&mutex_);
  const int64_t allowed = limits().max_streams();
  if (static_cast<int64_t>(sessions_.size()) >= allowed) {
    return RetryableError(absl::StatusCode::kResourceExhausted,
                          "TOO_MANY_STREAMS",
                          absl::StrCat("streams: got ", sessions_.size() + 1,
                                       ", allowed ", allowed),
                          {{"allowed", absl::StrCat(allowed)}});
  }
  sessions_.emplace(session.get(), session);
  return absl::OkStatus();
}

void QuantizeContext::Remove(const QuantizeSession* session) {
  absl::MutexLock lock(&mutex_);
  sessions_.erase(session);
}

int64_t QuantizeContext::live_streams() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(sessions_.size());
}

std::vector<std::shared_ptr<QuantizeSession>> QuantizeContext::Sessions()
    const {
  std::vector<std::shared_ptr<QuantizeSession>> sessions;
  absl::MutexLock lock(&mutex_);
  for (const auto& [unused, weak] : sessions_) {
    if (auto session = weak.lock()) sessions.push_back(std::move(session));
  }
  return sessions;
}

void QuantizeContext::EndAll() {
  for (const auto& session : Sessions()) session->End(DrainingError());
}

void QuantizeContext::CancelAll() {
  for (const auto& session : Sessions()) {
    session->Abort(DrainingError());
  }
}

void QuantizeContext::SweepUntilStopped() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&stopping_),
                              options_.sweep_interval);
      if (stopping_) return;
    }
    const auto now = std::chrono::steady_clock::now();
    for (const auto& session : Sessions()) session->EndIfStalled(now);
  }
}

}  // namespace qs

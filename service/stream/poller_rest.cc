// Tested by tests/service/poller_rest_test.cc.
#include "service/stream/poller_rest.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace qs {

int PollerRest::MostThatRest(int cpus, int all_cpus) {
  return cpus > 2 ? 0 : std::clamp(all_cpus / 2, 2, 16) - 1;
}

void PollerRest::StreamBegins(const void* stream) {
  absl::MutexLock lock(&mutex_);
  streams_.insert(stream);
  ++changes_;
}

void PollerRest::StreamEnds(const void* stream) {
  absl::MutexLock lock(&mutex_);
  if (streams_.erase(stream) > 0) ++changes_;
}

bool PollerRest::MayRest(const void* stream) const {
  return resting_ < most_ && streams_.size() == 1 &&
         *streams_.begin() == stream && absl::Now() >= not_before_;
}

void PollerRest::Rest(const void* stream) {
  absl::MutexLock lock(&mutex_);
  if (!MayRest(stream)) return;
  ++resting_;
  ++rests_;
  uint64_t seen = events_.load(std::memory_order_relaxed);
  const auto changed =
      [this, changes = changes_]()
          ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return changes_ != changes; };
  bool alone = true;  // no other thread took an event
  while (!mutex_.AwaitWithTimeout(absl::Condition(&changed), slice_)) {
    const uint64_t now = events_.load(std::memory_order_relaxed);
    if (now == seen) {
      if (alone) not_before_ = absl::Now() + pause_;
      break;
    }
    seen = now;
    alone = false;
  }
  --resting_;
}

int PollerRest::resting() const {
  absl::MutexLock lock(&mutex_);
  return resting_;
}

int64_t PollerRest::rests() const {
  absl::MutexLock lock(&mutex_);
  return rests_;
}

}  // namespace qs

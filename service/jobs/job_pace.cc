// Tested by tests/service/jobs/job_pace_test.cc.
#include "service/jobs/job_pace.h"

#include <algorithm>

namespace qs {
namespace {

// Opening, planning and publishing, that every run has.
constexpr absl::Duration kFixed = absl::Milliseconds(50);
// What one run may say about the next: more is an accident.
constexpr double kMaxFactor = 1000;

}  // namespace

absl::Duration JobPace::Estimate(const RunSize& size) const {
  absl::MutexLock lock(&mutex_);
  const auto found = factors_.find(size.algorithm);
  const double factor = found == factors_.end() ? 1 : found->second;
  return kFixed + absl::Seconds(size.core_seconds * factor / cores_);
}

void JobPace::Learn(const RunSize& size, absl::Duration took) {
  if (size.core_seconds <= 0) return;
  const double seconds =
      std::max(0.0, absl::ToDoubleSeconds(took - kFixed)) * cores_;
  const double factor =
      std::clamp(seconds / size.core_seconds, 1 / kMaxFactor, kMaxFactor);
  absl::MutexLock lock(&mutex_);
  const auto [entry, first] = factors_.emplace(size.algorithm, factor);
  if (!first) entry->second = (entry->second + factor) / 2;
}

}  // namespace qs

// Tested by tests/quant/phase_times_test.cc.
#include "quant/phase_times.h"

#include <numeric>

namespace qs {

double PhaseTimes::Total() const {
  return std::accumulate(seconds.begin(), seconds.end(), 0.0);
}

void PhaseTimes::Add(const PhaseTimes& other) {
  for (size_t i = 0; i < kPhases; ++i) seconds[i] += other.seconds[i];
}

void PhaseClock::Enter(Phase phase) {
  const Clock::time_point now = Clock::now();
  Close(now);
  phase_ = phase;
  since_ = now;
  running_ = true;
}

void PhaseClock::Stop() {
  Close(Clock::now());
  running_ = false;
}

void PhaseClock::Close(Clock::time_point now) {
  if (!running_) return;
  times_[phase_] += std::chrono::duration<double>(now - since_).count();
}

}  // namespace qs

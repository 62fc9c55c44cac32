// Where the time of a tensor's tasks goes: seconds by phase, and the clock that
// tells them apart.
//
// The phases of one clock do not overlap and leave nothing out: from the first
// Enter to Stop every moment is in one. A clock is read when the phase changes
// (about 30 ns), which is for a slice of 64 Ki weights at the most often.
//
// An operation belongs to the phase that asked for it. Those of a GPU return
// when they are done, so what they copy counts there, too.
#ifndef QS_QUANT_PHASE_TIMES_H_
#define QS_QUANT_PHASE_TIMES_H_

#include <array>
#include <chrono>
#include <cstddef>

namespace qs {

// What a method does not have stays at 0.
enum class Phase {
  kWait,     // for second moments, or for a factor that another tensor makes
  kPrepare,  // copies to compute from: gathered, scaled; scratch memory
  kFactor,   // of second moments, a site's for all its readers
  kSearch,   // for the scales of a site's inputs, and for clip limits (awq)
  kEncode,   // scales and codes
  kRefine,   // better ones: other starts, descent, codes once more
  kPack,     // codes into the words of the format
  kVerify,   // unpacked again and compared
  kReport,   // what was lost, and round to nearest beside it
};
constexpr size_t kPhases = 9;

struct PhaseTimes {
  std::array<double, kPhases> seconds{};

  double& operator[](Phase phase) {
    return seconds[static_cast<size_t>(phase)];
  }
  double operator[](Phase phase) const {
    return seconds[static_cast<size_t>(phase)];
  }
  double Total() const;
  void Add(const PhaseTimes& other);
};

// Thread: thread-compatible. One thread's tasks, one after the other.
class PhaseClock {
 public:
  // From here on it is `phase`, until the next Enter or Stop.
  void Enter(Phase phase);
  void Stop();
  // Of what is over: the phase that runs is not in it.
  const PhaseTimes& times() const { return times_; }

 private:
  using Clock = std::chrono::steady_clock;
  void Close(Clock::time_point now);

  PhaseTimes times_;
  Clock::time_point since_;
  Phase phase_ = Phase::kPrepare;
  bool running_ = false;
};

// For who may have no clock.
inline void Enter(PhaseClock* clock, Phase phase) {
  if (clock != nullptr) clock->Enter(phase);
}

}  // namespace qs

#endif  // QS_QUANT_PHASE_TIMES_H_

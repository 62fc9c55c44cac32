#include "service/base/end_signals.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>

#include "absl/time/clock.h"

namespace qs {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

std::atomic<int> write_end = -1;
static_assert(std::atomic<int>::is_always_lock_free);

// Async-signal-safe. A full pipe loses the signal: thousands wait before it.
extern "C" void WriteToPipe(int signal) {
  const int saved = errno;
  const uint8_t byte = static_cast<uint8_t>(signal);
  [[maybe_unused]] const ssize_t written =
      ::write(write_end.load(std::memory_order_relaxed), &byte, 1);
  errno = saved;
}

}  // namespace

EndSignals::EndSignals() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
    std::perror("pipe2");  // no descriptor is left before anything began
    std::abort();
  }
  read_end_ = ends[0];
  write_end = ends[1];
  struct sigaction action = {};
  action.sa_handler = WriteToPipe;
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    sigaction(kSignals[i], &action, &before_[i]);
    const bool nohup =
        kSignals[i] == SIGHUP && before_[i].sa_handler == SIG_IGN;
    if (nohup) sigaction(kSignals[i], &before_[i], nullptr);
  }
}

EndSignals::~EndSignals() {
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    sigaction(kSignals[i], &before_[i], nullptr);
  }
  ::close(write_end.exchange(-1));
  ::close(read_end_);
}

std::optional<int> EndSignals::Wait(absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  while (true) {
    const absl::Duration left =
        std::max(end - absl::Now(), absl::ZeroDuration());
    const timespec rest = absl::ToTimespec(std::min(left, absl::Hours(1)));
    pollfd readable = {.fd = read_end_, .events = POLLIN, .revents = 0};
    if (::ppoll(&readable, 1, &rest, nullptr) > 0) {
      uint8_t signal = 0;
      if (::read(read_end_, &signal, 1) == 1) return signal;
    }
    if (left == absl::ZeroDuration()) return std::nullopt;
  }
}

}  // namespace qs

// Tested by tests/e2e/quantctl_test.py.
#include "service/cli/signal_watcher.h"

#include <ctime>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "service/cli/exit_code.h"

namespace qs::cli {
namespace {

absl::Status EndedBy(int signal) {
  const bool interrupt = signal == SIGINT;
  return WithExitCode(
      absl::CancelledError(
          absl::StrCat("ended by ", interrupt ? "SIGINT" : "a signal")),
      interrupt ? ExitCode::kInterrupted : ExitCode::kTerminated);
}

}  // namespace

SignalWatcher::SignalWatcher(RunControl& control) {
  sigemptyset(&signals_);
  sigaddset(&signals_, SIGINT);
  sigaddset(&signals_, SIGTERM);
  sigaddset(&signals_, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals_, &previous_);
  // Progress to a closed pipe must not end the process either.
  std::signal(SIGPIPE, SIG_IGN);
  thread_ = std::jthread([this, &control](std::stop_token stop) {
    while (!stop.stop_requested()) {
      const timespec tick = {.tv_sec = 0, .tv_nsec = 50'000'000};
      const int signal = sigtimedwait(&signals_, nullptr, &tick);
      if (signal > 0) control.Fail(EndedBy(signal));
    }
  });
}

SignalWatcher::~SignalWatcher() {
  thread_.request_stop();
  thread_.join();
  pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
}

}  // namespace qs::cli

// Tested by tests/e2e/quantctl_test.py.
#include "service/cli/signal_watcher.h"

#include <csignal>
#include <optional>
#include <stop_token>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "service/cli/exit_code.h"

namespace qs::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);

absl::Status EndedBy(int signal) {
  const bool interrupt = signal == SIGINT;
  return WithExitCode(
      absl::CancelledError(
          absl::StrCat("ended by ", interrupt ? "SIGINT" : "a signal")),
      interrupt ? ExitCode::kInterrupted : ExitCode::kTerminated);
}

}  // namespace

SignalWatcher::SignalWatcher(RunControl& control) {
  // Progress to a closed pipe must not end the process either.
  std::signal(SIGPIPE, SIG_IGN);
  thread_ = std::jthread([this, &control](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const std::optional<int> signal = signals_.Wait(kTick);
      if (signal.has_value()) control.Fail(EndedBy(*signal));
    }
  });
}

}  // namespace qs::cli

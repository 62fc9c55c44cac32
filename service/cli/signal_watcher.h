// SignalWatcher: SIGINT, SIGTERM and SIGHUP end the run instead of the process,
// so that what was begun is taken away.
#ifndef QS_SERVICE_CLI_SIGNAL_WATCHER_H_
#define QS_SERVICE_CLI_SIGNAL_WATCHER_H_

#include <thread>

#include "service/base/end_signals.h"
#include "service/cli/run_control.h"

namespace qs::cli {

class SignalWatcher {
 public:
  explicit SignalWatcher(RunControl& control);
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  EndSignals signals_;
  std::jthread thread_;  // ends first
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_SIGNAL_WATCHER_H_

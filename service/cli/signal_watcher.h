// SignalWatcher: SIGINT, SIGTERM and SIGHUP end the run instead of the process,
// so that what was begun is taken away.
#ifndef QS_SERVICE_CLI_SIGNAL_WATCHER_H_
#define QS_SERVICE_CLI_SIGNAL_WATCHER_H_

#include <csignal>
#include <thread>

#include "service/cli/run_control.h"

namespace qs::cli {

// Make it before the process has other threads: they inherit its signal mask.
class SignalWatcher {
 public:
  explicit SignalWatcher(RunControl& control);
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  sigset_t signals_;
  sigset_t previous_;
  std::jthread thread_;
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_SIGNAL_WATCHER_H_

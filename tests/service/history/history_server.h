// A quantd with failpoints as a child process, started again after each end.
//
// Thread: Start, Kill, Stop, Ended: one at a time; port: from anywhere.
#ifndef QS_TESTS_SERVICE_HISTORY_HISTORY_SERVER_H_
#define QS_TESTS_SERVICE_HISTORY_HISTORY_SERVER_H_

#include <sys/types.h>

#include <atomic>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace qs::testing {

class HistoryServer {
 public:
  // `folder` gets the log and what the server keeps and writes.
  HistoryServer(std::string program, std::string folder,
                std::vector<std::string> flags);
  // Kills what runs.
  ~HistoryServer();
  HistoryServer(const HistoryServer&) = delete;
  HistoryServer& operator=(const HistoryServer&) = delete;

  // `failpoints`: as service/store/failpoint.h has them. Returns when it
  // answers (true) or has ended, or does not come (false).
  bool Start(const std::string& failpoints);
  bool Ended();
  void Kill();
  // SIGTERM. The exit code, or -1: not in time, or by a signal.
  int Stop(absl::Duration limit);

  // Of the one that runs or ran last.
  int port() const { return port_; }
  std::string log_path() const { return folder_ + "/log"; }

 private:
  bool WaitForExit(absl::Duration limit, int* status);

  const std::string program_;
  const std::string folder_;
  const std::vector<std::string> flags_;
  pid_t pid_ = -1;
  std::atomic<int> port_ = 0;
};

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_HISTORY_HISTORY_SERVER_H_

// Used by tests/service/history/history_run.cc.
#include "tests/service/history/history_server.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/time/clock.h"

namespace qs::testing {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(2);
constexpr absl::Duration kStartLimit = absl::Seconds(20);

}  // namespace

HistoryServer::HistoryServer(std::string program, std::string folder,
                             std::vector<std::string> flags)
    : program_(std::move(program)),
      folder_(std::move(folder)),
      flags_(std::move(flags)) {}

HistoryServer::~HistoryServer() { Kill(); }

bool HistoryServer::Start(const std::string& failpoints) {
  const std::string port_file = folder_ + "/port";
  std::filesystem::remove(port_file);
  std::vector<std::string> args = {program_, "--listen", "127.0.0.1:0",
                                   "--port-file", port_file};
  args.insert(args.end(), flags_.begin(), flags_.end());
  std::vector<char*> raw;
  for (std::string& arg : args) raw.push_back(arg.data());
  raw.push_back(nullptr);
  const std::string log = log_path();
  // Made here: whatever allocates between fork and exec may wait for ever for a
  // lock that another thread held at the fork.
  std::string failing = "QS_FAILPOINTS=" + failpoints;
  std::vector<char*> variables;
  for (char** at = environ; *at != nullptr; ++at) variables.push_back(*at);
  variables.push_back(failing.data());
  variables.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    const int fd = open(log.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600);
    dup2(fd, STDERR_FILENO);
    closefrom(STDERR_FILENO + 1);
    execve(raw[0], raw.data(), variables.data());
    _exit(127);
  }
  const absl::Time end = absl::Now() + kStartLimit;
  while (!Ended() && absl::Now() < end) {
    int port = 0;
    if (std::ifstream(port_file) >> port) {
      port_ = port;
      return true;
    }
    absl::SleepFor(kPoll);
  }
  return false;
}

bool HistoryServer::WaitForExit(absl::Duration limit, int* status) {
  const absl::Time end = absl::Now() + limit;
  while (pid_ > 0) {
    if (waitpid(pid_, status, WNOHANG) == pid_) {
      pid_ = -1;
      return true;
    }
    if (absl::Now() >= end) return false;
    absl::SleepFor(kPoll);
  }
  return false;
}

bool HistoryServer::Ended() {
  int status = 0;
  return pid_ <= 0 || WaitForExit(absl::ZeroDuration(), &status);
}

void HistoryServer::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

int HistoryServer::Stop(absl::Duration limit) {
  if (pid_ <= 0) return -1;
  kill(pid_, SIGTERM);
  int status = 0;
  if (!WaitForExit(limit, &status)) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace qs::testing

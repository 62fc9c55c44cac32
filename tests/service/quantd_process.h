// The real quantd binary as a child of the test.
#ifndef QS_TESTS_SERVICE_QUANTD_PROCESS_H_
#define QS_TESTS_SERVICE_QUANTD_PROCESS_H_

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/testing/in_process_server.h"

namespace qs::testing {

class QuantdProcess {
 public:
  // `descriptors`: the hard limit of the child, 0 for the test's own.
  explicit QuantdProcess(const std::vector<std::string>& flags = {},
                         rlim_t descriptors = 0) {
    char name[] = "/tmp/quantd_test.XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    folder_ = name;
    std::vector<std::string> args = {QUANTD_PATH, "--listen", "127.0.0.1:0",
                                     "--port-file", folder_ + "/port"};
    args.insert(args.end(), flags.begin(), flags.end());
    Spawn(args, descriptors);
    REQUIRE(Eventually([this] {
      std::ifstream(folder_ + "/port") >> port_;
      return port_ != 0;
    }));
  }
  ~QuantdProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    std::filesystem::remove_all(folder_);
  }
  QuantdProcess(const QuantdProcess&) = delete;
  QuantdProcess& operator=(const QuantdProcess&) = delete;

  int port() const { return port_; }
  std::shared_ptr<grpc::Channel> NewChannel() const { return Connect(port_); }
  void Signal(int signal) const { kill(pid_, signal); }

  // The exit code, or -1 when it did not exit in time or by a signal.
  int WaitForExit(absl::Duration limit) {
    if (!WaitForEnd(limit)) return -1;
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1;
  }
  // Whether it has ended, by itself or by a signal.
  bool WaitForEnd(absl::Duration limit) {
    const bool ended = Eventually(
        [this] { return waitpid(pid_, &status_, WNOHANG) == pid_; }, limit);
    if (ended) pid_ = -1;
    return ended;
  }

  // A field of /proc/PID/status in KiB, as bytes: "VmRSS", "VmHWM".
  int64_t Memory(const std::string& field) const {
    std::ifstream in("/proc/" + std::to_string(pid_) + "/status");
    std::string word;
    int64_t kib = 0;
    while (in >> word) {
      if (word == field + ":") in >> kib;
    }
    return kib * 1024;
  }
  // That its threads have run.
  absl::Duration CpuTime() const {
    std::ifstream in("/proc/" + std::to_string(pid_) + "/stat");
    std::string word;
    int64_t ticks = 0;
    // Fields 14 and 15; the name of the program has no space.
    for (int field = 1; field <= 15 && in >> word; ++field) {
      if (field >= 14) ticks += std::stoll(word);
    }
    return absl::Seconds(1) * ticks / sysconf(_SC_CLK_TCK);
  }
  // Entries of /proc/PID/`what`: "fd", "task".
  int64_t Count(const std::string& what) const {
    const std::filesystem::directory_iterator entries(
        "/proc/" + std::to_string(pid_) + "/" + what);
    return std::distance(begin(entries), end(entries));
  }
  std::string Log() const {
    std::ifstream in(folder_ + "/log");
    return {std::istreambuf_iterator<char>(in), {}};
  }

 private:
  void Spawn(std::vector<std::string> args, rlim_t descriptors) {
    std::vector<char*> raw;
    for (std::string& arg : args) raw.push_back(arg.data());
    raw.push_back(nullptr);
    const std::string log = folder_ + "/log";
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ > 0) return;
    const int fd = open(log.c_str(), O_CREAT | O_WRONLY, 0600);
    dup2(fd, STDERR_FILENO);
    closefrom(STDERR_FILENO + 1);
    const rlimit limit{descriptors, descriptors};
    if (descriptors != 0) setrlimit(RLIMIT_NOFILE, &limit);
    execv(raw[0], raw.data());
    _exit(127);
  }

  std::string folder_;
  pid_t pid_ = -1;
  int status_ = 0;  // as waitpid has it
  int port_ = 0;
};

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_QUANTD_PROCESS_H_

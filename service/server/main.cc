// quantd: parses the command line, serves until SIGTERM or SIGINT, drains. A
// second signal ends the drain. Exit codes: 0, 1 (did not start), 2 (options).
#include <csignal>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "service/server/log.h"
#include "service/server/options.h"
#include "service/server/server.h"

namespace qs {
namespace {

pthread_t main_thread;

extern "C" void HandToMain(int signal) { pthread_kill(main_thread, signal); }

// For sigwait on this thread, which must be the process's first.
sigset_t BlockEndSignals() {
  // A library may have started threads before main (OpenBLAS does). They block
  // nothing, so a signal may reach one of them: it hands it on.
  main_thread = pthread_self();
  struct sigaction hand_on = {};
  hand_on.sa_handler = HandToMain;
  sigaction(SIGTERM, &hand_on, nullptr);
  sigaction(SIGINT, &hand_on, nullptr);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  // Before our first thread, so that all inherit it.
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

int Serve(const ServerOptions& options) {
  const sigset_t signals = BlockEndSignals();
  Server::PrepareProcess(options.tcp_read_chunks);
  if (!SetLogLevel(options.log_level).ok()) return 2;
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(options);
  if (!server.ok()) {
    const std::string text(server.status().message());
    std::fprintf(stderr, "quantd: %s\n", text.c_str());
    return server.status().code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  }
  Log(LogLevel::kInfo, "serving",
      {{"listen", options.listen},
       {"port", (*server)->port()},
       {"tls", options.tls() ? "on" : "off"},
       {"workers", FormatWorkers(options.workers)},
       {"memory_budget", options.memory_budget},
       {"version", kServerVersion}});
  int signal = 0;
  sigwait(&signals, &signal);
  Log(LogLevel::kInfo, "draining", {{"signal", signal}});
  (*server)->Drain([&signals] {
    const timespec now{};
    return sigtimedwait(&signals, nullptr, &now) > 0;
  });
  return 0;
}

}  // namespace
}  // namespace qs

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  const qs::CommandLine command = qs::ParseCommandLine(args);
  std::fputs(command.out.c_str(), stdout);
  std::fputs(command.error.c_str(), stderr);
  if (!command.serve) return command.exit_code;
  return qs::Serve(command.options);
}

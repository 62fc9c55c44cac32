// quantd: parses the command line, serves until SIGTERM, SIGINT or SIGHUP,
// drains. A second signal ends the drain. Exit codes: 0, 1 (did not start), 2
// (options), 3 (the device of every worker was lost).
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "kernels/gpus.h"
#include "service/base/end_signals.h"
#include "service/base/standard_descriptors.h"
#include "service/server/library_logs.h"
#include "service/server/listen_address.h"
#include "service/server/log.h"
#include "service/server/options.h"
#include "service/server/server.h"
#include "service/server/workers.h"

namespace qs {
namespace {

constexpr int kDevicesLost = 3;

int Serve(const ServerOptions& options) {
  EndSignals signals;
  Server::PrepareProcess(options.tcp_read_chunks);
  if (!SetLogLevel(options.log_level).ok()) return 2;
  LogLibraries();
  absl::StatusOr<std::unique_ptr<Server>> server =
      Server::Start(options, &Gpus());
  if (!server.ok()) {
    const std::string text(server.status().message());
    std::fprintf(stderr, "quantd: %s\n", text.c_str());
    return server.status().code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  }
  Log(LogLevel::kInfo, "serving",
      {{"listen", options.listen},
       {"port", (*server)->port()},
       {"metrics_port", (*server)->metrics_port()},
       {"tls", options.tls() ? "on" : "off"},
       {"access", options.access_file.empty() ? "open" : "file"},
       {"workers", FormatWorkers(options.workers)},
       {"gpus", DescribeGpus(&Gpus())},
       {"gpu_kernels_verified_on", GpusVerifiedOn(&Gpus())},
       {"memory_budget", options.memory_budget},
       {"version", kServerVersion}});
  const auto address = ParseListenAddress(options.listen);
  if (options.access_file.empty() && address.ok() && !address->loopback()) {
    Log(LogLevel::kWarning, "open_access",
        {{"listen", options.listen},
         {"reason", "without --access-file every caller is an admin"}});
  }
  const std::optional<int> signal = signals.Wait(absl::InfiniteDuration());
  Log(LogLevel::kInfo, "draining", {{"signal", signal.value_or(0)}});
  (*server)->Drain(
      [&signals] { return signals.Wait(absl::ZeroDuration()).has_value(); });
  return (*server)->lost() ? kDevicesLost : 0;
}

}  // namespace
}  // namespace qs

// Ahead of main, as gRPC opens a descriptor when it is loaded.
[[gnu::section(".preinit_array"),
  gnu::used]] void (*open_descriptors)() = qs::OpenStandardDescriptors;

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  const qs::CommandLine command = qs::ParseCommandLine(args);
  std::fputs(command.out.c_str(), stdout);
  std::fputs(command.error.c_str(), stderr);
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    std::perror("quantd: standard output");
    return 1;
  }
  if (!command.serve) return command.exit_code;
  return qs::Serve(command.options);
}

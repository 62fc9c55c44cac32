// Tested by tests/e2e/quantctl_test.py.
// quantctl: the client program of quantd. Exit codes: see exit_code.h.
#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <malloc.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "quant/formats/utf8.h"
#include "service/base/standard_descriptors.h"
#include "service/cli/arguments.h"
#include "service/cli/commands.h"
#include "service/cli/connection_hint.h"
#include "service/cli/exit_code.h"

namespace qs::cli {
namespace {

// Of the terminal that standard error is; 0 when it is none.
int ErrorColumns() {
  if (isatty(STDERR_FILENO) != 1) return 0;
  winsize size = {};
  const bool known =
      ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

// Memory that was touched once stays: returning and faulting it again costs
// more than the transfer of a chunk.
void PrepareProcess() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  mallopt(M_TOP_PAD, 16 << 20);
  setenv("GRPC_EXPERIMENTS", "-tcp_read_chunks", 0);
}

absl::Status Run(const Arguments& arguments, const Console& console) {
  switch (arguments.command) {
    case Command::kQuantize:
      return RunQuantize(arguments, console);
    case Command::kPlan:
      return RunPlan(arguments, console);
    case Command::kCompare:
      return RunCompare(arguments, console);
    case Command::kReport:
      return RunReportCommand(arguments, console);
    case Command::kUpload:
      return RunUpload(arguments, console);
    case Command::kCalibrationMerge:
      return RunCalibrationMerge(arguments, console);
    case Command::kCalibrationInspect:
      return RunCalibrationInspect(arguments, console);
    case Command::kCalibrateUpload:
      return RunCalibrateUpload(arguments, console);
    case Command::kCalibrateExport:
      return RunCalibrateExport(arguments, console);
    case Command::kCapabilities:
      return RunCapabilities(arguments, console);
    case Command::kHealth:
      return RunHealth(arguments, console);
    case Command::kJobsCreate:
    case Command::kJobsList:
    case Command::kJobsGet:
    case Command::kJobsCancel:
    case Command::kJobsDelete:
    case Command::kJobsWatch:
    case Command::kJobsResult:
      return RunJobs(arguments, console);
  }
  return UnexpectedError("command: got an unknown one");
}

// What gRPC and protobuf log is for whoever looks for a fault of theirs: what a
// user has to know, errors say, and they may repeat a server's bytes.
void SilenceLibraries() {
  if (getenv("GRPC_VERBOSITY") != nullptr) return;
  gpr_set_log_function([](gpr_log_func_args*) {});
  google::protobuf::SetLogHandler(nullptr);
}

// That all of standard output got where it should.
absl::Status FlushOutput() {
  errno = 0;
  std::cout.flush();
  if (std::cout) return absl::OkStatus();
  return OutputFault(absl::DataLossError(absl::StrCat(
      "standard output: some of it cannot be written", errno == 0 ? "" : ": ",
      errno == 0 ? "" : std::strerror(errno))));
}

int Main(const std::vector<std::string>& args) {
  const ParsedArguments parsed = ParseArguments(args);
  std::cout << parsed.out;
  std::cerr << EscapeControlsInLines(parsed.error);
  absl::Status status;
  if (parsed.arguments) {
    const Console console = {std::cout, std::cerr, ErrorColumns()};
    status = Run(*parsed.arguments, console);
  }
  const absl::Status flushed = FlushOutput();
  if (status.ok()) status = flushed;
  if (!status.ok()) {
    std::cerr << "quantctl: "
              << EscapeControlsInLines(std::string(status.message()))
              << (parsed.arguments
                      ? ConnectionHint(status, parsed.arguments->server)
                      : "")
              << "\n";
  }
  return status.ok() ? parsed.exit_code : static_cast<int>(ExitCodeOf(status));
}

}  // namespace
}  // namespace qs::cli

// Ahead of main, as gRPC opens a descriptor when it is loaded.
[[gnu::section(".preinit_array"),
  gnu::used]] void (*open_descriptors)() = qs::OpenStandardDescriptors;

int main(int argc, char** argv) {
  qs::cli::PrepareProcess();
  qs::cli::SilenceLibraries();
  return qs::cli::Main(std::vector<std::string>(argv + 1, argv + argc));
}

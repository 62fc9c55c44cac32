// The command line of quantctl. Thread: pure functions.
#ifndef QS_SERVICE_CLI_ARGUMENTS_H_
#define QS_SERVICE_CLI_ARGUMENTS_H_

#include <optional>
#include <string>
#include <vector>

#include "service/cli/config_arguments.h"

namespace qs::cli {

constexpr char kVersion[] = "0.1.0";
constexpr int kMaxStreams = 64;

struct ServerArguments {
  std::string address = "127.0.0.1:50051";
  // PEM files. Any of them turns TLS on; an empty CA means the system's.
  std::string tls_ca;
  std::string tls_cert;
  std::string tls_key;
};

enum class Command { kQuantize, kPlan, kReport, kCapabilities, kHealth };

struct Arguments {
  Command command = Command::kHealth;
  ServerArguments server;
  ConfigArguments config;
  std::string input;      // IN, or report's FILE
  std::string output;     // quantize
  std::string json_file;  // quantize
  std::string html_file;  // report
  bool json = false;      // plan and capabilities: JSON on standard output
  bool overwrite = false;
  int streams = 2;
};

// Either `arguments` to run, or texts to print and the exit code.
struct ParsedArguments {
  std::optional<Arguments> arguments;
  std::string out;
  std::string error;
  int exit_code = 0;
};

// Without the program's name. Usage errors name the flag, got and allowed and
// have exit code 2.
ParsedArguments ParseArguments(const std::vector<std::string>& args);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_ARGUMENTS_H_

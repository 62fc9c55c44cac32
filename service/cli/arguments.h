// The command line of quantctl. Thread: pure functions.
#ifndef QS_SERVICE_CLI_ARGUMENTS_H_
#define QS_SERVICE_CLI_ARGUMENTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "service/cli/config_arguments.h"

namespace qs::cli {

constexpr char kVersion[] = "0.1.0";
constexpr int kMaxStreams = 64;
constexpr int kMaxMergedFiles = 256;  // all are open at once

struct ServerArguments {
  std::string address = "127.0.0.1:50051";
  // PEM files. Any of them turns TLS on; an empty CA means the system's.
  std::string tls_ca;
  std::string tls_cert;
  std::string tls_key;
  // File with a bearer token. Without TLS it goes to loopback only.
  std::string token_file;

  bool tls() const { return !tls_ca.empty() || !tls_cert.empty(); }
};

// What quantize does beside the method.
struct RunArguments {
  bool overwrite = false;
  int streams = 2;
  bool skip_error_report = false;
  bool skip_digest = false;
  bool fail_on_warning = false;
};

// What compare asks of every method.
struct CompareArguments {
  int bits = 4;
  int64_t group_size = 128;
};

// What the commands of jobs take.
struct JobArguments {
  std::string name;    // "projects/PROJECT/jobs/ID"
  std::string source;  // a URI, as the next two
  std::string calibration;
  std::string destination;
  std::string tensors;              // glob on uploaded ones, in place of source
  std::string model_config;         // path of their config.json; or empty
  std::string calibration_name;     // "projects/PROJECT/calibrations/ID"
  bool delete_calibration = false;  // when the job succeeded
  std::string priority;          // a word of the .proto's, lower case; or empty
  double queue_timeout = 0;      // seconds; 0: none
  double execution_timeout = 0;  // the same
  std::vector<std::string> labels;  // KEY=VALUE
  std::string request_id;           // empty: a fresh one
  bool validate_only = false;
  bool wait = false;
  std::string filter;
  int limit = 50;  // of a list
};

enum class Command {
  kQuantize,
  kPlan,
  kCompare,
  kReport,
  kUpload,
  kCalibrationMerge,
  kCalibrationInspect,
  kCalibrateUpload,
  kCalibrateExport,
  kCapabilities,
  kHealth,
  kJobsCreate,
  kJobsList,
  kJobsGet,
  kJobsCancel,
  kJobsDelete,
  kJobsWatch,
  kJobsResult
};

// What `plan` shows where neither a preset nor a method is named.
inline constexpr char kPlanPreset[] = "W4A16";

struct Arguments {
  Command command = Command::kHealth;
  ServerArguments server;
  ConfigArguments config;
  RunArguments run;
  CompareArguments compare;
  JobArguments job;
  std::string input;  // IN, or FILE of report and calibration inspect
  std::vector<std::string> inputs;  // calibration merge
  std::string output;           // quantize, calibration merge and jobs result
  std::string calibration;      // quantize and compare: a file, or empty
  std::string name;             // calibrate: the ID of the calibration
  bool keep_open = false;       // calibrate upload
  std::string json_file;        // quantize and compare
  std::string html_file;        // report and compare
  bool preset_assumed = false;  // plan: `config` has kPlanPreset
  // plan, capabilities, calibration inspect and jobs: JSON on standard output
  bool json = false;
};

// The names of all local files and folders that the command reads.
std::vector<std::string> FilesRead(const Arguments& arguments);

// Either `arguments` to run, or texts to print and the exit code.
struct ParsedArguments {
  std::optional<Arguments> arguments;
  std::string out;
  std::string error;
  int exit_code = 0;
};

// Without the program's name. Usage errors name the flag, got and allowed and
// have exit code 2. No file is opened: whether --config fits is found out when
// it is read.
ParsedArguments ParseArguments(const std::vector<std::string>& args);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_ARGUMENTS_H_

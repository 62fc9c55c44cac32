// How to quantize, as the flags and a file say it, and the messages that this
// becomes. Thread: pure functions.
#ifndef QS_SERVICE_CLI_CONFIG_ARGUMENTS_H_
#define QS_SERVICE_CLI_CONFIG_ARGUMENTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/v1/quantization.pb.h"
#include "service/cli/method_options.h"

namespace qs::cli {

// Unset means what `file` says, and there the server's default.
struct ConfigArguments {
  std::string preset;
  std::string method;   // see MethodNames
  std::string profile;  // "reference" or "best"
  std::string format;   // see FormatWords
  MethodOptions options;
  std::string config_file;             // path
  quant::v1::QuantizationConfig file;  // what is in it
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  std::vector<std::string> overrides;  // as ParseOverride takes them
  std::string target;                  // see TargetWords, or empty
  int tensor_parallel = 1;
  bool list_sites = false;
};

std::vector<std::string> FormatWords();
std::vector<std::string> TargetWords();

// JSON of a QuantizationConfig under the .proto's names. `path` is for errors:
// INVALID_ARGUMENT — no such JSON, an unknown key, a value of a wrong type, a
// preset together with a method of two kinds.
absl::StatusOr<quant::v1::QuantizationConfig> ParseConfigFile(
    std::string_view text, const std::string& path);

// "GLOB=skip", "GLOB=PRESET" or "GLOB={JSON of a QuantizationConfig}"; the last
// "=" counts, or the first "={". Errors: INVALID_ARGUMENT; the flag is not
// named.
absl::StatusOr<quant::v1::Override> ParseOverride(std::string_view text);
// REQUIRES: ParseOverride takes all of them.
void SetOverrides(
    const ConfigArguments& config,
    google::protobuf::RepeatedPtrField<quant::v1::Override>* overrides);

// Whether flags and file go together. Errors: INVALID_ARGUMENT.
absl::Status CheckConfig(const ConfigArguments& config);

// The preset, or the method with its options. REQUIRES: CheckConfig is OK.
quant::v1::QuantizationConfig QuantizationOf(const ConfigArguments& config);

// The preset's name, from the flags or the file.
std::string PresetOf(const ConfigArguments& config);
// A preset is named together with a method or options of one: the server's
// meaning of the preset is needed, which ChangedPreset takes.
bool ChangesPreset(const ConfigArguments& config);
// `preset` with what `config` says in place of its own. Errors:
// INVALID_ARGUMENT — an option or a method that is not the preset's.
absl::StatusOr<quant::v1::QuantizationConfig> ChangedPreset(
    const ConfigArguments& config, const quant::v1::QuantizationConfig& preset);

quant::v1::Target TargetOf(const ConfigArguments& config);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_CONFIG_ARGUMENTS_H_

// How to quantize, as the flags say it, and the messages that this becomes.
// Thread: pure functions.
#ifndef QS_SERVICE_CLI_CONFIG_ARGUMENTS_H_
#define QS_SERVICE_CLI_CONFIG_ARGUMENTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/v1/quantization.pb.h"

namespace qs::cli {

// Unset means the server's default.
struct ConfigArguments {
  std::string preset;
  std::string method;   // "nf4" or "rtn"
  std::string profile;  // "reference" or "best"
  std::optional<int64_t> block_size;
  bool double_quant = false;  // set only when true
  std::optional<int64_t> group_size;
  std::optional<int> bits;
  std::optional<bool> symmetric;
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  std::string target;  // "vllm", "transformers", "bitsandbytes" or empty
  int tensor_parallel = 1;
};

// Options belong to one method, "nf4" or "rtn". Errors: INVALID_ARGUMENT.
absl::Status CheckMethodOptions(const ConfigArguments& config,
                                const std::string& method);

// The preset, or the method with its options.
quant::v1::QuantizationConfig QuantizationOf(const ConfigArguments& config);

// A preset is named together with a method or options of one: the server's
// meaning of the preset is needed, which ChangedPreset takes.
bool ChangesPreset(const ConfigArguments& config);
// `preset` with the options of `config` in place of its own. Errors:
// INVALID_ARGUMENT — an option or a method that is not the preset's.
absl::StatusOr<quant::v1::QuantizationConfig> ChangedPreset(
    const ConfigArguments& config, const quant::v1::QuantizationConfig& preset);

quant::v1::Target TargetOf(const ConfigArguments& config);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_CONFIG_ARGUMENTS_H_

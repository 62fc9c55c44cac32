// Tested by tests/cli/arguments_test.cc and tests/e2e/quantctl_test.py.
#include "service/cli/config_arguments.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

void SetNf4(const ConfigArguments& config, v1::Nf4Config* nf4) {
  if (config.block_size) nf4->set_block_size(*config.block_size);
  if (config.double_quant) nf4->set_double_quant(true);
}

void SetRtn(const ConfigArguments& config, v1::RtnConfig* rtn) {
  if (config.bits) rtn->set_bits(*config.bits);
  if (config.group_size) rtn->set_group_size(*config.group_size);
  if (config.symmetric) rtn->set_symmetric(*config.symmetric);
}

void SetProfile(const ConfigArguments& config, v1::QuantizationConfig* out) {
  if (config.profile.empty()) return;
  out->set_profile(config.profile == "best" ? v1::BEST : v1::REFERENCE);
}

}  // namespace

absl::Status CheckMethodOptions(const ConfigArguments& c,
                                const std::string& method) {
  if (method == "rtn" && (c.block_size || c.double_quant)) {
    return absl::InvalidArgumentError(
        "--blocksize and --double-quant: got them with method rtn, allowed "
        "with nf4");
  }
  if (method == "nf4" && (c.group_size || c.bits || c.symmetric)) {
    return absl::InvalidArgumentError(
        "--group-size, --bits and --symmetric: got them with method nf4, "
        "allowed with rtn");
  }
  return absl::OkStatus();
}

bool ChangesPreset(const ConfigArguments& c) {
  return !c.preset.empty() &&
         (!c.method.empty() || c.block_size || c.double_quant || c.group_size ||
          c.bits || c.symmetric);
}

v1::QuantizationConfig QuantizationOf(const ConfigArguments& config) {
  v1::QuantizationConfig out;
  if (!config.preset.empty()) {
    out.set_preset(config.preset);
  } else if (config.method == "nf4") {
    SetNf4(config, out.mutable_nf4());
  } else {
    SetRtn(config, out.mutable_rtn());
  }
  SetProfile(config, &out);
  return out;
}

absl::StatusOr<v1::QuantizationConfig> ChangedPreset(
    const ConfigArguments& config, const v1::QuantizationConfig& preset) {
  const std::string method = preset.has_nf4() ? "nf4" : "rtn";
  if (!config.method.empty() && config.method != method) {
    return absl::InvalidArgumentError(
        absl::StrCat("--method: got ", config.method, " with --preset ",
                     config.preset, ", allowed ", method));
  }
  QS_RETURN_IF_ERROR(CheckMethodOptions(config, method));
  v1::QuantizationConfig out = preset;
  if (out.has_nf4()) {
    SetNf4(config, out.mutable_nf4());
  } else {
    SetRtn(config, out.mutable_rtn());
  }
  SetProfile(config, &out);
  return out;
}

v1::Target TargetOf(const ConfigArguments& config) {
  static const std::map<std::string, v1::Engine> kEngines = {
      {"", v1::ENGINE_UNSPECIFIED},
      {"vllm", v1::VLLM},
      {"transformers", v1::TRANSFORMERS},
      {"bitsandbytes", v1::ENGINE_BITSANDBYTES}};
  v1::Target target;
  target.set_engine(kEngines.at(config.target));
  target.set_tensor_parallel(config.tensor_parallel);
  return target;
}

}  // namespace qs::cli

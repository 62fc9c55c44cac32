// Tested by tests/cli/arguments_test.cc and tests/e2e/quantctl_test.py.
#include "service/cli/config_arguments.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "service/cli/proto_json.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using Json = nlohmann::ordered_json;

constexpr std::pair<const char*, v1::OutputFormat> kFormats[] = {
    {"bitsandbytes", v1::BITSANDBYTES},
    {"compressed-tensors", v1::COMPRESSED_TENSORS},
    {"gptq", v1::GPTQ_V1},
    {"gptq-v2", v1::GPTQ_V2},
    {"awq", v1::AWQ_GEMM},
    {"hqq", v1::HQQ_STATE_DICT}};

constexpr std::pair<const char*, v1::Engine> kTargets[] = {
    {"vllm", v1::VLLM},
    {"transformers", v1::TRANSFORMERS},
    {"bitsandbytes", v1::ENGINE_BITSANDBYTES},
    {"gptqmodel", v1::ENGINE_GPTQMODEL},
    {"hqq", v1::ENGINE_HQQ}};

template <typename Table>
std::vector<std::string> Words(const Table& table) {
  std::vector<std::string> words;
  for (const auto& [word, value] : table) words.emplace_back(word);
  return words;
}

template <typename Value, size_t N>
Value ValueOf(const std::pair<const char*, Value> (&table)[N],
              const std::string& word) {
  for (const auto& [name, value] : table) {
    if (word == name) return value;
  }
  return {};
}

// Profile and format: what flags say goes before the file.
void SetCommon(const ConfigArguments& config, v1::QuantizationConfig* out) {
  if (config.file.has_profile()) out->set_profile(config.file.profile());
  if (config.file.has_format()) out->set_format(config.file.format());
  if (!config.profile.empty()) {
    out->set_profile(config.profile == "best" ? v1::BEST : v1::REFERENCE);
  }
  if (!config.format.empty()) {
    out->set_format(ValueOf(kFormats, config.format));
  }
}

// From the flags or the file; empty: a preset alone.
std::string MethodOf(const ConfigArguments& config) {
  return config.method.empty() ? MethodName(config.file) : config.method;
}

// Keys that no field has are mistakes here, not news from a later version.
absl::Status CheckKeys(const Json& json, const std::string& where,
                       const google::protobuf::Descriptor* type) {
  if (!json.is_object()) return absl::OkStatus();
  for (const auto& [key, value] : json.items()) {
    const auto* field = type->FindFieldByName(key);
    if (field == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": got key ", QuoteForError(key),
                       ", allowed a field of ", type->name()));
    }
    if (field->message_type() == nullptr) continue;
    QS_RETURN_IF_ERROR(
        CheckKeys(value, absl::StrCat(where, ".", key), field->message_type()));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> FormatWords() { return Words(kFormats); }
std::vector<std::string> TargetWords() { return Words(kTargets); }

namespace {

absl::StatusOr<v1::QuantizationConfig> ParseConfig(std::string_view text,
                                                   const std::string& where) {
  QS_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, where));
  v1::QuantizationConfig config;
  QS_RETURN_IF_ERROR(CheckKeys(json, where, config.GetDescriptor()));
  int methods = 0;
  for (const std::string& method : MethodNames()) {
    methods += json.contains(method) ? 1 : 0;
  }
  if (methods > 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": got ", methods, " methods, allowed one of them"));
  }
  QS_RETURN_IF_ERROR(MessageFromJson(json, where, &config));
  return config;
}

}  // namespace

absl::StatusOr<v1::QuantizationConfig> ParseConfigFile(
    std::string_view text, const std::string& path) {
  return ParseConfig(text, absl::StrCat("--config ", path));
}

absl::StatusOr<v1::Override> ParseOverride(std::string_view text) {
  const size_t json = text.find("={");
  const size_t equals = json != text.npos ? json : text.rfind('=');
  const std::string_view value =
      equals == text.npos ? "" : text.substr(equals + 1);
  v1::Override out;
  if (equals == text.npos || equals == 0 || value.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("got ", QuoteForError(text),
                     ", allowed GLOB=skip, GLOB=PRESET or GLOB={JSON}"));
  }
  out.set_tensors(std::string(text.substr(0, equals)));
  if (value == "skip") {
    out.set_skip(true);
  } else if (json == text.npos) {
    out.mutable_config()->set_preset(std::string(value));
  } else {
    QS_ASSIGN_OR_RETURN(*out.mutable_config(),
                        ParseConfig(value, out.tensors()));
  }
  return out;
}

void SetOverrides(const ConfigArguments& config,
                  google::protobuf::RepeatedPtrField<v1::Override>* overrides) {
  for (const std::string& text : config.overrides) {
    *overrides->Add() = *ParseOverride(text);
  }
}

absl::Status CheckConfig(const ConfigArguments& c) {
  const std::string in_file = MethodName(c.file);
  if (!c.method.empty() && !in_file.empty() && c.method != in_file) {
    return absl::InvalidArgumentError(
        absl::StrCat("--method: got ", c.method, " with a --config for ",
                     in_file, ", allowed ", in_file));
  }
  const std::string method = MethodOf(c);
  if (PresetOf(c).empty() && method.empty()) {
    return absl::InvalidArgumentError(
        "--preset and --method: got none, allowed one of them or both");
  }
  return method.empty() ? absl::OkStatus()
                        : CheckMethodOptions(c.options, method);
}

std::string PresetOf(const ConfigArguments& config) {
  return config.preset.empty() ? config.file.preset() : config.preset;
}

bool ChangesPreset(const ConfigArguments& config) {
  return !PresetOf(config).empty() &&
         (!MethodOf(config).empty() || !config.options.empty());
}

v1::QuantizationConfig QuantizationOf(const ConfigArguments& config) {
  v1::QuantizationConfig out;
  if (!PresetOf(config).empty()) {
    out.set_preset(PresetOf(config));
  } else {
    out = config.file;
    SelectMethod(MethodOf(config), &out);
    SetMethodOptions(config.options, &out);
  }
  SetCommon(config, &out);
  return out;
}

absl::StatusOr<v1::QuantizationConfig> ChangedPreset(
    const ConfigArguments& config, const v1::QuantizationConfig& preset) {
  const std::string method = MethodName(preset);
  const std::string wanted = MethodOf(config);
  if (!wanted.empty() && wanted != method) {
    return absl::InvalidArgumentError(
        absl::StrCat("--method: got ", wanted, " with --preset ",
                     PresetOf(config), ", allowed ", method));
  }
  QS_RETURN_IF_ERROR(CheckMethodOptions(config.options, method));
  v1::QuantizationConfig out = preset;
  SetCommon(config, &out);
  // How hard to solve is the profile's business unless somebody says so; and
  // AWQ's own format has zero points.
  KeepGrid(&out);
  if (out.has_awq() && out.format() == v1::AWQ_GEMM) {
    out.mutable_awq()->clear_symmetric();
  }
  v1::QuantizationConfig file = config.file;
  file.clear_preset();
  file.clear_profile();
  file.clear_format();
  out.MergeFrom(file);
  SetMethodOptions(config.options, &out);
  return out;
}

v1::Target TargetOf(const ConfigArguments& config) {
  v1::Target target;
  target.set_engine(ValueOf(kTargets, config.target));
  target.set_tensor_parallel(config.tensor_parallel);
  return target;
}

}  // namespace qs::cli

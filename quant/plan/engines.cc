// Tested by tests/quant/plan_lint_test.cc.
#include "quant/plan/engines.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "quant/plan/embedded.h"

namespace qs {
namespace {

using Json = nlohmann::json;

// "gptq" stands for both versions, see Find.
OutputFormat FormatNamed(const std::string& name) {
  if (name == "bitsandbytes") return OutputFormat::kBitsandbytes;
  if (name == "gptq") return OutputFormat::kGptq;
  if (name == "awq") return OutputFormat::kAwqGemm;
  return name == "hqq" ? OutputFormat::kHqq : OutputFormat::kCompressedTensors;
}

FormatRules FormatFrom(const std::string& name, const Json& json) {
  FormatRules out;
  out.format = FormatNamed(name);
  out.fused_layers = json.value("fused_layers", false);
  out.symmetric_only = json.value("symmetric_only", false);
  out.linear_modules_only = json.value("linear_modules_only", false);
  out.merges_experts = json.value("merges_experts", false);
  out.unpacks_experts = json.value("unpacks_experts", false);
  out.linear4bit = json.value("linear4bit", false);
  out.no_act_order = json.value("no_act_order", false);
  out.whole_groups = json.value("whole_groups", false);
  out.substring_skips = json.value("substring_skips", false);
  if (json.contains("bits")) json.at("bits").get_to(out.bits);
  if (json.contains("group_sizes")) {
    json.at("group_sizes").get_to(out.group_sizes);
  }
  if (!json.contains("marlin")) return out;
  const Json& marlin = json.at("marlin");
  marlin.at("bits").get_to(out.marlin_bits);
  marlin.at("group_sizes").get_to(out.marlin_group_sizes);
  marlin.at("tiles").get_to(out.marlin_tiles);
  return out;
}

// The file is part of the program: its tests parse it, so nothing is checked.
std::vector<EngineRules> Parse() {
  std::vector<EngineRules> out;
  const Json json = Json::parse(kEnginesJson);
  for (const Json& entry : json.at("engines")) {
    EngineRules& rules = out.emplace_back();
    rules.facts.engine = EngineNamed(entry.at("id"));
    entry.at("name").get_to(rules.facts.name);
    entry.at("version").get_to(rules.facts.version);
    entry.at("read_on").get_to(rules.facts.read_on);
    entry.at("accepts").get_to(rules.facts.accepts);
    for (const auto& [name, format] : entry.at("formats").items()) {
      rules.formats.push_back(FormatFrom(name, format));
    }
  }
  return out;
}

std::vector<EngineFacts> FactsOf(const std::vector<EngineRules>& all) {
  std::vector<EngineFacts> out;
  for (const EngineRules& rules : all) out.push_back(rules.facts);
  return out;
}

}  // namespace

Engine EngineNamed(const std::string& id) {
  if (id == "vllm") return Engine::kVllm;
  if (id == "transformers") return Engine::kTransformers;
  if (id == "bitsandbytes") return Engine::kBitsandbytes;
  if (id == "gptqmodel") return Engine::kGptqModel;
  return id == "hqq" ? Engine::kHqq : Engine::kNone;
}

std::string EngineRules::Title() const {
  return absl::StrCat(facts.name, " ", facts.version);
}

const FormatRules* EngineRules::Find(OutputFormat format) const {
  if (format == OutputFormat::kGptqV2) format = OutputFormat::kGptq;
  for (const FormatRules& rules : formats) {
    if (rules.format == format) return &rules;
  }
  return nullptr;
}

const char* FormatTitle(OutputFormat format) {
  switch (format) {
    case OutputFormat::kBitsandbytes:
      return "bitsandbytes 4-bit files (NF4, FP4)";
    case OutputFormat::kCompressedTensors:
      return "compressed-tensors files";
    case OutputFormat::kGptq:
    case OutputFormat::kGptqV2:
      return "GPTQ files";
    case OutputFormat::kAwqGemm:
      return "AWQ files";
    case OutputFormat::kHqq:
      return "hqq's state dicts";
  }
  return "";
}

std::string WhyNoExperts(const Architecture& architecture,
                         const EngineRules& engine, const FormatRules& rules) {
  if (engine.facts.engine != Engine::kTransformers) return "";
  const std::string& experts = architecture.transformers_experts;
  if (experts == "merged" && rules.merges_experts) {
    return absl::StrCat(engine.Title(),
                        " merges the experts of a layer into one 3-D "
                        "parameter and loads no packed ones");
  }
  if (experts == "stacked" ||
      (experts == "unpacked" && !rules.unpacks_experts)) {
    return absl::StrCat(engine.Title(), " keeps the experts of ",
                        architecture.name,
                        " in one 3-D parameter and loads no single ones");
  }
  return "";
}

const std::vector<EngineRules>& AllEngineRules() {
  static const auto* all = new std::vector<EngineRules>(Parse());
  return *all;
}

const EngineRules* RulesOf(Engine engine) {
  for (const EngineRules& rules : AllEngineRules()) {
    if (engine != Engine::kNone && rules.facts.engine == engine) return &rules;
  }
  return nullptr;
}

const std::vector<EngineFacts>& EngineMatrix() {
  static const auto* facts =
      new std::vector<EngineFacts>(FactsOf(AllEngineRules()));
  return *facts;
}

}  // namespace qs

// Tested by tests/quant/plan_test.cc.
#include "quant/plan/catalogue.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "quant/plan/embedded.h"
#include "quant/plan/engines.h"
#include "quant/plan/plan.h"

namespace qs {
namespace {

using Json = nlohmann::json;
using Pairs = std::vector<std::pair<std::string, std::string>>;

LinearRule RuleFrom(const Json& json) {
  LinearRule rule;
  rule.site = json.value("site", "");
  rule.group = json.value("group", "");
  rule.expert = json.value("expert", false);
  const std::string parallel = json.value("parallel", "column");
  if (parallel == "row") rule.parallel = Parallel::kRow;
  if (parallel == "replicated") rule.parallel = Parallel::kReplicated;
  return rule;
}

using Strings = std::vector<std::string>;

FoldRule FoldFrom(const Json& json) {
  FoldRule rule;
  rule.norms = json.value("norm", Strings());
  rule.else_site = json.value("else_site", "");
  rule.readers = json.value("readers", Strings());
  rule.linear = json.value("linear", "");
  rule.last_rows = json.value("rows", "") == "last";
  rule.heads = json.value("heads", false);
  return rule;
}

void AddFolds(const Json& json, const Json& folds, Architecture* out) {
  out->norm_plus_one = json.value("norm_plus_one", false);
  for (const std::string& set : json.value("folds", Strings())) {
    for (const auto& [site, rule] : folds.at(set).items()) {
      const FoldRule& fold = out->folds[site] = FoldFrom(rule);
      out->readers.insert(fold.readers.begin(), fold.readers.end());
    }
  }
}

StackRule StackFrom(const Json& json) {
  StackRule rule;
  json.at("parts").get_to(rule.parts);
  rule.transposed = json.value("transposed", false);
  rule.interleaved = json.value("interleaved", false);
  return rule;
}

void AddStacks(const Json& json, const Json& stacks, Architecture* out) {
  out->transformers_experts = json.value("transformers_experts", "");
  out->stacked_because = json.value("stacked_because", "");
  if (json.contains("single_experts")) {
    out->single_experts.emplace();
    for (const std::string id : json.at("single_experts")) {
      out->single_experts->push_back(EngineNamed(id));
    }
  }
  if (!json.contains("stacks")) return;
  for (const auto& [path, rule] :
       stacks.at(json.at("stacks").get<std::string>()).items()) {
    out->stacks[path] = StackFrom(rule);
  }
}

Architecture ArchitectureFrom(const Json& json, const Json& catalogue) {
  const Json& sets = catalogue.at("sets");
  Architecture out;
  out.name = json.at("name");
  out.model_types = json.value("model_types", Strings());
  out.class_names = json.value("class_names", Strings());
  out.by_shape = json.value("by_shape", false);
  out.head = json.value("head", out.head);
  if (json.contains("towers")) out.towers = json.at("towers").get<Strings>();
  out.transformers_bitsandbytes = json.value("transformers_bitsandbytes", "");
  out.keeps_tree = json.value("keeps_tree", false);
  out.transformers_packed = json.value("transformers_packed", "");
  out.transformers_renames = json.value("transformers_renames", Pairs());
  for (const std::string set : json.at("sets")) {
    for (const auto& [path, rule] : sets.at(set).items()) {
      out.linears[path] = RuleFrom(rule);
    }
  }
  AddFolds(json, catalogue.at("folds"), &out);
  AddStacks(json, catalogue.at("stacks"), &out);
  return out;
}

// The file is part of the program: its tests parse it, so nothing is checked.
Catalogue Parse() {
  const Json json = Json::parse(kCatalogueJson);
  Catalogue out;
  out.min_elements = json.at("min_elements");
  json.at("kinds").get_to(out.kinds);
  json.at("names").get_to(out.names);
  json.at("name_parts").get_to(out.name_parts);
  json.at("heads").get_to(out.heads);
  json.at("heads_in_blocks").get_to(out.heads_in_blocks);
  json.at("tied_embeddings").get_to(out.tied_embeddings);
  json.at("towers").get_to(out.towers);
  json.at("stacks_besides").get_to(out.stacks);
  for (const Json& entry : json.at("architectures")) {
    out.architectures.push_back(ArchitectureFrom(entry, json));
  }
  return out;
}

bool Contains(const std::vector<std::string>& list, const std::string& text) {
  return !text.empty() &&
         std::find(list.begin(), list.end(), text) != list.end();
}

std::string_view LastComponent(std::string_view path) {
  const size_t dot = path.rfind('.');
  return dot == path.npos ? path : path.substr(dot + 1);
}

template <typename Rule>
struct EndMatch {
  const Rule* rule = nullptr;
  std::string_view block;
  std::string_view local;
};

bool EndsWithModule(std::string_view module, std::string_view end) {
  return module == end || (module.ends_with(end) &&
                           module[module.size() - end.size() - 1] == '.');
}

// Whether a module that is called as heads are may be one.
bool StandsAsHead(std::string_view module) {
  if (!InNumberedBlock(module)) return true;
  const std::vector<std::string>& ends = TheCatalogue().heads_in_blocks;
  return std::any_of(ends.begin(), ends.end(), [module](const auto& end) {
    return EndsWithModule(module, end);
  });
}

// The longest end of `path` in `rules`, which have # for numbers. A linear of a
// known architecture stands in a numbered block.
template <typename Rule>
EndMatch<Rule> LongestEnd(const std::unordered_map<std::string, Rule>& rules,
                          std::string_view path, bool anywhere) {
  std::string numbered;                           // with # for numbers
  std::vector<std::pair<size_t, size_t>> starts;  // in path, in numbered
  for (size_t at = 0; at <= path.size();) {
    const size_t end = std::min(path.find('.', at), path.size());
    const std::string_view part = path.substr(at, end - at);
    if (at > 0) numbered += '.';
    starts.emplace_back(at, numbered.size());
    numbered += IsNumber(part) ? "#" : part;
    at = end + 1;
  }
  for (const auto& [at, numbered_at] : starts) {
    const auto found = rules.find(numbered.substr(numbered_at));
    if (found == rules.end()) continue;
    const std::string_view block =
        at == 0 ? std::string_view() : path.substr(0, at - 1);
    if (!anywhere && !IsNumber(LastComponent(block))) continue;
    return {&found->second, block, path.substr(at)};
  }
  return {};
}

}  // namespace

const Catalogue& TheCatalogue() {
  static const auto* catalogue = new Catalogue(Parse());
  return *catalogue;
}

const Architecture& FindArchitecture(const ConfigFacts& facts) {
  const std::vector<Architecture>& all = TheCatalogue().architectures;
  for (const Architecture& entry : all) {
    if (Contains(entry.class_names, facts.class_name)) return entry;
  }
  for (const std::string& type : {facts.model_type, facts.text_model_type}) {
    for (const Architecture& entry : all) {
      if (Contains(entry.model_types, type)) return entry;
    }
  }
  return all.back();
}

RuleMatch MatchRule(const Architecture& architecture, std::string_view module) {
  const auto [rule, block, local] =
      LongestEnd(architecture.linears, module, architecture.by_shape);
  return {rule, block, local};
}

StackMatch MatchStack(const Architecture& architecture, std::string_view name) {
  if (architecture.stacks.empty()) return {};
  const auto [rule, block, local] =
      LongestEnd(architecture.stacks, name, architecture.by_shape);
  return {rule, block, local};
}

bool IsNumber(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return c >= '0' && c <= '9';
  });
}

bool InNumberedBlock(std::string_view module) {
  for (size_t at = 0; at < module.size();) {
    const size_t dot = module.find('.', at);
    if (dot == module.npos) return false;
    if (IsNumber(module.substr(at, dot - at))) return true;
    at = dot + 1;
  }
  return false;
}

std::string WithoutNumbers(std::string_view path) {
  std::string out;
  for (size_t at = 0; at <= path.size();) {
    const size_t end = std::min(path.find('.', at), path.size());
    const std::string_view part = path.substr(at, end - at);
    if (at > 0) out += '.';
    out += IsNumber(part) ? "#" : part;
    at = end + 1;
  }
  return out;
}

const FoldRule* FindFold(const Architecture& architecture,
                         std::string_view local) {
  const auto found = architecture.folds.find(WithoutNumbers(local));
  return found == architecture.folds.end() ? nullptr : &found->second;
}

std::string_view KindOfName(std::string_view module) {
  const Catalogue& catalogue = TheCatalogue();
  const std::string_view last = LastComponent(module);
  const size_t dot = module.rfind('.', module.size() - last.size() - 2);
  const std::string_view last_two =
      last.size() == module.size() || dot == module.npos
          ? module
          : module.substr(dot + 1);
  for (const std::string_view name : {last_two, last}) {
    const auto found = catalogue.names.find(std::string(name));
    if (found != catalogue.names.end()) return found->second;
  }
  return "";
}

std::string_view KindOfModule(std::string_view module) {
  const std::string_view kind = KindOfName(module);
  if (kind == "head" ? StandsAsHead(module) : !kind.empty()) return kind;
  const Catalogue& catalogue = TheCatalogue();
  const std::string_view last = LastComponent(module);
  for (const auto& [part, kind_of_part] : catalogue.name_parts) {
    if (last.find(part) != last.npos) return kind_of_part;
  }
  if (!StandsAsHead(module)) return "";
  for (const std::string& head : catalogue.heads) {
    if (GlobMatch(head, module)) return "head";
  }
  return "";
}

std::string_view ExpertsModule(std::string_view module) {
  const size_t part = module.rfind('.');
  if (part == module.npos || part == 0) return "";
  const size_t number = module.rfind('.', part - 1);
  if (number == module.npos ||
      !IsNumber(module.substr(number + 1, part - number - 1))) {
    return "";
  }
  const std::string_view experts = module.substr(0, number);
  return LastComponent(experts) == "experts" ? experts : "";
}

std::string TransformersName(const Architecture& architecture,
                             std::string_view module) {
  std::string name(module);
  for (const auto& [from, to] : architecture.transformers_renames) {
    if (from[0] != '^') {
      name = absl::StrReplaceAll(name, {{from, to}});
    } else if (absl::StartsWith(name, from.substr(1))) {
      name = to + name.substr(from.size() - 1);
    }
  }
  return name;
}

}  // namespace qs

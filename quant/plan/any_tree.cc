// Tested by tests/quant/plan_towers_test.cc.
#include "quant/plan/any_tree.h"

#include <algorithm>
#include <set>
#include <utility>

#include "quant/formats/gptq_format.h"
#include "quant/plan/skip_names.h"

namespace qs {
namespace {

constexpr std::string_view kAnyParent = "(.*\\.)?";
constexpr std::string_view kSelfOrBelow = "(\\.|$)";

// Whether some name of a set ends, at a dot, with a text.
class Ends {
 public:
  void Add(std::string_view name) {
    backwards_.emplace(name.rbegin(), name.rend());
  }
  bool Has(std::string_view end) const {
    std::string text(end.rbegin(), end.rend());
    if (backwards_.contains(text)) return true;
    text += '.';
    const auto found = backwards_.lower_bound(text);
    return found != backwards_.end() && found->starts_with(text);
  }

 private:
  std::set<std::string> backwards_;
};

// Makes expressions that match no quantized module, nor its experts' module.
class Expressions {
 public:
  explicit Expressions(const Draft& draft) : list_(*draft.architecture) {
    const NameList quantized = QuantizedModules(draft);
    for (const std::string& name : quantized.names()) {
      Keep(name);
      const std::string_view experts = ExpertsModule(name);
      if (!experts.empty()) Keep(experts);
    }
  }

  // `close` instead of the $ at the end.
  void Add(std::string_view module, std::string_view close) {
    std::string_view end = SharedEnd(module);
    if (!numbered_.Has(WithoutNumbers(end))) return AddEnd(end, true, close);
    while (exact_.Has(end) && end.size() < module.size()) {
      end = Longer(module, end);
    }
    if (!exact_.Has(end)) AddEnd(end, false, close);
  }
  // Classify quantizes nothing that TowerOf finds in one, so nothing that this
  // matches.
  void AddTower(std::string_view tower) {
    list_.AddOne(std::string(kAnyParent) + RegexEscape(tower) +
                 std::string(kSelfOrBelow));
  }
  const std::vector<std::string>& list() const { return list_.names(); }

 private:
  void Keep(std::string_view name) {
    exact_.Add(name);
    numbered_.Add(WithoutNumbers(name));
  }
  // One component more of `module`, whose end is `end`.
  static std::string_view Longer(std::string_view module,
                                 std::string_view end) {
    const size_t dot = module.size() - end.size() - 1;
    const size_t before = dot == 0 ? module.npos : module.rfind('.', dot - 1);
    return before == module.npos ? module : module.substr(before + 1);
  }
  void AddEnd(std::string_view end, bool any_number, std::string_view close) {
    std::string text = ExpressionOfEnd(end, any_number);
    text.replace(text.size() - 1, 1, close);
    list_.AddOne(std::move(text));
  }

  Ends exact_;
  Ends numbered_;  // with # for numbers
  NameList list_;
};

}  // namespace

bool HasOtherTrees(const Draft& draft) {
  const auto& towers = draft.architecture->towers;
  if (towers && towers->empty()) return false;
  return draft.config.has_towers ||
         std::any_of(draft.tensors.begin(), draft.tensors.end(),
                     [&](const DraftTensor& item) {
                       return !TowerOf(draft, item.module).empty();
                     });
}

std::string_view SharedEnd(std::string_view module) {
  size_t before = 0;  // where the component before this one begins
  for (size_t at = 0; at <= module.size();) {
    const size_t end = std::min(module.find('.', at), module.size());
    if (IsNumber(module.substr(at, end - at))) return module.substr(before);
    before = at;
    at = end + 1;
  }
  for (const std::string_view parent :
       {"model.", "language_model.", "model."}) {
    if (module.starts_with(parent)) module.remove_prefix(parent.size());
  }
  return module;
}

std::string LanguageModelName(std::string_view module) {
  constexpr std::string_view kParent = "model.language_model.";
  if (module.starts_with(kParent)) return std::string(module);
  for (const std::string_view parent : {"language_model.model.", "model."}) {
    if (!module.starts_with(parent)) continue;
    return std::string(kParent) + std::string(module.substr(parent.size()));
  }
  return std::string(module);
}

std::string ExpressionOfEnd(std::string_view end, bool any_number) {
  std::string out(kAnyParent);
  for (size_t at = 0; at <= end.size();) {
    const size_t dot = std::min(end.find('.', at), end.size());
    const std::string_view part = end.substr(at, dot - at);
    if (at > 0) out += "\\.";
    out += any_number && IsNumber(part) ? "\\d+" : RegexEscape(part);
    at = dot + 1;
  }
  return out + "$";
}

std::vector<std::string> ExpressionsOf(const Draft& draft,
                                       const std::vector<std::string>& names) {
  if (!HasOtherTrees(draft)) return {};
  Expressions expressions(draft);
  for (const std::string& name : names) {
    const std::string_view tower = TowerOf(draft, name);
    if (tower.empty()) {
      expressions.Add(name, "$");
    } else {
      expressions.AddTower(tower);
    }
  }
  return expressions.list();
}

std::vector<std::string> StackExpressions(
    const Draft& draft, const std::vector<std::string>& names) {
  if (!HasOtherTrees(draft)) return {};
  Expressions expressions(draft);
  for (const std::string& name : names) expressions.Add(name, kSelfOrBelow);
  return expressions.list();
}

}  // namespace qs

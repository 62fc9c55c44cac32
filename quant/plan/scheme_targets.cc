// Tested by tests/quant/plan_overrides_test.cc.
#include "quant/plan/scheme_targets.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "quant/formats/gptq_format.h"
#include "quant/plan/skip_names.h"

namespace qs {
namespace {

using Groups = std::vector<CompressedTensorsGroup>;

bool IsNumber(std::string_view part) {
  return !part.empty() &&
         std::all_of(part.begin(), part.end(),
                     [](unsigned char c) { return absl::ascii_isdigit(c); });
}

// "re:(.*\.)?layers\.\d+\.mlp\.down_proj$" of "model.layers.3.mlp.down_proj";
// empty: the name has no number.
std::string ExpressionOf(const std::string& module) {
  const std::vector<std::string> parts = absl::StrSplit(module, '.');
  const auto number = std::find_if(parts.begin(), parts.end(), IsNumber);
  if (number == parts.end()) return "";
  auto part = number == parts.begin() ? number : number - 1;
  std::string out = "re:(.*\\.)?";
  for (const auto first = part; part != parts.end(); ++part) {
    absl::StrAppend(&out, part == first ? "" : "\\.",
                    IsNumber(*part) ? "\\d+" : RegexEscape(*part));
  }
  return out + "$";
}

size_t GroupOf(const GridSpec& grid, Groups* groups) {
  for (size_t g = 0; g < groups->size(); ++g) {
    const GridSpec& other = (*groups)[g].grid;
    if (other.bits == grid.bits && other.group_size == grid.group_size &&
        other.symmetric == grid.symmetric) {
      return g;
    }
  }
  groups->push_back({grid, {}});
  return groups->size() - 1;
}

// A name as the checkpoint, or as transformers has it, and its group.
struct Named {
  std::string name;
  size_t group = 0;
  std::string expression;
};

}  // namespace

Groups SchemeGroups(const Draft& draft) {
  Groups groups;
  std::vector<Named> all;
  for (size_t i = 0; i < draft.tensors.size(); ++i) {
    if (!draft.Quantizes(i)) continue;
    const size_t group = GroupOf(SpecGrid(draft.SpecOf(i)), &groups);
    NameList names(*draft.architecture);
    names.Add(draft.tensors[i].module);
    for (const std::string& name : names.names()) {
      all.push_back({name, group, ExpressionOf(name)});
    }
  }
  if (groups.size() == 1) return {{groups.front().grid}};
  // The request's own grid last: names of others then stand before the
  // expressions that would match them, too.
  const size_t own = GroupOf(SpecGrid(draft.request.spec), &groups);
  std::unordered_map<std::string, size_t> only;  // SIZE_MAX: of several groups
  for (const Named& one : all) {
    const auto [found, is_new] = only.emplace(one.expression, one.group);
    if (!is_new && found->second != one.group) found->second = SIZE_MAX;
  }
  std::vector<NameList> targets(groups.size(), NameList(*draft.architecture));
  for (const Named& one : all) {
    const bool by_expression =
        !one.expression.empty() &&
        (one.group == own || only.at(one.expression) == one.group);
    targets[one.group].AddOne(by_expression ? one.expression : one.name);
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    groups[g].targets = targets[g].names();
  }
  std::rotate(groups.begin() + static_cast<ptrdiff_t>(own),
              groups.begin() + static_cast<ptrdiff_t>(own) + 1, groups.end());
  if (groups.back().targets.empty()) groups.pop_back();
  return groups;
}

}  // namespace qs

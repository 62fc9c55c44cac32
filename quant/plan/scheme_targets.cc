// Tested by tests/quant/plan_overrides_test.cc.
#include "quant/plan/scheme_targets.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

#include "quant/plan/any_tree.h"
#include "quant/plan/skip_names.h"

namespace qs {
namespace {

using Groups = std::vector<CompressedTensorsGroup>;

// "re:(.*\.)?layers\.\d+\.mlp\.down_proj$" of "model.layers.3.mlp.down_proj";
// empty: the name has no number.
std::string ExpressionOf(const std::string& module) {
  const std::string_view end = SharedEnd(module);
  const bool has_number = WithoutNumbers(end) != end;
  return has_number ? "re:" + ExpressionOfEnd(end, true) : "";
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
  size_t group = 0;
  std::string alone;       // a target that is this module only
  std::string expression;  // with those of other layers; empty: there is none
};

// The name itself; where trees differ, an expression for it.
std::string Alone(const std::string& module, bool other_trees) {
  return other_trees ? "re:" + ExpressionOfEnd(SharedEnd(module), false)
                     : module;
}

using GroupOfText = std::unordered_map<std::string_view, size_t>;

// SIZE_MAX: of several groups.
GroupOfText OnlyGroups(const std::vector<Named>& all,
                       std::string Named::*text) {
  GroupOfText only;
  for (const Named& one : all) {
    const auto [found, is_new] = only.emplace(one.*text, one.group);
    if (!is_new && found->second != one.group) found->second = SIZE_MAX;
  }
  return only;
}

}  // namespace

Groups SchemeGroups(const Draft& draft) {
  const bool other_trees = HasOtherTrees(draft);
  Groups groups;
  std::vector<Named> all;
  std::vector<std::string> names;  // of `all`
  for (size_t i = 0; i < draft.tensors.size(); ++i) {
    if (!draft.Quantizes(i)) continue;
    const size_t group = GroupOf(SpecGrid(draft.SpecOf(i)), &groups);
    NameList list(*draft.architecture);
    list.Add(draft.tensors[i].module);
    for (const std::string& name : list.names()) {
      all.push_back({group, Alone(name, other_trees), ExpressionOf(name)});
      names.push_back(name);
    }
  }
  if (groups.size() == 1) return {{groups.front().grid}};
  // The request's own grid last: names of others then stand before the
  // expressions that would match them, too.
  const size_t own = GroupOf(SpecGrid(draft.request.spec), &groups);
  const GroupOfText expressions = OnlyGroups(all, &Named::expression);
  const GroupOfText alone = OnlyGroups(all, &Named::alone);
  std::vector<NameList> targets(groups.size(), NameList(*draft.architecture));
  for (size_t i = 0; i < all.size(); ++i) {
    const Named& one = all[i];
    if (!one.expression.empty() &&
        (one.group == own || expressions.at(one.expression) == one.group)) {
      targets[one.group].AddOne(one.expression);
    } else {
      const bool is_sure = alone.at(one.alone) == one.group;
      targets[one.group].AddOne(is_sure ? one.alone : names[i]);
    }
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

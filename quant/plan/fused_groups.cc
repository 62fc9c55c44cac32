// Tested by tests/quant/plan_rules_test.cc.
#include <optional>

#include "absl/strings/str_cat.h"
#include "quant/formats/json.h"
#include "quant/plan/draft.h"

namespace qs {
namespace {

struct Group {
  size_t members = 0;
  size_t quantized = 0;
  size_t carried = 0;  // the first one, rather one that a glob leaves out
  // Of those that are quantized: the first one, and the first one that is
  // quantized in another way.
  std::optional<size_t> first;
  std::optional<size_t> other;
};

std::unordered_map<std::string_view, Group> CollectGroups(const Draft& draft) {
  std::unordered_map<std::string_view, Group> groups;
  for (size_t i = 0; i < draft.tensors.size(); ++i) {
    if (draft.tensors[i].group.empty()) continue;
    Group& group = groups[draft.tensors[i].group];
    ++group.members;
    if (draft.Quantizes(i)) {
      ++group.quantized;
      if (!group.first) {
        group.first = i;
      } else if (!group.other &&
                 draft.SpecOf(i) != draft.SpecOf(*group.first)) {
        group.other = i;
      }
    } else if (group.members - group.quantized == 1 ||
               (draft.tensors[i].left_out_by_glob &&
                !draft.tensors[group.carried].left_out_by_glob)) {
      group.carried = i;
    }
  }
  return groups;
}

void CarryWithGroup(Draft* draft, size_t i, size_t cause) {
  PlanEntry& entry = draft->entry(i);
  entry.action = TensorAction::kCarry;
  entry.reason =
      absl::StrCat("fused with ", draft->TitleOf(cause),
                   ", which is carried: ", draft->entry(cause).reason);
}

// A glob through a group is the caller's to mend when the target fuses it: a
// wider choice than asked for would go unnoticed in a script. A rule through it
// always is.
void ReportSplit(Draft* draft, size_t cause) {
  const DraftTensor& item = draft->tensors[cause];
  const bool is_error =
      item.skipped ||
      (item.left_out_by_glob && draft->request.engine == Engine::kVllm);
  draft->findings.Add(
      is_error ? Severity::kError : Severity::kWarning, "GROUP_SPLIT",
      draft->TitleOf(cause),
      absl::StrCat("group ", item.group,
                   " is fused: all of it is quantized or none. This one is "
                   "carried (",
                   draft->entry(cause).reason, "), so the whole group is"));
}

std::string RuleText(const Draft& draft, size_t i) {
  const int rule = draft.entry(i).rule;
  if (rule == 0) return "no override";
  const PlanOverride& found =
      draft.request.overrides[static_cast<size_t>(rule) - 1];
  return absl::StrCat("override ", rule, " (", QuoteForError(found.tensors),
                      ")");
}

void ReportTwoWays(Draft* draft, size_t first, size_t other) {
  draft->findings.Add(
      Severity::kError, "GROUP_SPLIT", draft->TitleOf(other),
      absl::StrCat("group ", draft->tensors[other].group,
                   " is fused: all of it is quantized in one way. For this one "
                   "holds ",
                   RuleText(*draft, other), ", for ", draft->TitleOf(first),
                   " ", RuleText(*draft, first)));
}

}  // namespace

void CompleteGroups(Draft* draft) {
  const auto groups = CollectGroups(*draft);
  // Engines that fuse layers load the other two module by module, or not.
  const OutputFormat format = draft->request.spec.format;
  const bool fused =
      format != OutputFormat::kBitsandbytes && format != OutputFormat::kHqq;
  // A group is reported where its first carried member stands.
  for (size_t i = 0; i < draft->tensors.size(); ++i) {
    DraftTensor& item = draft->tensors[i];
    if (item.group.empty()) continue;
    const Group& group = groups.at(item.group);
    const bool split = group.quantized > 0 && group.quantized < group.members;
    if (fused && group.other == i) ReportTwoWays(draft, *group.first, i);
    if (!fused || !split) continue;
    if (i == group.carried) ReportSplit(draft, i);
    if (draft->Quantizes(i)) CarryWithGroup(draft, i, group.carried);
  }
  for (size_t i = 0; i < draft->tensors.size(); ++i) {
    DraftTensor& item = draft->tensors[i];
    if (!draft->Quantizes(i)) continue;
    draft->entry(i).site = item.site;
    if (item.group.empty() || groups.at(item.group).members < 2) continue;
    draft->entry(i).group = item.group;
  }
}

}  // namespace qs

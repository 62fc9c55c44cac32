// Tested by tests/quant/plan_stacks_test.cc.
#include "quant/plan/stacks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/plan/engines.h"
#include "quant/plan/folds.h"

namespace qs {
namespace {

bool HasEngine(const Architecture& architecture, Engine engine) {
  if (!architecture.single_experts) return true;
  const std::vector<Engine>& all = *architecture.single_experts;
  return std::find(all.begin(), all.end(), engine) != all.end();
}

// In these an engine finds the linears of an expert by their names.
bool NamesExperts(OutputFormat format) {
  return format != OutputFormat::kBitsandbytes && format != OutputFormat::kHqq;
}

std::string WhyEnginesDoNot(const Draft& draft) {
  const Architecture& architecture = *draft.architecture;
  const EngineRules* target = RulesOf(draft.request.engine);
  if (target != nullptr && !HasEngine(architecture, target->facts.engine)) {
    const std::string because = architecture.stacked_because.empty()
                                    ? ""
                                    : "; " + architecture.stacked_because;
    return absl::StrCat(target->Title(), " does not load the experts of ",
                        architecture.name, " as one 2-D weight each", because);
  }
  if (target == nullptr && architecture.single_experts &&
      architecture.single_experts->empty()) {
    return absl::StrCat("no engine loads the experts of ", architecture.name,
                        " as one 2-D weight each; ",
                        architecture.stacked_because);
  }
  return "";
}

// The stacks of a layer are checked against each other: what gate and up read
// is what down writes.
class StackPlanner {
 public:
  explicit StackPlanner(const Draft& draft) : draft_(draft) {}

  // How `tensor` is split, or why it is not.
  std::string Find(size_t i, StackCut* cut) const;

 private:
  std::string CheckSibling(const StackMatch& match, const StackCut& cut) const;

  const Draft& draft_;
};

std::string StackPlanner::CheckSibling(const StackMatch& match,
                                       const StackCut& cut) const {
  for (const auto& [path, rule] : draft_.architecture->stacks) {
    if (path == match.local) continue;
    const std::string name = ModuleIn(match.block, path);
    const auto found = draft_.by_name.find(name);
    if (found == draft_.by_name.end()) {
      return absl::StrCat("the checkpoint has no ", path, " beside it");
    }
    const PlanTensor& tensor = *draft_.tensors[found->second].tensor;
    StackCut other;
    const std::string reason = CutStack(rule, tensor, &other);
    if (!reason.empty() || other.experts != cut.experts ||
        other.rows != cut.cols || other.cols != cut.rows) {
      return absl::StrCat("its shape does not go with ", path, " [",
                          absl::StrJoin(tensor.shape, ", "), "], as ",
                          draft_.architecture->name, " stores them");
    }
  }
  return "";
}

std::string StackPlanner::Find(size_t i, StackCut* cut) const {
  const PlanTensor& tensor = *draft_.tensors[i].tensor;
  const StackMatch match = MatchStack(*draft_.architecture, tensor.name);
  if (match.rule == nullptr) return "";
  if (!NamesExperts(draft_.request.spec.format)) return "";
  std::string reason = WhyEnginesDoNot(draft_);
  if (reason.empty()) reason = CutStack(*match.rule, tensor, cut);
  if (reason.empty()) reason = CheckSibling(match, *cut);
  if (reason.empty() &&
      draft_.by_name.contains(SliceName(tensor, *cut, 0, 0))) {
    reason = "the checkpoint has its experts as 2-D weights, too";
  }
  if (!reason.empty()) *cut = StackCut();
  return reason;
}

absl::Status AddSlices(Draft* draft, const PlanTensor& stack,
                       const StackCut& cut) {
  const auto parts = static_cast<int64_t>(cut.rule->parts.size());
  for (int64_t expert = 0; expert < cut.experts; ++expert) {
    for (int64_t part = 0; part < parts; ++part) {
      PlanTensor& slice = draft->slices.emplace_back();
      slice.name = SliceName(stack, cut, expert, part);
      slice.dtype = stack.dtype;
      slice.shape = {cut.rows, cut.cols};
      slice.file = stack.file;
      QS_RETURN_IF_ERROR(AddTensor(draft, slice));
      draft->tensors.back().stack = &stack;
      const bool alternate = cut.rule->interleaved;
      draft->plan.entries.back().slice =
          PlanSlice{stack.name, expert, cut.rule->transposed,
                    alternate ? part : part * cut.rows, alternate ? parts : 1};
    }
  }
  return absl::OkStatus();
}

// Takes the tensors out, for others to be put in.
struct Old {
  explicit Old(Draft* draft)
      : tensors(std::exchange(draft->tensors, {})),
        entries(std::exchange(draft->plan.entries, {})) {
    draft->by_name.clear();
  }
  void Keep(size_t i, Draft* draft) {
    draft->by_name.emplace(tensors[i].tensor->name, draft->tensors.size());
    draft->tensors.push_back(std::move(tensors[i]));
    draft->plan.entries.push_back(std::move(entries[i]));
  }

  std::vector<DraftTensor> tensors;
  std::vector<PlanEntry> entries;
};

void MarkSplit(const StackCut& cut, PlanEntry* entry) {
  entry->action = TensorAction::kSplit;
  entry->reason =
      absl::StrCat("3-D expert stack: split into ",
                   cut.experts * static_cast<int64_t>(cut.rule->parts.size()),
                   " 2-D weights");
  entry->bytes_in = 0;
  entry->bytes_out = 0;
}

// The slice for whose sake a stack is carried: one that is not carried with
// another, if there is any. `end`: all are quantized.
size_t FindCarried(const Draft& draft, size_t begin, size_t end) {
  size_t found = end;
  for (size_t i = begin; i < end; ++i) {
    if (draft.Quantizes(i)) continue;
    if (!absl::StartsWith(draft.entry(i).reason, "fused with ")) return i;
    if (found == end) found = i;
  }
  return found;
}

// `cause`: one of its slices.
void CarryStack(Draft* draft, size_t i, size_t cause, int64_t bytes) {
  PlanEntry& entry = draft->entry(i);
  DraftTensor& item = draft->tensors[i];
  entry.action = TensorAction::kCarry;
  entry.reason = draft->entry(cause).reason;
  entry.rule = draft->entry(cause).rule;
  item.skipped = draft->tensors[cause].skipped;
  entry.bytes_in = bytes;
  entry.bytes_out = bytes;
  item.is_stack = true;
  if (draft->tensors[cause].left_out_by_glob) return;
  entry.reason = absl::StrCat("3-D expert stack [",
                              absl::StrJoin(item.tensor->shape, ", "),
                              "]: ", entry.reason);
  draft->findings.Add(Severity::kWarning, "EXPERT_STACK", entry.name,
                      entry.reason);
}

size_t SlicesEnd(const std::vector<DraftTensor>& tensors, size_t stack) {
  size_t end = stack + 1;
  while (end < tensors.size() && tensors[end].stack == tensors[stack].tensor) {
    ++end;
  }
  return end;
}

}  // namespace

std::string CutStack(const StackRule& rule, const PlanTensor& tensor,
                     StackCut* cut) {
  const auto parts = static_cast<int64_t>(rule.parts.size());
  if (tensor.shape.size() != 3) return "it has not three dimensions";
  const int64_t out = tensor.shape[rule.transposed ? 2 : 1];
  *cut = {&rule, tensor.shape[0], out / parts,
          tensor.shape[rule.transposed ? 1 : 2]};
  if (out % parts == 0 && cut->experts > 0 && cut->rows > 0 && cut->cols > 0) {
    return "";
  }
  return absl::StrCat(out, " rows of an expert are no ", parts, " linears");
}

std::string SliceName(const PlanTensor& stack, const StackCut& cut,
                      int64_t expert, int64_t part) {
  const size_t dot = stack.name.rfind('.');
  return absl::StrCat(stack.name.substr(0, dot), ".", expert, ".",
                      cut.rule->parts[static_cast<size_t>(part)], ".weight");
}

absl::Status SplitStacks(Draft* draft) {
  if (draft->architecture->stacks.empty()) return absl::OkStatus();
  const StackPlanner planner(*draft);
  std::vector<StackCut> cuts(draft->tensors.size());
  auto total = static_cast<int64_t>(draft->tensors.size());
  bool any = false;
  for (size_t i = 0; i < cuts.size(); ++i) {
    if (draft->entry(i).action == TensorAction::kTied) continue;
    draft->tensors[i].whole = planner.Find(i, &cuts[i]);
    if (cuts[i].rule == nullptr) continue;
    any = true;
    const auto parts = static_cast<int64_t>(cuts[i].rule->parts.size());
    total += std::min(cuts[i].experts, draft->request.max_entries) * parts;
    if (total <= draft->request.max_entries) continue;
    return absl::ResourceExhaustedError(
        absl::StrCat("tensors: got more than ", draft->request.max_entries,
                     ", which are allowed, counting the experts of ",
                     draft->tensors[i].tensor->name));
  }
  if (!any) return absl::OkStatus();
  Old old(draft);
  for (size_t i = 0; i < cuts.size(); ++i) {
    old.Keep(i, draft);
    if (cuts[i].rule == nullptr) continue;
    MarkSplit(cuts[i], &draft->plan.entries.back());
    QS_RETURN_IF_ERROR(
        AddSlices(draft, *draft->tensors.back().tensor, cuts[i]));
  }
  return absl::OkStatus();
}

void JoinStacks(Draft* draft) {
  std::vector<bool> removed(draft->tensors.size());
  bool any = false;
  for (size_t i = 0; i < removed.size(); ++i) {
    if (draft->entry(i).action != TensorAction::kSplit) continue;
    const size_t end = SlicesEnd(draft->tensors, i);
    const size_t carried = FindCarried(*draft, i + 1, end);
    if (carried == end) continue;
    any = true;
    int64_t bytes = 0;
    for (size_t k = i + 1; k < end; ++k) {
      bytes += draft->entry(k).bytes_in;
      removed[k] = true;
    }
    CarryStack(draft, i, carried, bytes);
  }
  if (!any) return;
  Old old(draft);
  for (size_t i = 0; i < removed.size(); ++i) {
    if (!removed[i]) old.Keep(i, draft);
  }
}

}  // namespace qs

// Tested by tests/quant/plan_test.cc.
#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "quant/plan/draft.h"
#include "quant/tensor_quantizer.h"

namespace qs {
namespace {

using Reason = std::optional<std::string>;

constexpr std::string_view kWeight = ".weight";

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

bool IsNf4(const Draft& draft) { return draft.request.spec.nf4() != nullptr; }

// The rules of the target for this format; null without a target.
const FormatRules* TargetRules(const Draft& draft) {
  const EngineRules* rules = RulesOf(draft.request.engine);
  return rules == nullptr ? nullptr : rules->Find(draft.request.spec.format);
}

bool IsStack(const PlanTensor& tensor, std::string_view module) {
  if (tensor.shape.size() != 3) return false;
  if (absl::StrContains(tensor.name, "experts")) return true;
  const std::vector<std::string>& ends = TheCatalogue().stacks;
  return std::any_of(ends.begin(), ends.end(), [module](const auto& end) {
    return module.ends_with(end);
  });
}

Reason Convolution(const Draft& draft, DraftTensor* item) {
  const std::string shape = ShapeText(item->tensor->shape);
  const OutputFormat format = draft.request.spec.format;
  if (!IsNf4(draft) && format != OutputFormat::kHqq) {
    return absl::StrCat("convolution ", shape, ": ",
                        format == OutputFormat::kCompressedTensors
                            ? "compressed-tensors packs 2-D weights"
                            : "GPTQ and AWQ files hold linears");
  }
  const FormatRules* rules = TargetRules(draft);
  if (rules != nullptr && rules->linear_modules_only) {
    return absl::StrCat(
        "convolution ", shape, ": ", RulesOf(draft.request.engine)->facts.name,
        IsNf4(draft) ? " loads 4-bit weights into nn.Linear only"
                     : " loads packed weights into nn.Linear "
                       "only");
  }
  item->is_conv = true;
  return std::nullopt;
}

// Nothing of a tower is quantized, whatever its shape: one expression names it
// whole among what is not (any_tree.h).
Reason OfTower(const Draft& draft, const DraftTensor& item) {
  if (TowerOf(draft, item.module).empty()) return std::nullopt;
  return "vision or audio part of a multimodal model";
}

// Projectors and resamplers of models that nobody knows: engines make plain
// modules of them.
Reason BesideBlocks(const Draft& draft, const DraftTensor& item) {
  if (!draft.architecture->by_shape || !draft.config.has_towers ||
      InNumberedBlock(item.module)) {
    return std::nullopt;
  }
  return "outside of the blocks of a multimodal model";
}

// Tensors of more or fewer than two dimensions, and names that are no weight's.
Reason ByForm(const Draft& draft, DraftTensor* item) {
  const PlanTensor& tensor = *item->tensor;
  const std::string_view kind = KindOfModule(item->module);
  const bool is_weight = tensor.name.ends_with(kWeight);
  if (tensor.shape.size() < 2) {
    if (is_weight && kind == "norm") return TheCatalogue().kinds.at("norm");
    return tensor.shape.empty() ? "a scalar" : "1-D";
  }
  if (IsStack(tensor, item->module)) {
    item->is_stack = true;
    return absl::StrCat("3-D expert stack ", ShapeText(tensor.shape), ": ",
                        item->whole.empty()
                            ? "the format stores experts as one 2-D weight each"
                            : item->whole);
  }
  if (!is_weight) return "no module's weight: the name does not end in .weight";
  if (tensor.shape.size() == 2) return std::nullopt;
  if (!kind.empty()) return TheCatalogue().kinds.at(std::string(kind));
  if (Reason reason = OfTower(draft, *item)) return reason;
  if (Reason reason = BesideBlocks(draft, *item)) return reason;
  return Convolution(draft, item);
}

std::string Below(std::string_view block, std::string_view local) {
  return block.empty()
             ? std::string(local)
             : absl::StrCat(std::string(block), "/", std::string(local));
}

void SetRule(DraftTensor* item, const RuleMatch& match) {
  item->rule = match.rule;
  item->site = Below(match.block,
                     match.rule->site.empty() ? match.local : match.rule->site);
  if (!match.rule->group.empty()) {
    item->group = Below(match.block, match.rule->group);
  }
}

// A Conv1D (GPT-2) holds [in, out], so its bias has as many values as columns.
Reason Transposed(const Draft& draft, const DraftTensor& item) {
  const auto found =
      draft.by_name.find(absl::StrCat(std::string(item.module), ".bias"));
  if (found == draft.by_name.end()) return std::nullopt;
  const std::vector<int64_t>& bias = draft.tensors[found->second].tensor->shape;
  if (bias.size() != 1 || bias[0] == item.tensor->shape[0]) return std::nullopt;
  return absl::StrCat("not stored [out, in]: shape ",
                      ShapeText(item.tensor->shape), ", bias ",
                      ShapeText(bias));
}

// A part of a name says too little: ELECTRA's embeddings_project is a linear. A
// name too many in a list of linears does no harm.
bool MaybeLinear(std::string_view module) {
  return KindOfName(module) != "embedding";
}

Reason ByShape(const Draft& draft, DraftTensor* item) {
  const PlanTensor& tensor = *item->tensor;
  const std::string_view kind = KindOfModule(item->module);
  if (!kind.empty()) {
    item->is_linear = MaybeLinear(item->module);
    return TheCatalogue().kinds.at(std::string(kind));
  }
  item->is_linear = true;
  if (draft.config.vocab_size > 0 &&
      tensor.shape[0] == draft.config.vocab_size) {
    return absl::StrCat("embedding or output head: ", ShapeText(tensor.shape),
                        " with a vocabulary of ", draft.config.vocab_size);
  }
  if (Reason reason = BesideBlocks(draft, *item)) return reason;
  if (Reason reason = Transposed(draft, *item)) return reason;
  const RuleMatch match = MatchRule(*draft.architecture, item->module);
  if (match.rule != nullptr) {
    SetRule(item, match);
  } else {
    item->site = std::string(item->module);
  }
  return std::nullopt;
}

// Is this 2-D weight a linear?
Reason ByName(const Draft& draft, DraftTensor* item) {
  if (Reason reason = OfTower(draft, *item)) {
    item->is_linear = MaybeLinear(item->module);
    return reason;
  }
  if (draft.architecture->by_shape) return ByShape(draft, item);
  const RuleMatch match = MatchRule(*draft.architecture, item->module);
  if (match.rule != nullptr) {
    item->is_linear = true;
    SetRule(item, match);
    return std::nullopt;
  }
  const std::string_view kind = KindOfModule(item->module);
  item->is_linear = MaybeLinear(item->module);
  if (!kind.empty()) return TheCatalogue().kinds.at(std::string(kind));
  return absl::StrCat("no linear of a block of ", draft.architecture->name);
}

Reason ByTarget(const Draft& draft, const DraftTensor& item) {
  const EngineRules* target = RulesOf(draft.request.engine);
  const FormatRules* rules = TargetRules(draft);
  if (rules == nullptr) return std::nullopt;
  if (item.rule != nullptr && item.rule->expert) {
    const std::string reason =
        WhyNoExperts(*draft.architecture, *target, *rules);
    if (!reason.empty()) return "expert: " + reason;
  }
  if (rules->linear4bit && rules->merges_experts &&
      !draft.architecture->transformers_bitsandbytes.empty()) {
    return draft.architecture->transformers_bitsandbytes;
  }
  return std::nullopt;
}

// A slice goes by its stack's name, too.
bool MatchesItem(const std::string& glob, const DraftTensor& item) {
  return GlobMatch(glob, item.tensor->name) ||
         (item.stack != nullptr && GlobMatch(glob, item.stack->name));
}

bool MatchesItem(const std::vector<std::string>& globs,
                 const DraftTensor& item) {
  return std::any_of(
      globs.begin(), globs.end(),
      [&item](const std::string& glob) { return MatchesItem(glob, item); });
}

Reason ByGlobs(const Draft& draft, DraftTensor* item) {
  const PlanRequest& request = draft.request;
  const bool included =
      request.include.empty() || MatchesItem(request.include, *item);
  if (included && !MatchesItem(request.exclude, *item)) return std::nullopt;
  item->left_out_by_glob = true;
  return included ? "excluded" : "not included";
}

Reason ByOverride(const Draft& draft, size_t i, DraftTensor* item) {
  const int rule = draft.entry(i).rule;
  if (rule == 0) return std::nullopt;
  const PlanOverride& found =
      draft.request.overrides[static_cast<size_t>(rule) - 1];
  if (found.spec) return std::nullopt;
  item->left_out_by_glob = true;
  item->skipped = true;
  return absl::StrCat("skipped by override ", rule, " (",
                      QuoteForError(found.tensors), ")");
}

Reason CarryForGroups(Draft* draft, const QuantSpec& spec,
                      const std::string& name, int64_t cols) {
  const std::string text = absl::StrCat(
      "group_size: got ", SpecGrid(spec).group_size, ", allowed ",
      spec.hqq() == nullptr ? "-1 or " : "", "a divisor of ", cols, " columns");
  draft->findings.Add(Severity::kWarning, "GROUP_SIZE", name,
                      text + "; carried");
  return text;
}

// Shapes that the groups or the packed words of the format do not fit.
Reason ByGrid(Draft* draft, const QuantSpec& spec, const std::string& name,
              const MatrixShape& shape) {
  const FormatRules* rules = TargetRules(*draft);
  const bool whole = (rules != nullptr && rules->whole_groups) ||
                     spec.format == OutputFormat::kCompressedTensors;
  const int64_t group_size = SpecGrid(spec).group_size;
  if (whole && group_size > 0 && shape.cols % group_size != 0) {
    return CarryForGroups(draft, spec, name, shape.cols);
  }
  const absl::Status status =
      ValidateSpecForShape(spec, name, shape.rows, shape.cols);
  if (status.ok()) return std::nullopt;
  // Without the name, so that equal findings merge.
  std::string text(status.message());
  const size_t colon = text.find("\": ");
  if (colon != text.npos) text.erase(0, colon + 3);
  draft->findings.Add(Severity::kWarning, "SHAPE", name, text + "; carried");
  return text;
}

// Sizes that the method or the format cannot take.
Reason BySize(Draft* draft, size_t i) {
  const PlanTensor& tensor = *draft->tensors[i].tensor;
  const MatrixShape shape = AsMatrix(tensor.shape);
  if (shape.rows * shape.cols < TheCatalogue().min_elements) {
    return absl::StrCat("small: ", shape.rows * shape.cols,
                        " weights, fewer than ", TheCatalogue().min_elements);
  }
  if (shape.rows == 1) return "one output row";
  if (IsNf4(*draft)) return std::nullopt;
  return ByGrid(draft, draft->SpecOf(i), draft->TitleOf(i), shape);
}

Reason ReasonToCarry(Draft* draft, size_t i) {
  DraftTensor* const item = &draft->tensors[i];
  const PlanTensor& tensor = *item->tensor;
  if (Reason reason = ByForm(*draft, item)) return reason;
  if (tensor.shape.size() == 2) {
    if (Reason reason = ByName(*draft, item)) return reason;
  } else {
    item->site = std::string(item->module);
  }
  if (Reason reason = ByTarget(*draft, *item)) return reason;
  if (Reason reason = ByGlobs(*draft, item)) return reason;
  if (Reason reason = ByOverride(*draft, i, item)) return reason;
  if (!IsFloatWeight(tensor.dtype)) {
    return absl::StrCat("dtype ", DTypeName(tensor.dtype),
                        ": allowed are F32, F16 and BF16");
  }
  return BySize(draft, i);
}

// Those that match no tensor.
absl::StatusOr<std::vector<std::string>> Unmatched(
    const Draft& draft, std::vector<std::string> globs) {
  for (const DraftTensor& item : draft.tensors) {
    if (globs.empty()) break;
    QS_RETURN_IF_ERROR(draft.Wanted());
    std::erase_if(globs, [&item](const std::string& glob) {
      return MatchesItem(glob, item);
    });
  }
  return globs;
}

// A name that is misspelt leaves in what its user wanted left out, or out what
// was wanted in.
absl::Status CheckGlobs(Draft* draft) {
  const PlanRequest& request = draft->request;
  const std::pair<const char*, const std::vector<std::string>*> lists[] = {
      {"include", &request.include}, {"exclude", &request.exclude}};
  for (const auto& [field, globs] : lists) {
    QS_ASSIGN_OR_RETURN(const std::vector<std::string> none,
                        Unmatched(*draft, *globs));
    if (none.empty()) continue;
    std::string text = absl::StrCat(
        field, ": got ", QuoteForError(none.front()),
        none.size() > 1 ? absl::StrCat(" (and ", none.size() - 1, " more)")
                        : "",
        ", which matches none of ", request.tensors.size(), " tensor names");
    if (globs == &request.include && none.size() == globs->size()) {
      return absl::InvalidArgumentError(text);
    }
    draft->findings.Add(Severity::kWarning, "GLOB_UNUSED", "", std::move(text));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view TowerOf(const Draft& draft, std::string_view module) {
  const Architecture& architecture = *draft.architecture;
  if (!architecture.towers && !draft.config.has_towers) return "";
  // A tower may be a linear itself.
  const std::string path = absl::StrCat(std::string(module), ".");
  for (const std::string& part :
       architecture.towers ? *architecture.towers : TheCatalogue().towers) {
    const size_t found = path.find(part);
    if (found == path.npos) continue;
    const size_t dot = found == 0 ? module.npos : module.rfind('.', found - 1);
    const size_t begin = dot == module.npos ? 0 : dot + 1;
    const size_t end = found + part.size() - (part.ends_with('.') ? 1 : 0);
    return module.substr(begin, end - begin);
  }
  return "";
}

absl::Status Classify(Draft* draft) {
  QS_RETURN_IF_ERROR(CheckGlobs(draft));
  for (size_t i = 0; i < draft->tensors.size(); ++i) {
    QS_RETURN_IF_ERROR(draft->Wanted());
    PlanEntry& entry = draft->entry(i);
    if (entry.action != TensorAction::kCarry) continue;
    DraftTensor& item = draft->tensors[i];
    Reason reason = ReasonToCarry(draft, i);
    if (!reason && !entry.reason.empty()) reason = entry.reason;  // a tie
    if (reason) {
      entry.reason = *std::move(reason);
      if (item.is_stack) {
        draft->findings.Add(Severity::kWarning, "EXPERT_STACK", entry.name,
                            entry.reason);
      }
      continue;
    }
    entry.action = TensorAction::kQuantize;
  }
  return absl::OkStatus();
}

}  // namespace qs

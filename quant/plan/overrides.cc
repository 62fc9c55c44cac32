// Tested by tests/quant/plan_overrides_test.cc.
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "quant/plan/draft.h"

namespace qs {
namespace {

absl::Status BadOverride(size_t place, const std::string& text) {
  return absl::InvalidArgumentError(
      absl::StrCat("overrides[", place, "].", text));
}

// Whether files of the format, but compressed-tensors, say both the same way.
bool SameScheme(const QuantSpec& a, const QuantSpec& b) {
  if ((a.nf4() == nullptr) != (b.nf4() == nullptr)) return false;
  if (const Nf4Spec* nf4 = a.nf4()) {
    return nf4->codebook == b.nf4()->codebook &&
           nf4->block_size == b.nf4()->block_size &&
           nf4->double_quant == b.nf4()->double_quant;
  }
  const auto act_order = [](const QuantSpec& spec) {
    return spec.gptq() != nullptr &&
           spec.gptq()->order == ColumnOrder::kActOrder;
  };
  const auto axis = [](const QuantSpec& spec) {
    return spec.hqq() == nullptr ? 1 : spec.hqq()->axis;
  };
  const GridSpec x = SpecGrid(a);
  const GridSpec y = SpecGrid(b);
  return x.bits == y.bits && x.group_size == y.group_size &&
         x.symmetric == y.symmetric && axis(a) == axis(b) &&
         act_order(a) == act_order(b);
}

absl::Status CheckSpec(const PlanRequest& request, size_t place) {
  const std::optional<QuantSpec>& spec = request.overrides[place].spec;
  if (!spec) return absl::OkStatus();
  const absl::Status valid = ValidateSpec(*spec);
  if (!valid.ok()) {
    return BadOverride(place,
                       absl::StrCat("config.", std::string(valid.message())));
  }
  if (spec->format != request.spec.format) {
    return BadOverride(place,
                       "config.format: got another one than the checkpoint's, "
                       "allowed the same: a checkpoint has one");
  }
  if (spec->format == OutputFormat::kCompressedTensors ||
      SameScheme(*spec, request.spec)) {
    return absl::OkStatus();
  }
  return BadOverride(
      place,
      "config: got other bits, groups or codes than the rest of the "
      "checkpoint, which files of this format cannot say; allowed are skip, "
      "the "
      "same ones, or the format COMPRESSED_TENSORS");
}

// The first rule that matches is `entry.rule`; `matched` is of all.
void Apply(Draft* draft, size_t i, std::vector<bool>* matched) {
  const std::vector<PlanOverride>& rules = draft->request.overrides;
  const DraftTensor& item = draft->tensors[i];
  for (size_t r = 0; r < rules.size(); ++r) {
    if (!GlobMatch(rules[r].tensors, item.tensor->name) &&
        (item.stack == nullptr ||
         !GlobMatch(rules[r].tensors, item.stack->name))) {
      continue;
    }
    (*matched)[r] = true;
    PlanEntry& entry = draft->entry(i);
    if (entry.rule == 0) entry.rule = static_cast<int>(r) + 1;
  }
}

}  // namespace

absl::Status ApplyOverrides(Draft* draft) {
  const std::vector<PlanOverride>& rules = draft->request.overrides;
  for (size_t r = 0; r < rules.size(); ++r) {
    QS_RETURN_IF_ERROR(CheckSpec(draft->request, r));
  }
  std::vector<bool> matched(rules.size());
  if (rules.empty()) return absl::OkStatus();
  for (size_t i = 0; i < draft->tensors.size(); ++i) {
    QS_RETURN_IF_ERROR(draft->Wanted());
    Apply(draft, i, &matched);
  }
  const auto none = std::find(matched.begin(), matched.end(), false);
  if (none == matched.end()) return absl::OkStatus();
  const auto place = static_cast<size_t>(none - matched.begin());
  return BadOverride(
      place, absl::StrCat("tensors: got ", QuoteForError(rules[place].tensors),
                          ", which matches none of ",
                          draft->request.tensors.size(), " tensor names"));
}

void ReportUnusedOverrides(Draft* draft) {
  const std::vector<PlanOverride>& rules = draft->request.overrides;
  std::vector<bool> used(rules.size());
  for (size_t i = 0; i < draft->tensors.size(); ++i) {
    const int rule = draft->entry(i).rule;
    if (rule == 0) continue;
    const auto place = static_cast<size_t>(rule) - 1;
    if (draft->Quantizes(i) || draft->tensors[i].skipped) used[place] = true;
  }
  for (size_t r = 0; r < rules.size(); ++r) {
    if (used[r]) continue;
    draft->findings.Add(
        Severity::kWarning, "OVERRIDE_UNUSED", "",
        absl::StrCat("override ", r + 1, " (", QuoteForError(rules[r].tensors),
                     ") changes nothing: what it matches is not quantized "
                     "anyway, or an earlier one holds for it"));
  }
}

bool SomeNeedCalibration(const Draft& draft) {
  if (NeedsCalibration(draft.request.spec)) return true;
  const std::vector<PlanOverride>& rules = draft.request.overrides;
  return std::any_of(rules.begin(), rules.end(), [](const PlanOverride& rule) {
    return rule.spec && NeedsCalibration(*rule.spec);
  });
}

}  // namespace qs

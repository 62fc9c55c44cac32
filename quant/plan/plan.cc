// Tested by tests/quant/plan_test.cc, tests/quant/plan_rules_test.cc and
// tests/quant/plan_sites_test.cc.
#include "quant/plan/plan.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "quant/plan/draft.h"
#include "quant/tensor_quantizer.h"

namespace qs {
namespace {

absl::StatusOr<int64_t> TensorBytes(const PlanTensor& tensor) {
  const std::optional<int64_t> count = CheckedNumElements(tensor.shape);
  const std::optional<int64_t> bytes =
      count ? CheckedMul(*count, DTypeBytes(tensor.dtype)) : std::nullopt;
  if (!bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", QuoteForError(tensor.name),
                     ": shape: more bytes than 64 bits count"));
  }
  const int64_t range = tensor.end - tensor.begin;
  if (range != 0 && range != *bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", QuoteForError(tensor.name), ": end - begin: got ", range,
        ", allowed ", *bytes, " for its shape and dtype, or 0"));
  }
  return *bytes;
}

absl::Status ReadInput(Draft* draft) {
  const PlanRequest& request = draft->request;
  QS_RETURN_IF_ERROR(ValidateSpec(request.spec));
  if (request.tensor_parallel < 1) {
    return absl::InvalidArgumentError(absl::StrCat("tensor_parallel: got ",
                                                   request.tensor_parallel,
                                                   ", allowed at least 1"));
  }
  const auto tensors = static_cast<int64_t>(request.tensors.size());
  if (tensors > request.max_entries) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "tensors: got ", tensors, ", allowed ", request.max_entries));
  }
  QS_ASSIGN_OR_RETURN(draft->config, ReadConfigFacts(request.config_json));
  draft->architecture = &FindArchitecture(draft->config);
  draft->plan.architecture = draft->architecture->name;
  draft->tensors.reserve(request.tensors.size());
  draft->plan.entries.reserve(request.tensors.size());
  draft->by_name.reserve(request.tensors.size());
  for (const PlanTensor& tensor : request.tensors) {
    QS_RETURN_IF_ERROR(AddTensor(draft, tensor));
  }
  return absl::OkStatus();
}

// An alias's bytes are counted once.
bool SharesRange(const Draft& draft, size_t i) {
  const PlanEntry& entry = draft.entry(i);
  if (entry.action != TensorAction::kTied) return false;
  const PlanTensor& tensor = *draft.tensors[i].tensor;
  const PlanTensor& target =
      *draft.tensors[draft.by_name.at(entry.tied_to)].tensor;
  return tensor.end > tensor.begin && tensor.begin == target.begin &&
         tensor.file == target.file;
}

absl::Status CountBytes(Draft* draft) {
  Plan& plan = draft->plan;
  for (size_t i = 0; i < plan.entries.size(); ++i) {
    PlanEntry& entry = plan.entries[i];
    const PlanTensor& tensor = *draft->tensors[i].tensor;
    if (entry.action == TensorAction::kQuantize) {
      ++plan.tensors_quantized;
      QS_ASSIGN_OR_RETURN(
          entry.bytes_out,
          OutputBytes(draft->SpecOf(i),
                      {tensor.name, tensor.dtype, tensor.shape}));
    }
    if (!SharesRange(*draft, i)) plan.bytes_in += entry.bytes_in;
    plan.bytes_out += entry.bytes_out;
  }
  if (plan.tensors_quantized > 0) return absl::OkStatus();
  draft->findings.Add(Severity::kError, "NOTHING_TO_QUANTIZE", "",
                      "no tensor would be quantized; each entry says why");
  return absl::OkStatus();
}

// Who loads a model by its config.json, and not tensors into modules that the
// caller has made.
bool ReadsConfig(Engine engine) {
  return engine == Engine::kVllm || engine == Engine::kTransformers ||
         engine == Engine::kGptqModel;
}

void WarnOfNoConfig(const EngineRules& rules, Draft* draft) {
  draft->findings.Add(
      Severity::kWarning, "NO_CONFIG", "",
      absl::StrCat("config.json: got none, so the output has none; ",
                   rules.Title(),
                   " needs one, with quantization_config, to load it: take the "
                   "model's whole directory"));
}

void WarnOfUnknown(const EngineRules& rules, Draft* draft) {
  draft->findings.Add(
      Severity::kWarning, "ARCHITECTURE_UNKNOWN", "",
      absl::StrCat("model_type: got ", QuoteForError(draft->config.model_type),
                   ", which the catalogue does not have: linears are told by "
                   "names and shapes, and whether ",
                   rules.Title(),
                   " loads packed ones in each of their places nobody has "
                   "tried"));
}

// The target's findings count as they are. Without a target those of every
// engine that knows the format are warnings.
absl::Status LintEngines(Draft* draft) {
  Plan& plan = draft->plan;
  const PlanRequest& request = draft->request;
  for (const EngineRules& rules : AllEngineRules()) {
    QS_ASSIGN_OR_RETURN(const FindingList findings, Lint(*draft, rules));
    const bool reads_config = ReadsConfig(rules.facts.engine);
    const bool lacks_config = request.config_json.empty() && reads_config;
    // Of an architecture that is not known nobody has tried which of its
    // modules an engine's own model makes of packed weights.
    const bool tried = !draft->architecture->by_shape || !reads_config;
    if (!findings.HasError() && plan.tensors_quantized > 0 && !lacks_config &&
        tried) {
      plan.engines.push_back(rules.Title());
    }
    if (lacks_config && rules.facts.engine == request.engine) {
      WarnOfNoConfig(rules, draft);
    } else if (!tried && rules.facts.engine == request.engine) {
      WarnOfUnknown(rules, draft);
    }
    if (rules.facts.engine == request.engine) {
      draft->findings.Append(findings, false);
    } else if (request.engine == Engine::kNone &&
               rules.Find(request.spec.format) != nullptr) {
      draft->findings.Append(findings, true);
    }
  }
  return absl::OkStatus();
}

void FindSites(Draft* draft) {
  if (draft->request.list_sites || SomeNeedCalibration(*draft)) {
    draft->plan.sites = PlanSites(draft);
  }
}

void ListFiles(Draft* draft) { draft->plan.files = PlanFiles(*draft); }

void WriteConfig(Draft* draft) {
  draft->plan.quantization_config_json = OutputConfigJson(*draft);
}

// A stage that cannot fail.
template <void stage(Draft*)>
absl::Status Run(Draft* draft) {
  stage(draft);
  return absl::OkStatus();
}

constexpr absl::Status (*kStages[])(Draft*) = {
    ReadInput,
    CheckSourceIsFloat,
    Run<FindTies>,
    SplitStacks,
    ApplyOverrides,
    Classify,
    Run<ShareInputs>,
    Run<CompleteGroups>,
    Run<JoinStacks>,
    Run<ReportUnusedOverrides>,
    Run<FindSites>,
    CountBytes,
    Run<CheckOutputNames>,
    LintEngines,
    Run<ListFiles>,
    Run<WriteConfig>,
};

}  // namespace

absl::Status AddTensor(Draft* draft, const PlanTensor& tensor) {
  const size_t index = draft->tensors.size();
  if (!draft->by_name.emplace(tensor.name, index).second) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", QuoteForError(tensor.name), ": got it twice, allowed once"));
  }
  PlanEntry& entry = draft->plan.entries.emplace_back();
  QS_ASSIGN_OR_RETURN(entry.bytes_in, TensorBytes(tensor));
  entry.name = tensor.name;
  entry.bytes_out = entry.bytes_in;
  const MatrixShape shape = AsMatrix(tensor.shape);
  entry.rows = shape.rows;
  entry.cols = shape.cols;
  DraftTensor& item = draft->tensors.emplace_back();
  item.tensor = &tensor;
  item.module = tensor.name;
  if (item.module.ends_with(".weight")) item.module.remove_suffix(7);
  return absl::OkStatus();
}

absl::StatusOr<Plan> MakePlan(const PlanRequest& request) {
  Draft draft(request);
  for (const auto stage : kStages) {
    QS_RETURN_IF_ERROR(draft.Wanted());
    QS_RETURN_IF_ERROR(stage(&draft));
  }
  draft.plan.findings = draft.findings.Findings();
  draft.plan.refused = draft.findings.HasError();
  return std::move(draft.plan);
}

}  // namespace qs

// Draft: a plan in the making. MakePlan runs the stages over it in this order:
// source check, ties, split stacks, overrides, classify, shared inputs, fused
// groups, join stacks, sites, lint, files, output config. Before each it looks
// whether the plan is still wanted; those that take long look at each tensor.
#ifndef QS_QUANT_PLAN_DRAFT_H_
#define QS_QUANT_PLAN_DRAFT_H_

#include <atomic>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/status_macros.h"
#include "quant/plan/catalogue.h"
#include "quant/plan/config_facts.h"
#include "quant/plan/engines.h"
#include "quant/plan/findings.h"
#include "quant/plan/plan.h"

namespace qs {

// What the stages know about a tensor beside its plan entry, which has the same
// index.
struct DraftTensor {
  const PlanTensor* tensor = nullptr;  // of the request, or a slice
  const PlanTensor* stack = nullptr;   // that this is a slice of
  std::string_view module;             // the name without ".weight"
  const LinearRule* rule = nullptr;    // null: no rule of the catalogue
  std::string site;                    // of a linear, quantized or not
  std::string group;
  bool is_conv = false;    // quantized as a flattened convolution
  bool is_stack = false;   // 3-D stack of experts, not split
  bool is_linear = false;  // maybe an nn.Linear: named when not quantized
  bool left_out_by_glob = false;
  bool skipped = false;  // by a rule, which is a glob, too
  std::string whole;     // why a stack is not split; empty: it is not known
};

struct Draft {
  explicit Draft(const PlanRequest& r) : request(r) {}

  const PlanRequest& request;
  ConfigFacts config;
  const Architecture* architecture = nullptr;
  std::unordered_map<std::string_view, size_t> by_name;
  std::vector<DraftTensor> tensors;  // as plan.entries
  std::deque<PlanTensor> slices;     // those of stacks that were split
  FindingList findings;
  Plan plan;

  PlanEntry& entry(size_t i) { return plan.entries[i]; }
  const PlanEntry& entry(size_t i) const { return plan.entries[i]; }
  bool Quantizes(size_t i) const {
    return entry(i).action == TensorAction::kQuantize;
  }
  // CANCELLED when nobody wants the plan any more.
  absl::Status Wanted() const {
    const std::atomic<bool>* const cancelled = request.cancelled;
    if (cancelled == nullptr || !cancelled->load()) return absl::OkStatus();
    return absl::CancelledError("cancelled");
  }
  // Calls `use` with the index of each tensor that is quantized, as long as the
  // plan is wanted; then CANCELLED.
  template <typename Use>
  absl::Status ForQuantized(Use use) const {
    for (size_t i = 0; i < tensors.size(); ++i) {
      QS_RETURN_IF_ERROR(Wanted());
      if (Quantizes(i)) use(i);
    }
    return absl::OkStatus();
  }
  // How tensor i is quantized, if it is.
  const QuantSpec& SpecOf(size_t i) const { return SpecOfRule(entry(i).rule); }
  // The request's, of 0 and of a rule that skips.
  const QuantSpec& SpecOfRule(int rule) const {
    if (rule == 0) return request.spec;
    const auto& spec = request.overrides[static_cast<size_t>(rule) - 1].spec;
    return spec ? *spec : request.spec;
  }
  // What findings call it: a slice is known by its stack.
  const std::string& TitleOf(size_t i) const {
    const DraftTensor& item = tensors[i];
    return item.stack != nullptr ? item.stack->name : item.tensor->name;
  }
};

// Appends a tensor to `draft`'s tensors and entries.
// Errors: INVALID_ARGUMENT — its name is there already; its bytes.
absl::Status AddTensor(Draft* draft, const PlanTensor& tensor);

bool MatchesAny(const std::vector<std::string>& globs, std::string_view name);

// FAILED_PRECONDITION — the source is quantized already. Of tensors that the
// request leaves out it only adds findings: they are carried as they are.
absl::Status CheckSourceIsFloat(Draft* draft);

// Turns entries into kTied: equal byte ranges of a file, and the output head of
// a model whose config ties it to its embedding.
void FindTies(Draft* draft);

// Puts slices behind each stack of the catalogue that can be loaded so, and
// says of the others why not. Errors: RESOURCE_EXHAUSTED — too many entries.
absl::Status SplitStacks(Draft* draft);

// Takes back the slices of stacks of which one is not quantized: such a stack
// is carried.
void JoinStacks(Draft* draft);

// Which override holds for each tensor. Errors: INVALID_ARGUMENT — one matches
// no name, or is not of the request's format.
absl::Status ApplyOverrides(Draft* draft);

// Adds a finding for each override that changes nothing.
void ReportUnusedOverrides(Draft* draft);

// Whether one of the configurations in use needs a calibration.
bool SomeNeedCalibration(const Draft& draft);

// The tower of a multimodal model that a module is in: its name without what is
// before and below. Empty: in none.
std::string_view TowerOf(const Draft& draft, std::string_view module);

// Decides each remaining tensor by itself. Errors: INVALID_ARGUMENT — include
// selects nothing.
absl::Status Classify(Draft* draft);

// Gives linears that turn out to read the same tensor one site (attention and
// MLP side by side), and linears of a site that cannot (another number of
// columns) their own.
void ShareInputs(Draft* draft);

// Carries the rest of a fused group when one of it is carried (not in the
// formats of bitsandbytes and hqq), and forgets groups of one. Overrides that
// split a group are an error.
void CompleteGroups(Draft* draft);

// The inputs that quantized linears read. Adds findings NO_FOLD for AWQ.
std::vector<PlanSite> PlanSites(Draft* draft);

// Adds an error for a quantized tensor whose output tensors would have the name
// of one that is carried.
void CheckOutputNames(Draft* draft);

// What an engine says to the draft's tensors. Errors: CANCELLED — nobody wants
// the plan any more.
absl::StatusOr<FindingList> Lint(const Draft& draft, const EngineRules& rules);

std::vector<PlanFile> PlanFiles(const Draft& draft);

// quantization_config's text; "" when nothing is quantized.
std::string OutputConfigJson(const Draft& draft);

}  // namespace qs

#endif  // QS_QUANT_PLAN_DRAFT_H_

// Draft: a plan in the making. MakePlan runs the stages over it in this order:
// source check, ties, classify, shared inputs, fused groups, sites, lint,
// files, output config.
#ifndef QS_QUANT_PLAN_DRAFT_H_
#define QS_QUANT_PLAN_DRAFT_H_

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "quant/plan/catalogue.h"
#include "quant/plan/config_facts.h"
#include "quant/plan/engines.h"
#include "quant/plan/findings.h"
#include "quant/plan/plan.h"

namespace qs {

// What the stages know about a tensor beside its plan entry, which has the same
// index.
struct DraftTensor {
  const PlanTensor* tensor = nullptr;
  std::string_view module;           // the name without ".weight"
  const LinearRule* rule = nullptr;  // null: no rule of the catalogue
  std::string site;                  // of a linear, quantized or not
  std::string group;
  bool is_conv = false;    // quantized as a flattened convolution
  bool is_stack = false;   // 3-D stack of experts
  bool is_linear = false;  // maybe an nn.Linear: named when not quantized
  bool left_out_by_glob = false;
};

struct Draft {
  explicit Draft(const PlanRequest& r) : request(r) {}

  const PlanRequest& request;
  ConfigFacts config;
  const Architecture* architecture = nullptr;
  std::unordered_map<std::string_view, size_t> by_name;
  std::vector<DraftTensor> tensors;  // as request.tensors
  FindingList findings;
  Plan plan;

  PlanEntry& entry(size_t i) { return plan.entries[i]; }
  const PlanEntry& entry(size_t i) const { return plan.entries[i]; }
  bool Quantizes(size_t i) const {
    return entry(i).action == TensorAction::kQuantize;
  }
};

// FAILED_PRECONDITION — the source is quantized already.
absl::Status CheckSourceIsFloat(const Draft& draft);

// Turns entries into kTied: equal byte ranges of a file, and the output head of
// a model whose config ties it to its embedding.
void FindTies(Draft* draft);

// Decides each remaining tensor by itself. Errors: INVALID_ARGUMENT — include
// selects nothing.
absl::Status Classify(Draft* draft);

// Gives linears that turn out to read the same tensor one site (attention and
// MLP side by side), and linears of a site that cannot (another number of
// columns) their own.
void ShareInputs(Draft* draft);

// Carries the rest of a fused group when one of it is carried (not in the
// formats of bitsandbytes and hqq), and forgets groups of one.
void CompleteGroups(Draft* draft);

// The inputs that quantized linears read. Adds findings NO_FOLD for AWQ.
std::vector<PlanSite> PlanSites(Draft* draft);

// What an engine says to the draft's tensors.
FindingList Lint(const Draft& draft, const EngineRules& rules);

std::vector<PlanFile> PlanFiles(const Draft& draft);

// quantization_config's text; "" when nothing is quantized.
std::string OutputConfigJson(const Draft& draft);

}  // namespace qs

#endif  // QS_QUANT_PLAN_DRAFT_H_

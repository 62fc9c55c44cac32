// Small plan requests for the tests of single rules.
#ifndef QS_TESTS_QUANT_PLAN_REQUEST_H_
#define QS_TESTS_QUANT_PLAN_REQUEST_H_

#include <string>
#include <utility>
#include <vector>

#include "quant/plan/plan.h"
#include "tests/testing/catch_compat.h"

namespace qs {

constexpr char kLlamaConfig[] =
    R"({"model_type": "llama", "vocab_size": 512, "torch_dtype": "bfloat16"})";

inline void AddTensor(PlanRequest* request, const std::string& name,
                      std::vector<int64_t> shape, DType dtype = DType::kBF16) {
  int64_t bytes = DTypeBytes(dtype);
  for (const int64_t size : shape) bytes *= size;
  const int64_t begin =
      request->tensors.empty() ? 0 : request->tensors.back().end;
  request->tensors.push_back({name, dtype, std::move(shape),
                              "model.safetensors", begin, begin + bytes});
}

inline PlanRequest RequestWith(const std::string& preset, Engine engine) {
  PlanRequest request;
  request.config_json = kLlamaConfig;
  request.spec = FindPreset(preset)->spec;
  request.engine = engine;
  return request;
}

// One block of a small Llama, without head.
inline PlanRequest SmallLlama(const std::string& preset, Engine engine,
                              int64_t hidden = 256, int64_t inter = 512) {
  PlanRequest request = RequestWith(preset, engine);
  AddTensor(&request, "model.embed_tokens.weight", {512, hidden});
  const std::string block = "model.layers.0.";
  for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    AddTensor(&request, block + "self_attn." + name + ".weight",
              {hidden, hidden});
  }
  AddTensor(&request, block + "mlp.gate_proj.weight", {inter, hidden});
  AddTensor(&request, block + "mlp.up_proj.weight", {inter, hidden});
  AddTensor(&request, block + "mlp.down_proj.weight", {hidden, inter});
  return request;
}

inline Plan PlanOf(const PlanRequest& request) {
  absl::StatusOr<Plan> plan = MakePlan(request);
  INFO(plan.status());
  REQUIRE(plan.ok());
  return *std::move(plan);
}

inline PlanEntry EntryOf(const Plan& plan, const std::string& name) {
  for (const PlanEntry& entry : plan.entries) {
    if (entry.name == name) return entry;
  }
  FAIL("the plan has no entry " << name);
  return {};
}

// Findings of one rule.
inline std::vector<Finding> FindingsOf(const Plan& plan,
                                       const std::string& rule) {
  std::vector<Finding> found;
  for (const Finding& finding : plan.findings) {
    if (finding.rule == rule) found.push_back(finding);
  }
  return found;
}

}  // namespace qs

#endif  // QS_TESTS_QUANT_PLAN_REQUEST_H_

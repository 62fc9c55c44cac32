#include "service/checkpoint/work_batch.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "service/cli/exit_code.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using Names = std::vector<std::string>;

void AddEntry(const std::string& name, v1::PlanEntry::Action action,
              const std::string& site, PlanAnswer* plan) {
  v1::PlanEntry& entry = plan->entries.emplace_back();
  entry.set_name(name);
  entry.set_action(action);
  entry.set_site(site);
}

v1::PlanSite& AddPlanSite(const std::string& name, const Names& consumers,
                          const std::string& group, PlanAnswer* plan) {
  v1::PlanSite& site = plan->sites.emplace_back();
  site.set_name(name);
  site.set_inputs(8);
  site.mutable_consumers()->Add(consumers.begin(), consumers.end());
  site.set_group(group);
  return site;
}

// norm -> q, v (site "in"); v -> o (site "out"); a router that reads "in".
PlanAnswer AttentionPlan() {
  PlanAnswer plan;
  AddEntry("o", v1::PlanEntry::QUANTIZE, "out", &plan);
  AddEntry("q", v1::PlanEntry::QUANTIZE, "in", &plan);
  AddEntry("router", v1::PlanEntry::CARRY, "", &plan);
  AddEntry("norm", v1::PlanEntry::CARRY, "", &plan);
  AddEntry("v", v1::PlanEntry::QUANTIZE, "in", &plan);
  AddEntry("v.bias", v1::PlanEntry::CARRY, "", &plan);
  AddEntry("other", v1::PlanEntry::CARRY, "", &plan);
  v1::PlanSite& in = AddPlanSite("in", {"q", "v"}, "g", &plan);
  in.mutable_fold()->set_kind(v1::Fold::NORM);
  in.mutable_fold()->set_producer("norm");
  in.mutable_fold()->add_scaled_only(std::string("router"));
  v1::PlanSite& out = AddPlanSite("out", {"o"}, "g", &plan);
  out.mutable_fold()->set_kind(v1::Fold::LINEAR);
  out.mutable_fold()->set_producer("v");
  out.mutable_fold()->set_producer_bias("v.bias");
  return plan;
}

// Every site of the plan is served.
Calibration Serving(const PlanAnswer& plan) {
  absl::StatusOr<CalibrationIndex> index = CalibrationIndex::Open(
      QS_TEST_DATA "/tiny-llama-calibration.safetensors");
  REQUIRE(index.ok());
  Calibration calibration = {*std::move(index), {}};
  for (const v1::PlanSite& site : plan.sites) {
    SiteMatch& match = calibration.match.sites.emplace_back();
    match.name = site.name();
    match.inputs = site.inputs();
    match.tokens = 100;
    match.sources = {0};
  }
  return calibration;
}

std::vector<WorkBatch> BatchesOf(const PlanAnswer& plan,
                                 const Calibration* calibration) {
  const auto batches = MakeBatches(plan, calibration);
  INFO(batches.status().ToString());
  REQUIRE(batches.ok());
  return *batches;
}

// "q@in" for a tensor to quantize, "norm*" for one to scale.
Names TensorsOf(const PlanAnswer& plan, const WorkBatch& batch) {
  Names names;
  for (const BatchTensor& tensor : batch.tensors) {
    names.push_back(plan.entries[tensor.tensor].name() +
                    (tensor.site.empty() ? "" : "@" + tensor.site) +
                    (tensor.fold_only ? "*" : ""));
  }
  return names;
}

TEST_CASE("without a calibration every tensor goes by itself") {
  const PlanAnswer plan = AttentionPlan();
  const std::vector<WorkBatch> batches = BatchesOf(plan, nullptr);
  REQUIRE(batches.size() == 3);
  CHECK(batches[0].sites.empty());
  CHECK(TensorsOf(plan, batches[0]) == Names{"o"});
  CHECK(TensorsOf(plan, batches[2]) == Names{"v"});
}

TEST_CASE("AWQ: a group with all that its scales touch") {
  PlanAnswer plan = AttentionPlan();
  plan.summary.mutable_resolved()->mutable_awq();
  const Calibration calibration = Serving(plan);
  const std::vector<WorkBatch> batches = BatchesOf(plan, &calibration);
  REQUIRE(batches.size() == 1);
  CHECK(batches[0].name == "g");
  CHECK(TensorsOf(plan, batches[0]) ==
        Names{"o@out", "q@in", "router@in*", "norm*", "v@in", "v.bias*"});
  REQUIRE(batches[0].sites.size() == 2);
  CHECK(batches[0].sites[0].declared.fold().producer() == "norm");
  CHECK(batches[0].sites[1].declared.fold().kind() == v1::Fold::LINEAR);
}

TEST_CASE("other methods: a group for each site, without folds") {
  PlanAnswer plan = AttentionPlan();
  plan.summary.mutable_resolved()->mutable_gptq();
  const Calibration calibration = Serving(plan);
  const std::vector<WorkBatch> batches = BatchesOf(plan, &calibration);
  REQUIRE(batches.size() == 2);
  CHECK(TensorsOf(plan, batches[0]) == Names{"o@out"});
  CHECK(TensorsOf(plan, batches[1]) == Names{"q@in", "v@in"});
  for (const WorkBatch& batch : batches) {
    REQUIRE(batch.sites.size() == 1);
    CHECK_FALSE(batch.sites[0].declared.has_fold());
  }
}

TEST_CASE("gptq with scaling: a group as for awq, if something folds") {
  PlanAnswer plan = AttentionPlan();
  plan.summary.mutable_resolved()->mutable_gptq()->set_awq_scaling(true);
  const Calibration calibration = Serving(plan);
  std::vector<WorkBatch> batches = BatchesOf(plan, &calibration);
  REQUIRE(batches.size() == 1);
  CHECK(TensorsOf(plan, batches[0]) ==
        Names{"o@out", "q@in", "router@in*", "norm*", "v@in", "v.bias*"});
  for (v1::PlanSite& site : plan.sites) site.clear_fold();
  batches = BatchesOf(plan, &calibration);
  REQUIRE(batches.size() == 2);
  CHECK(TensorsOf(plan, batches[1]) == Names{"q@in", "v@in"});
}

// The rule of a plan for entries that have it.
void AddRule(const v1::QuantizationConfig& config, const Names& entries,
             PlanAnswer* plan) {
  v1::Override* const rule = plan->summary.add_overrides();
  rule->set_tensors("*");
  *rule->mutable_config() = config;
  for (v1::PlanEntry& entry : plan->entries) {
    if (std::count(entries.begin(), entries.end(), entry.name()) == 0) continue;
    entry.set_rule(plan->summary.overrides_size());
  }
}

TEST_CASE("overrides: what is solved together has one configuration") {
  PlanAnswer plan = AttentionPlan();
  plan.summary.mutable_resolved()->mutable_awq()->set_bits(4);
  // As the plan leaves it when v is quantized in another way than q and o.
  for (v1::PlanSite& site : plan.sites) site.clear_fold();
  v1::QuantizationConfig eight;
  eight.mutable_awq()->set_bits(8);
  AddRule(eight, {"v"}, &plan);
  const Calibration calibration = Serving(plan);
  const std::vector<WorkBatch> batches = BatchesOf(plan, &calibration);
  REQUIRE(batches.size() == 2);
  CHECK(TensorsOf(plan, batches[0]) == Names{"o@out", "q@in"});
  CHECK(batches[0].rule == 0);
  CHECK(TensorsOf(plan, batches[1]) == Names{"v@in"});
  CHECK(batches[1].rule == 1);
  REQUIRE(batches[1].sites.size() == 1);
}

TEST_CASE("overrides: each scheme is batched as its method is") {
  PlanAnswer plan = AttentionPlan();
  plan.summary.mutable_resolved()->mutable_awq()->set_bits(4);
  plan.sites[1].clear_fold();
  v1::QuantizationConfig rtn;
  rtn.mutable_rtn()->set_bits(8);
  AddRule(rtn, {"o"}, &plan);
  const Calibration calibration = Serving(plan);
  std::vector<WorkBatch> batches = BatchesOf(plan, &calibration);
  REQUIRE(batches.size() == 2);
  CHECK(TensorsOf(plan, batches[0]) == Names{"o@out"});
  CHECK(batches[0].rule == 1);
  CHECK_FALSE(batches[0].sites[0].declared.has_fold());
  // The norm and the router come first, and have no rule.
  CHECK(TensorsOf(plan, batches[1]) ==
        Names{"q@in", "router@in*", "norm*", "v@in"});
  CHECK(batches[1].rule == 0);
  // Without a calibration each goes by itself, with its rule.
  plan.summary.mutable_resolved()->mutable_rtn()->set_bits(4);
  batches = BatchesOf(plan, nullptr);
  REQUIRE(batches.size() == 3);
  CHECK(batches[0].rule == 1);
  CHECK(batches[1].rule == 0);
}

TEST_CASE("overrides with equal configurations are one scheme") {
  PlanAnswer plan = AttentionPlan();
  plan.summary.mutable_resolved()->mutable_awq()->set_bits(4);
  AddRule(plan.summary.resolved(), {"q"}, &plan);
  AddRule(plan.summary.resolved(), {"v", "o"}, &plan);
  const Calibration calibration = Serving(plan);
  CHECK(BatchesOf(plan, &calibration).size() == 1);
}

TEST_CASE("overrides: only a method that needs moments misses them") {
  PlanAnswer plan;
  plan.summary.set_architecture("llama");
  AddEntry("model.layers.0.self_attn.q_proj.weight", v1::PlanEntry::QUANTIZE,
           "a", &plan);
  AddEntry("nowhere.weight", v1::PlanEntry::QUANTIZE, "b", &plan);
  AddPlanSite("a", {plan.entries[0].name()}, "a", &plan).set_inputs(256);
  AddPlanSite("b", {plan.entries[1].name()}, "b", &plan);
  plan.summary.mutable_resolved()->mutable_gptq()->set_bits(4);
  const auto open = [&] {
    return OpenCalibration(QS_TEST_DATA "/tiny-llama-calibration.safetensors",
                           plan);
  };
  CHECK(std::string(open().status().message()).find("nowhere.weight") !=
        std::string::npos);
  v1::QuantizationConfig rtn;
  rtn.mutable_rtn()->set_bits(8);
  AddRule(rtn, {"nowhere.weight"}, &plan);
  CHECK(open().ok());
  CHECK(CheckCalibrationGiven("", plan).message() != "");
}

TEST_CASE("gptq with scaling: a group of many tensors goes site by site") {
  PlanAnswer plan;
  Names names;
  for (size_t i = 0; i < kMaxGroupTensors + 1; ++i) {
    names.push_back("w" + std::to_string(i));
    AddEntry(names.back(), v1::PlanEntry::QUANTIZE, "s", &plan);
  }
  AddEntry("norm", v1::PlanEntry::CARRY, "", &plan);
  v1::Fold* fold = AddPlanSite("s", names, "s", &plan).mutable_fold();
  fold->set_kind(v1::Fold::NORM);
  fold->set_producer("norm");
  plan.summary.mutable_resolved()->mutable_gptq()->set_awq_scaling(true);
  const Calibration calibration = Serving(plan);
  const std::vector<WorkBatch> batches = BatchesOf(plan, &calibration);
  REQUIRE(batches.size() == 2);
  for (const WorkBatch& batch : batches) {
    CHECK_FALSE(batch.sites[0].declared.has_fold());
    CHECK(batch.tensors.size() <= kMaxGroupTensors);
  }
}

// gate, up -> down for each of many experts behind one norm.
PlanAnswer ExpertsPlan(int experts, int64_t inputs, int64_t inner) {
  PlanAnswer plan;
  AddEntry("norm", v1::PlanEntry::CARRY, "", &plan);
  Names readers;
  for (int e = 0; e < experts; ++e) {
    const std::string name = std::to_string(e);
    for (const char* part : {"gate", "up"}) {
      readers.push_back(part + name);
      AddEntry(readers.back(), v1::PlanEntry::QUANTIZE, "in", &plan);
    }
    AddEntry("down" + name, v1::PlanEntry::QUANTIZE, "mid" + name, &plan);
  }
  v1::PlanSite& in = AddPlanSite("in", readers, "g", &plan);
  in.set_inputs(inputs);
  in.set_pooled(true);
  in.mutable_fold()->set_kind(v1::Fold::NORM);
  in.mutable_fold()->set_producer("norm");
  for (int e = 0; e < experts; ++e) {
    const std::string name = std::to_string(e);
    v1::PlanSite& mid = AddPlanSite("mid" + name, {"down" + name}, "g", &plan);
    mid.set_inputs(inner);
    mid.mutable_fold()->set_kind(v1::Fold::LINEAR);
    mid.mutable_fold()->set_producer("up" + name);
  }
  plan.summary.mutable_resolved()->mutable_gptq()->set_awq_scaling(true);
  return plan;
}

TEST_CASE("gptq with scaling: each of many experts' downs is scaled") {
  // Down's moments: small beside those of the shared input, or not.
  const int64_t inner = GENERATE(8, 256);
  const PlanAnswer plan = ExpertsPlan(24, 64, inner);
  const Calibration calibration = Serving(plan);
  std::set<std::string> scaled;
  size_t tensors = 0;
  size_t most = 0;
  for (const WorkBatch& batch : BatchesOf(plan, &calibration)) {
    most = std::max(most, batch.tensors.size());
    tensors += batch.tensors.size();
    REQUIRE(batch.sites[0].declared.name() == "in");
    CHECK_FALSE(batch.sites[0].declared.has_fold());
    if (batch.sites.size() == 1) {
      for (const std::string& name : TensorsOf(plan, batch)) {
        CHECK(name.substr(0, 4) == "gate");
      }
      continue;
    }
    CHECK(batch.tensors.size() == 2 * (batch.sites.size() - 1));
    for (size_t i = 1; i < batch.sites.size(); ++i) {
      const v1::GroupSite& site = batch.sites[i].declared;
      CHECK(site.fold().kind() == v1::Fold::LINEAR);
      CHECK(scaled.insert(site.name()).second);
      const Names names = TensorsOf(plan, batch);
      const std::string up = site.fold().producer() + "@in";
      CHECK(std::count(names.begin(), names.end(), up) == 1);
    }
  }
  CHECK(scaled.size() == 24);
  CHECK(tensors == 3 * 24);
  CHECK(most == kMaxGroupTensors);  // eight pairs, or sixteen gates
}

TEST_CASE("gptq with scaling: few experts are one group, awq's always") {
  PlanAnswer plan = ExpertsPlan(5, 64, 8);
  Calibration calibration = Serving(plan);
  CHECK(BatchesOf(plan, &calibration).size() == 1);
  plan = ExpertsPlan(24, 64, 8);
  plan.summary.mutable_resolved()->mutable_awq();
  calibration = Serving(plan);
  CHECK(BatchesOf(plan, &calibration).size() == 1);
}

TEST_CASE("many readers of a site: it is sent more than once") {
  PlanAnswer plan;
  Names names;
  for (size_t i = 0; i < 2 * kMaxGroupTensors + 1; ++i) {
    names.push_back("w" + std::to_string(i));
    AddEntry(names.back(), v1::PlanEntry::QUANTIZE, "s", &plan);
  }
  AddPlanSite("s", names, "s", &plan);
  plan.summary.mutable_resolved()->mutable_gptq();
  const Calibration calibration = Serving(plan);
  const std::vector<WorkBatch> batches = BatchesOf(plan, &calibration);
  REQUIRE(batches.size() == 3);
  std::set<size_t> seen;
  for (const WorkBatch& batch : batches) {
    CHECK(batch.sites.size() == 1);
    CHECK(batch.tensors.size() <= kMaxGroupTensors);
    for (const BatchTensor& t : batch.tensors) seen.insert(t.tensor);
  }
  CHECK(seen.size() == names.size());
}

TEST_CASE("a site that saw few tokens brings its pool, and first") {
  PlanAnswer plan;
  for (const char* name : {"e0", "e1"}) {
    AddEntry(name, v1::PlanEntry::QUANTIZE, name, &plan);
    AddPlanSite(name, {name}, name, &plan).set_pool("pool");
  }
  plan.summary.mutable_resolved()->mutable_gptq();
  Calibration calibration = Serving(plan);
  calibration.match.sites[1].pool = "pool";
  calibration.match.sites[1].pool_weight = 0.5;
  calibration.match.pools["pool"].name = "pool";
  calibration.match.pools["pool"].inputs = 8;
  const std::vector<WorkBatch> batches = BatchesOf(plan, &calibration);
  REQUIRE(batches.size() == 2);
  CHECK(batches[0].sites.size() == 1);
  CHECK(batches[0].sites[0].declared.pool().empty());
  REQUIRE(batches[1].sites.size() == 2);
  CHECK(batches[1].sites[0].declared.name() == "pool");
  CHECK(batches[1].sites[0].declared.inputs() == 8);
  CHECK(batches[1].sites[1].declared.pool() == "pool");
}

TEST_CASE("tensors whose site is not in the file go by themselves") {
  PlanAnswer plan = AttentionPlan();
  plan.summary.mutable_resolved()->mutable_rtn();
  Calibration calibration = Serving(plan);
  calibration.match.sites.pop_back();  // "out"
  const std::vector<WorkBatch> batches = BatchesOf(plan, &calibration);
  REQUIRE(batches.size() == 2);
  CHECK(TensorsOf(plan, batches[0]) == Names{"o"});
  CHECK(batches[0].sites.empty());
  CHECK(batches[1].sites.size() == 1);
}

TEST_CASE("a fold that names what is not there is the server's mistake") {
  PlanAnswer plan = AttentionPlan();
  plan.summary.mutable_resolved()->mutable_awq();
  plan.sites[0].mutable_fold()->set_producer("gone");
  const Calibration calibration = Serving(plan);
  const absl::Status status = MakeBatches(plan, &calibration).status();
  CHECK(ExitCodeOf(status) == ExitCode::kUnexpected);
  CHECK(std::string(status.message()).find("gone") != std::string::npos);
}

TEST_CASE("methods that need a calibration say so") {
  PlanAnswer plan;
  plan.summary.mutable_resolved()->mutable_hqq();
  CHECK(CheckCalibrationGiven("", plan).ok());
  plan.summary.mutable_resolved()->mutable_awq();
  CHECK(CheckCalibrationGiven("file", plan).ok());
  const absl::Status status = CheckCalibrationGiven("", plan);
  CHECK(ExitCodeOf(status) == ExitCode::kUsage);
  CHECK(std::string(status.message()).find("awq") != std::string::npos);
}

}  // namespace
}  // namespace qs::cli

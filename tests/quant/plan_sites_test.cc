// Sites of a plan: who reads them, what folds into what, what is solved
// together, pools of experts.
#include <algorithm>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/quant/plan_cases.h"
#include "tests/quant/plan_request.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using Catch::Matchers::Contains;
using Strings = std::vector<std::string>;

PlanSite SiteOf(const Plan& plan, const std::string& name) {
  for (const PlanSite& site : plan.sites) {
    if (site.name == name) return site;
  }
  FAIL("the plan has no site " << name);
  return {};
}

// A published model's headers in groups of 32, which divide every width there.
PlanRequest CaseRequest(const std::string& name) {
  PlanRequest request = ReadPlanCase(name).request;
  request.spec = FindPreset("W4A16")->spec;
  request.spec.method = RtnSpec{.group_size = 32};
  request.list_sites = true;
  return request;
}

Plan CasePlan(const std::string& name) { return PlanOf(CaseRequest(name)); }

// A block with both of its norms.
PlanRequest Block(const std::string& config) {
  PlanRequest request = SmallLlama("W4A16", Engine::kNone);
  request.config_json = config;
  request.list_sites = true;
  AddTensor(&request, "model.layers.0.input_layernorm.weight", {256});
  AddTensor(&request, "model.layers.0.post_attention_layernorm.weight", {256});
  return request;
}

PlanRequest LlamaBlock() { return Block(kLlamaConfig); }

void Remove(PlanRequest* request, const std::string& name) {
  std::erase_if(request->tensors,
                [&](const PlanTensor& tensor) { return tensor.name == name; });
}

void Resize(PlanRequest* request, const std::string& name,
            const std::vector<int64_t>& shape) {
  const std::string full = "model.layers.0." + name;
  Remove(request, full);
  AddTensor(request, full, shape);
}

// Every quantized entry reads exactly one site, of its own width, and every
// tensor that a fold names is there.
void CheckConsistent(const Plan& plan) {
  std::map<std::string, const PlanEntry*> entries;
  for (const PlanEntry& entry : plan.entries) entries[entry.name] = &entry;
  std::set<std::string> read;
  std::set<std::string> producers;
  for (const PlanSite& site : plan.sites) {
    INFO(site.name);
    CHECK_FALSE(site.consumers.empty());
    CHECK_FALSE(site.group.empty());
    for (const std::string& consumer : site.consumers) {
      REQUIRE(entries.contains(consumer));
      CHECK(entries[consumer]->action == TensorAction::kQuantize);
      CHECK(entries[consumer]->site == site.name);
      CHECK(entries[consumer]->cols == site.inputs);
      CHECK(read.insert(consumer).second);
    }
    const PlanFold& fold = site.fold;
    CHECK((fold.kind == FoldKind::kNone) == !fold.reason.empty());
    if (fold.kind == FoldKind::kNone) {
      CHECK(fold.producer.empty());
      CHECK(fold.scaled_only.empty());
      continue;
    }
    CHECK(producers.insert(fold.producer).second);
    REQUIRE(entries.contains(fold.producer));
    for (const std::string& name : fold.scaled_only) {
      REQUIRE(entries.contains(name));
      CHECK(entries[name]->action == TensorAction::kCarry);
      CHECK(entries[name]->cols == site.inputs);
    }
    if (fold.kind != FoldKind::kLinear) continue;
    const int64_t rows = entries[fold.producer]->rows;
    const int64_t values =
        fold.repeat > 0 ? site.inputs / fold.repeat : site.inputs;
    CHECK(fold.row_offset + values <= rows);
    if (fold.repeat > 0) CHECK(values % fold.head_dim == 0);
  }
  CHECK(static_cast<int64_t>(read.size()) == plan.tensors_quantized);
}

TEST_CASE("Sites of published models are whole and consistent") {
  for (const PlanCase& test : ReadPlanCases()) {
    if (test.errors.contains("w4")) continue;  // quantized already
    INFO(test.name);
    CheckConsistent(CasePlan(test.name));
  }
}

TEST_CASE("Sites are listed when asked for or needed") {
  PlanRequest request = LlamaBlock();
  request.list_sites = false;
  CHECK(PlanOf(request).sites.empty());
  request.list_sites = true;
  CHECK(PlanOf(request).sites.size() == 4);
}

TEST_CASE("The widest linears have sites like all others") {
  const PlanRequest request =
      SmallLlama("W4A16-gptq", Engine::kVllm, 16384, 53248);
  const Plan plan = PlanOf(request);
  const auto down =
      std::find_if(plan.sites.begin(), plan.sites.end(),
                   [](const PlanSite& site) { return site.inputs == 53248; });
  REQUIRE(down != plan.sites.end());
  CHECK(down->consumers ==
        std::vector<std::string>{"model.layers.0.mlp.down_proj.weight"});
}

TEST_CASE("A Llama block has four sites in two groups") {
  const Plan plan = CasePlan("llama3_8b");
  CHECK(plan.sites.size() == 32 * 4);
  const std::string b = "model.layers.7";
  const PlanSite qkv = SiteOf(plan, b + "/self_attn.qkv");
  CHECK(qkv.inputs == 4096);
  CHECK(qkv.consumers == Strings{b + ".self_attn.q_proj.weight",
                                 b + ".self_attn.k_proj.weight",
                                 b + ".self_attn.v_proj.weight"});
  CHECK(qkv.fold.kind == FoldKind::kNorm);
  CHECK(qkv.fold.producer == b + ".input_layernorm.weight");
  CHECK(qkv.fold.producer_bias.empty());
  CHECK(qkv.group == b + "/self_attn");
  const PlanSite o = SiteOf(plan, b + "/self_attn.o_proj");
  CHECK(o.fold.kind == FoldKind::kLinear);
  CHECK(o.fold.producer == b + ".self_attn.v_proj.weight");
  CHECK(o.fold.head_dim == 128);
  CHECK(o.fold.repeat == 4);
  CHECK(o.group == qkv.group);
  const PlanSite gate_up = SiteOf(plan, b + "/mlp.gate_up");
  CHECK(gate_up.fold.producer == b + ".post_attention_layernorm.weight");
  CHECK(gate_up.group == b + "/mlp");
  const PlanSite down = SiteOf(plan, b + "/mlp.down_proj");
  CHECK(down.fold.producer == b + ".mlp.up_proj.weight");
  CHECK(down.fold.repeat == 0);
  CHECK(down.group == gate_up.group);
  CHECK_FALSE(gate_up.pooled);
  CHECK(down.pool.empty());
}

TEST_CASE("Biases of producers are named") {
  const Plan plan = CasePlan("qwen2_7b");
  const PlanSite o = SiteOf(plan, "model.layers.0/self_attn.o_proj");
  CHECK(o.fold.producer_bias == "model.layers.0.self_attn.v_proj.bias");
  CHECK(o.fold.repeat == 7);
  const Plan neox = CasePlan("pythia_1b");
  const PlanSite up = SiteOf(neox, "gpt_neox.layers.1/mlp.dense_h_to_4h");
  CHECK(up.fold.kind == FoldKind::kNorm);
  CHECK(up.fold.producer_bias ==
        "gpt_neox.layers.1.post_attention_layernorm.bias");
}

TEST_CASE("Gemma's norms multiply by one and their weight") {
  const Plan plan = CasePlan("gemma2_2b");
  const PlanSite qkv = SiteOf(plan, "model.layers.1/self_attn.qkv");
  CHECK(qkv.fold.kind == FoldKind::kNormPlusOne);
  CHECK(qkv.fold.producer == "model.layers.1.input_layernorm.weight");
  const PlanSite mlp = SiteOf(plan, "model.layers.1/mlp.gate_up");
  CHECK(mlp.fold.kind == FoldKind::kNormPlusOne);
  CHECK(mlp.fold.producer == "model.layers.1.pre_feedforward_layernorm.weight");
  SECTION("and stand elsewhere in the first Gemma") {
    PlanRequest request = Block(R"({"model_type": "gemma"})");
    const PlanSite first =
        SiteOf(PlanOf(request), "model.layers.0/mlp.gate_up");
    CHECK(first.fold.kind == FoldKind::kNormPlusOne);
    CHECK(first.fold.producer ==
          "model.layers.0.post_attention_layernorm.weight");
  }
}

TEST_CASE("Fused projections fold into their last rows") {
  const Plan plan = CasePlan("phi3_mini");
  const std::string b = "model.layers.0";
  const PlanSite o = SiteOf(plan, b + "/self_attn.o_proj");
  CHECK(o.fold.producer == b + ".self_attn.qkv_proj.weight");
  CHECK(o.fold.row_offset == 6144);
  CHECK(o.fold.repeat == 0);
  const PlanSite down = SiteOf(plan, b + "/mlp.down_proj");
  CHECK(down.fold.producer == b + ".mlp.gate_up_proj.weight");
  CHECK(down.fold.row_offset == 8192);
  SECTION("with grouped heads") {
    PlanRequest request = RequestWith("W4A16", Engine::kNone);
    request.list_sites = true;
    request.config_json = R"({"model_type": "phi3", "hidden_size": 512,
                              "num_attention_heads": 8})";
    AddTensor(&request, b + ".self_attn.qkv_proj.weight", {768, 512});
    AddTensor(&request, b + ".self_attn.o_proj.weight", {512, 512});
    const Plan grouped = PlanOf(request);
    const PlanFold& fold = SiteOf(grouped, b + "/self_attn.o_proj").fold;
    CHECK(fold.row_offset == 640);
    CHECK(fold.head_dim == 64);
    CHECK(fold.repeat == 4);
  }
}

TEST_CASE("Experts share a site; the router and shared experts read it, too") {
  const Plan plan = CasePlan("deepseek_v2_lite");
  const std::string b = "model.layers.1";
  const PlanSite site = SiteOf(plan, b + "/mlp.experts.gate_up");
  CHECK(site.pooled);
  CHECK(site.consumers.size() == 2 * 64 + 2);
  CHECK(site.consumers.back() == b + ".mlp.shared_experts.up_proj.weight");
  CHECK(site.fold.kind == FoldKind::kNorm);
  CHECK(site.fold.scaled_only == Strings{b + ".mlp.gate.weight"});
  const PlanSite down = SiteOf(plan, b + "/mlp.experts.63.down_proj");
  CHECK(down.fold.producer == b + ".mlp.experts.63.up_proj.weight");
  CHECK(down.pool == b + "/mlp.experts.down_proj");
  CHECK_FALSE(down.pooled);
  const PlanSite shared = SiteOf(plan, b + "/mlp.shared_experts.down_proj");
  CHECK(shared.pool.empty());
  for (const PlanSite* one : {&site, &down, &shared}) {
    CHECK(one->group == b + "/mlp");
  }
  // A dense layer of the same model.
  CHECK_FALSE(SiteOf(plan, "model.layers.0/mlp.gate_up").pooled);
}

TEST_CASE("Latent attention folds into its inner norms") {
  const Plan plan = CasePlan("deepseek_v3");
  const std::string b = "model.layers.60";
  CHECK(SiteOf(plan, b + "/self_attn.q_b_proj").fold.producer ==
        b + ".self_attn.q_a_layernorm.weight");
  CHECK(SiteOf(plan, b + "/self_attn.kv_b_proj").fold.producer ==
        b + ".self_attn.kv_a_layernorm.weight");
  CHECK(SiteOf(plan, b + "/self_attn.qkv_a").fold.producer ==
        b + ".input_layernorm.weight");
  CHECK(SiteOf(plan, b + "/self_attn.o_proj").fold.kind == FoldKind::kNone);
}

TEST_CASE("Mixtral's gate, up and down have names of their own") {
  const Plan plan = CasePlan("mixtral_8x7b");
  const std::string b = "model.layers.0";
  const std::string moe = b + ".block_sparse_moe.";
  const PlanSite site = SiteOf(plan, b + "/block_sparse_moe.experts.gate_up");
  CHECK(site.consumers.size() == 16);
  CHECK(site.fold.scaled_only == Strings{moe + "gate.weight"});
  const PlanSite down = SiteOf(plan, b + "/block_sparse_moe.experts.3.w2");
  CHECK(down.fold.producer == moe + "experts.3.w3.weight");
  CHECK(down.pool == b + "/block_sparse_moe.experts.w2");
}

TEST_CASE("Attention and MLP side by side read one site") {
  // Without its second norm, a Cohere block is of this kind.
  PlanRequest request = Block(R"({"model_type": "cohere"})");
  CHECK(PlanOf(request).sites.size() == 4);
  Remove(&request, "model.layers.0.post_attention_layernorm.weight");
  const Plan plan = PlanOf(request);
  CHECK(plan.sites.size() == 3);
  const PlanSite site = SiteOf(plan, "model.layers.0/self_attn.qkv");
  CHECK(site.consumers.size() == 5);
  CHECK(site.fold.kind == FoldKind::kNorm);
  // v -> o and up -> down make one group of all.
  for (const PlanSite& one : plan.sites) CHECK(one.group == "model.layers.0");
  const PlanSite falcon = SiteOf(
      CasePlan("falcon_7b"), "transformer.h.0/self_attention.query_key_value");
  CHECK(falcon.consumers.back() == "transformer.h.0.mlp.dense_h_to_4h.weight");
}

TEST_CASE("A linear that a glob leaves out still gets its columns scaled") {
  PlanRequest request = LlamaBlock();
  request.exclude = {"*v_proj*", "*k_proj*"};
  // bitsandbytes takes globs through a fused group as they are.
  request.spec = FindPreset("NF4")->spec;
  const Plan plan = PlanOf(request);
  const PlanSite qkv = SiteOf(plan, "model.layers.0/self_attn.qkv");
  CHECK(qkv.consumers == Strings{"model.layers.0.self_attn.q_proj.weight"});
  CHECK(qkv.fold.scaled_only ==
        Strings{"model.layers.0.self_attn.k_proj.weight",
                "model.layers.0.self_attn.v_proj.weight"});
  // A producer that is not quantized is divided all the same.
  const PlanSite o = SiteOf(plan, "model.layers.0/self_attn.o_proj");
  CHECK(o.fold.producer == "model.layers.0.self_attn.v_proj.weight");
  CHECK(o.group == qkv.group);
}

// The reason why the named site has no fold.
std::string NoFold(const PlanRequest& request, const std::string& local) {
  const Plan plan = PlanOf(request);
  const PlanFold fold = SiteOf(plan, "model.layers.0/" + local).fold;
  CHECK(fold.kind == FoldKind::kNone);
  return fold.reason;
}

TEST_CASE("No fold where a reader could be missed") {
  PlanRequest request = LlamaBlock();
  SECTION("an unknown linear of the right width") {
    AddTensor(&request, "model.layers.0.self_attn.indexer.weight", {64, 256});
    CHECK_THAT(NoFold(request, "self_attn.qkv"),
               Contains("self_attn.indexer.weight may read it"));
    CHECK_THAT(NoFold(request, "mlp.gate_up"), Contains("indexer"));
    // Of another width it is no reader.
    const Plan plan = PlanOf(request);
    CHECK(SiteOf(plan, "model.layers.0/mlp.down_proj").fold.kind ==
          FoldKind::kLinear);
  }
  SECTION("a stack of experts") {
    AddTensor(&request, "model.layers.0.mlp.experts.gate_up_proj",
              {4, 256, 1024});
    CHECK_THAT(NoFold(request, "mlp.gate_up"),
               Contains("mlp.experts.gate_up_proj may read it"));
  }
  SECTION("not a buffer, nor what stands in another block") {
    AddTensor(&request, "model.layers.0.self_attn.mask", {256, 256},
              DType::kBool);
    AddTensor(&request, "model.layers.1.self_attn.indexer.weight", {64, 256});
    AddTensor(&request, "model.extra.weight", {64, 256});
    const Plan plan = PlanOf(request);
    CHECK(SiteOf(plan, "model.layers.0/self_attn.qkv").fold.kind ==
          FoldKind::kNorm);
  }
}

TEST_CASE("No fold into a tensor that is not as it must be") {
  PlanRequest request = LlamaBlock();
  SECTION("none") {
    Remove(&request, "model.layers.0.input_layernorm.weight");
    CHECK(NoFold(request, "self_attn.qkv") ==
          "the block has no input_layernorm.weight");
  }
  SECTION("of another size") {
    Resize(&request, "input_layernorm.weight", {128});
    CHECK_THAT(NoFold(request, "self_attn.qkv"), Contains("no float [256]"));
    Resize(&request, "self_attn.v_proj.weight", {96, 256});
    CHECK_THAT(NoFold(request, "self_attn.o_proj"),
               Contains("96 rows for 256 inputs"));
  }
  SECTION("grouped heads of unknown size") {
    Resize(&request, "self_attn.v_proj.weight", {64, 256});
    CHECK_THAT(NoFold(request, "self_attn.o_proj"), Contains("head_dim"));
    request.config_json = R"({"model_type": "llama", "head_dim": 48})";
    CHECK_THAT(NoFold(request, "self_attn.o_proj"), Contains("head_dim"));
    request.config_json =
        R"({"model_type": "llama", "head_dim": 32, "num_attention_heads": 4})";
    CHECK_THAT(NoFold(request, "self_attn.o_proj"), Contains("head_dim"));
  }
  SECTION("tied to another") {
    PlanTensor alias = request.tensors.back();
    alias.name = "model.layers.1.post_attention_layernorm.weight";
    request.tensors.push_back(alias);
    CHECK_THAT(NoFold(request, "mlp.gate_up"), Contains("tied"));
  }
  SECTION("a reader that is tied") {
    // Carried, because another name shares its bytes.
    PlanTensor alias = request.tensors[1];
    CHECK(alias.name == "model.layers.0.self_attn.q_proj.weight");
    alias.name = "model.layers.9.self_attn.q_proj.weight";
    request.tensors.push_back(alias);
    request.spec = FindPreset("NF4")->spec;
    CHECK_THAT(NoFold(request, "self_attn.qkv"), Contains("tied"));
  }
}

TEST_CASE("AWQ is told which inputs are not scaled, others are not") {
  PlanRequest request = LlamaBlock();
  Remove(&request, "model.layers.0.input_layernorm.weight");
  CHECK(FindingsOf(PlanOf(request), "NO_FOLD").empty());
  request.spec = FindPreset("W4A16-awq")->spec;
  request.list_sites = false;  // the method asks for them
  const Plan plan = PlanOf(request);
  CHECK(plan.sites.size() == 4);
  const std::vector<Finding> found = FindingsOf(plan, "NO_FOLD");
  REQUIRE(found.size() == 1);
  CHECK(found[0].severity == Severity::kWarning);
  CHECK(found[0].tensor == "model.layers.0.self_attn.q_proj.weight");
  CHECK_THAT(found[0].text, Contains("input_layernorm"));
}

TEST_CASE("An unknown architecture has sites and no folds") {
  PlanRequest request = LlamaBlock();
  request.config_json = "";
  AddTensor(&request, "model.layers.0.mixer.in_proj.weight", {64, 256});
  const Plan plan = PlanOf(request);
  CheckConsistent(plan);
  for (const PlanSite& site : plan.sites) {
    CHECK(site.fold.kind == FoldKind::kNone);
    CHECK(site.group == site.name);
  }
  CHECK(SiteOf(plan, "model.layers.0.mixer.in_proj").consumers.size() == 1);
}

TEST_CASE("Linears of different widths cannot share a site") {
  PlanRequest request = LlamaBlock();
  request.config_json = "";
  Resize(&request, "self_attn.k_proj.weight", {256, 512});
  const Plan plan = PlanOf(request);
  CheckConsistent(plan);
  CHECK(SiteOf(plan, "model.layers.0.self_attn.k_proj").inputs == 512);
  CHECK(SiteOf(plan, "model.layers.0.self_attn/qkv").consumers.size() == 2);
}

}  // namespace
}  // namespace qs

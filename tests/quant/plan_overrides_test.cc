// Overrides of a plan: which rule holds, what is refused, and how engines are
// told that tensors of one checkpoint have different grids.

// gcc 12 takes a member of std::regex for uninitialized once a sanitizer has
// changed how it inlines; from here on, as its headers are where it warns.
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <nlohmann/json.hpp>
#include <regex>
#include <string>

#include "tests/quant/plan_request.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using Strings = std::vector<std::string>;

constexpr char kMixtureConfig[] =
    R"({"model_type": "qwen2_moe", "vocab_size": 512})";

PlanOverride Skip(const std::string& glob) { return {glob, std::nullopt}; }
PlanOverride Use(const std::string& glob, const std::string& preset) {
  return {glob, FindPreset(preset)->spec};
}
PlanOverride UseRtn(const std::string& glob, RtnSpec rtn) {
  QuantSpec spec = FindPreset("W4A16")->spec;
  spec.method = rtn;
  return {glob, spec};
}

PlanRequest LlamaWith(std::vector<PlanOverride> overrides,
                      const std::string& preset = "W4A16",
                      Engine engine = Engine::kVllm) {
  PlanRequest request = SmallLlama(preset, engine);
  request.overrides = std::move(overrides);
  return request;
}

// Two layers of a small mixture with shared experts.
PlanRequest MixtureWith(std::vector<PlanOverride> overrides,
                        const std::string& preset = "W4A16") {
  PlanRequest request = RequestWith(preset, Engine::kVllm);
  request.config_json = kMixtureConfig;
  for (const char* layer : {"0", "1"}) {
    const std::string block = std::string("model.layers.") + layer + ".";
    AddTensor(&request, block + "post_attention_layernorm.weight", {256});
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      AddTensor(&request, block + "self_attn." + name + ".weight", {256, 256});
    }
    for (const char* one :
         {"experts.0.", "experts.1.", "experts.2.", "shared_expert."}) {
      const std::string expert = block + "mlp." + one;
      AddTensor(&request, expert + "gate_proj.weight", {128, 256});
      AddTensor(&request, expert + "up_proj.weight", {128, 256});
      AddTensor(&request, expert + "down_proj.weight", {256, 128});
    }
  }
  request.overrides = std::move(overrides);
  return request;
}

std::string BadRequest(const PlanRequest& request) {
  const absl::Status status = MakePlan(request).status();
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

nlohmann::json GroupsOf(const Plan& plan) {
  return nlohmann::json::parse(plan.quantization_config_json)
      .at("config_groups");
}

// The bits that a reader of compressed-tensors finds for a module: a name, then
// an expression, in the order of the groups.
int BitsFor(const Plan& plan, const std::string& module) {
  int by_expression = 0;
  for (const auto& group : GroupsOf(plan)) {
    const int bits = group.at("weights").at("num_bits");
    for (const std::string target : group.at("targets")) {
      if (target == module) return bits;
      if (by_expression != 0 || target.rfind("re:", 0) != 0) continue;
      const std::regex expression("^(?:" + target.substr(3) + ")");
      if (std::regex_search(module, expression)) by_expression = bits;
    }
  }
  return by_expression;
}

// The same with the first that matches of any kind, as vLLM has it.
int FirstBitsFor(const Plan& plan, const std::string& module) {
  for (const auto& group : GroupsOf(plan)) {
    for (const std::string target : group.at("targets")) {
      const bool matches =
          target.rfind("re:", 0) == 0
              ? std::regex_search(module,
                                  std::regex("^(?:" + target.substr(3) + ")"))
              : target == module;
      if (matches) return group.at("weights").at("num_bits");
    }
  }
  return 0;
}

TEST_CASE("the first override that matches holds") {
  const Plan plan =
      PlanOf(LlamaWith({Use("*.down_proj.weight", "W8A16"), Skip("*mlp.gate*"),
                        Skip("*mlp.up*"), Skip("*.mlp.*")}));
  const PlanEntry down = EntryOf(plan, "model.layers.0.mlp.down_proj.weight");
  CHECK(down.rule == 1);
  CHECK(down.action == TensorAction::kQuantize);
  // 8 bits, one scale a row, and the shape.
  CHECK(down.bytes_out == 256 * 512 + 2 * 256 + 16);
  const PlanEntry up = EntryOf(plan, "model.layers.0.mlp.up_proj.weight");
  CHECK(up.rule == 3);
  CHECK(up.action == TensorAction::kCarry);
  CHECK(up.reason == "skipped by override 3 (\"*mlp.up*\")");
  CHECK(EntryOf(plan, "model.layers.0.self_attn.o_proj.weight").rule == 0);
  CHECK(plan.tensors_quantized == 5);
  CHECK_FALSE(plan.refused);
  // The fourth has no effect, and says so.
  const auto unused = FindingsOf(plan, "OVERRIDE_UNUSED");
  REQUIRE(unused.size() == 1);
  CHECK(unused[0].severity == Severity::kWarning);
  CHECK_THAT(unused[0].text, StartsWith("override 4 (\"*.mlp.*\")"));
  const auto config = nlohmann::json::parse(plan.quantization_config_json);
  CHECK(config.at("ignore").get<Strings>() ==
        Strings{"model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj",
                "lm_head"});
}

TEST_CASE("a rule for what is not quantized anyway is a warning") {
  const Plan plan =
      PlanOf(LlamaWith({Use("model.embed_tokens.weight", "W8A16")}));
  CHECK(FindingsOf(plan, "OVERRIDE_UNUSED").size() == 1);
  CHECK(EntryOf(plan, "model.embed_tokens.weight").action ==
        TensorAction::kCarry);
  CHECK(GroupsOf(plan).size() == 1);
}

TEST_CASE("a rule that matches no name is an error") {
  CHECK(BadRequest(LlamaWith({Skip("*.mlp.*"), Skip("*.dwn_proj.*")})) ==
        "overrides[1].tensors: got \"*.dwn_proj.*\", which matches none of 8 "
        "tensor names");
}

TEST_CASE("include and exclude go before overrides") {
  PlanRequest request = LlamaWith({Use("*.down_proj.*", "W8A16")});
  request.exclude = {"*.down_proj.*"};
  const Plan plan = PlanOf(request);
  CHECK(EntryOf(plan, "model.layers.0.mlp.down_proj.weight").reason ==
        "excluded");
  CHECK(FindingsOf(plan, "OVERRIDE_UNUSED").size() == 1);
}

TEST_CASE("a fused group has one scheme, whatever the target") {
  for (const Engine engine : {Engine::kNone, Engine::kVllm}) {
    Plan plan =
        PlanOf(LlamaWith({Use("*.k_proj.*", "W8A16")}, "W4A16", engine));
    CHECK(plan.refused);
    auto split = FindingsOf(plan, "GROUP_SPLIT");
    REQUIRE(split.size() == 1);
    CHECK(split[0].severity == Severity::kError);
    CHECK(split[0].tensor == "model.layers.0.self_attn.k_proj.weight");
    CHECK_THAT(split[0].text,
               Contains("group model.layers.0/self_attn.qkv_proj") &&
                   Contains("override 1 (\"*.k_proj.*\")") &&
                   Contains("for model.layers.0.self_attn.q_proj.weight no "
                            "override"));
    plan = PlanOf(LlamaWith({Skip("*.gate_proj.*")}, "W4A16", engine));
    CHECK(plan.refused);
    split = FindingsOf(plan, "GROUP_SPLIT");
    REQUIRE(split.size() == 1);
    CHECK(split[0].tensor == "model.layers.0.mlp.gate_proj.weight");
    CHECK_THAT(split[0].text, Contains("skipped by override 1"));
  }
}

TEST_CASE("equal configurations split nothing") {
  const Plan plan = PlanOf(
      LlamaWith({Use("*.q_proj.*", "W8A16"), Use("*.[kv]_proj.*", "W8A16"),
                 Use("*.gate_proj.*", "W4A16")}));
  CHECK_FALSE(plan.refused);
  CHECK(BitsFor(plan, "model.layers.0.self_attn.v_proj") == 8);
  CHECK(BitsFor(plan, "model.layers.0.mlp.gate_proj") == 4);
  CHECK(GroupsOf(plan).size() == 2);
}

TEST_CASE("the experts of a layer are a group; shared experts another") {
  Plan plan = PlanOf(MixtureWith({Use("*.experts.1.*", "W8A16")}));
  CHECK(plan.refused);
  CHECK(FindingsOf(plan, "GROUP_SPLIT").size() == 2);
  plan = PlanOf(MixtureWith(
      {Use("*.shared_expert.*", "W8A16"),
       UseRtn("*layers.1*.experts.*", {.bits = 3, .group_size = 64})}));
  CHECK_FALSE(plan.refused);
  const std::string mlp = ".mlp.";
  for (const auto read : {BitsFor, FirstBitsFor}) {
    CHECK(read(plan, "model.layers.0.mlp.shared_expert.up_proj") == 8);
    CHECK(read(plan, "model.layers.1.mlp.shared_expert.up_proj") == 8);
    CHECK(read(plan, "model.layers.1.mlp.experts.2.up_proj") == 3);
    CHECK(read(plan, "model.layers.0.mlp.experts.2.up_proj") == 4);
    CHECK(read(plan, "model.layers.1.self_attn.q_proj") == 4);
    // As an engine may prefix it.
    CHECK(read(plan, "language_model.model.layers.1.self_attn.q_proj") == 4);
  }
  // What is the same in all layers takes one line for all of them.
  const nlohmann::json groups = GroupsOf(plan);
  REQUIRE(groups.size() == 3);
  size_t shared = 0;
  for (const auto& group : groups) {
    if (group.at("weights").at("num_bits") != 8) continue;
    shared = group.at("targets").size();
    CHECK(group.at("targets")[0] ==
          "re:(.*\\.)?layers\\.\\d+\\.mlp\\.shared_expert\\.gate_proj$");
  }
  CHECK(shared == 3);
}

TEST_CASE("every module has its own grid, however rules cut the layers") {
  const Strings globs = {"*layers.0.*",         "*layers.1.self_attn*",
                         "*mlp.shared_expert*", "*.experts.*",
                         "*layers.1*.experts*", "*o_proj*"};
  for (const std::string& first : globs) {
    for (const std::string& second : globs) {
      INFO(first << " " << second);
      const Plan plan =
          PlanOf(MixtureWith({Use(first, "W8A16"),
                              UseRtn(second, {.bits = 5, .group_size = 32})}));
      REQUIRE_FALSE(plan.refused);
      constexpr int kBits[] = {4, 8, 5};
      for (const PlanEntry& entry : plan.entries) {
        if (entry.action != TensorAction::kQuantize) continue;
        const std::string module = entry.name.substr(0, entry.name.size() - 7);
        if (GroupsOf(plan).size() == 1) continue;
        CHECK(BitsFor(plan, module) == kBits[entry.rule]);
        CHECK(FirstBitsFor(plan, module) == kBits[entry.rule]);
      }
    }
  }
}

TEST_CASE("when rules hold for all there is one group, theirs") {
  const Plan plan = PlanOf(LlamaWith({Use("*", "W8A16")}));
  const nlohmann::json groups = GroupsOf(plan);
  REQUIRE(groups.size() == 1);
  CHECK(groups.at("group_0").at("targets") == Strings{"Linear"});
  CHECK(groups.at("group_0").at("weights").at("num_bits") == 8);
}

TEST_CASE("other formats say bits once: there rules skip, or solve harder") {
  PlanRequest request =
      LlamaWith({Skip("*.down_proj.*")}, "W4A16-gptq", Engine::kNone);
  request.spec.format = OutputFormat::kGptq;
  CHECK_FALSE(PlanOf(request).refused);
  QuantSpec harder = request.spec;
  std::get<GptqSpec>(harder.method).sweeps = 20;
  request.overrides = {{"*.down_proj.*", harder}};
  CHECK_FALSE(PlanOf(request).refused);
  QuantSpec other = request.spec;
  std::get<GptqSpec>(other.method).bits = 8;
  request.overrides = {{"*.down_proj.*", other}};
  CHECK_THAT(BadRequest(request),
             StartsWith("overrides[0].config: got other bits") &&
                 Contains("allowed are skip"));
  request.overrides = {Use("*.down_proj.*", "W4A16")};
  CHECK_THAT(BadRequest(request), StartsWith("overrides[0].config.format"));
  request = LlamaWith({Use("*.down_proj.*", "NF4-dq")}, "NF4", Engine::kNone);
  CHECK_THAT(BadRequest(request), StartsWith("overrides[0].config: got other"));
  // Loaded module by module: q without k and v.
  request = LlamaWith({Skip("*.q_proj.*")}, "NF4", Engine::kTransformers);
  const Plan plan = PlanOf(request);
  CHECK_FALSE(plan.refused);
  CHECK(plan.tensors_quantized == 6);
}

TEST_CASE("the target's rules are checked for every configuration") {
  const Plan plan = PlanOf(
      LlamaWith({UseRtn("*.down_proj.*", {.bits = 4, .symmetric = false})},
                "W4A16", Engine::kTransformers));
  CHECK(plan.refused);
  const auto found = FindingsOf(plan, "ASYMMETRIC");
  REQUIRE(found.size() == 1);
  CHECK(found[0].tensor == "model.layers.0.mlp.down_proj.weight");
  // A group that does not divide the inputs of one rank.
  PlanRequest request =
      LlamaWith({UseRtn("*.down_proj.*", {.group_size = 512})});
  request.tensor_parallel = 2;
  const auto split = FindingsOf(PlanOf(request), "GROUP_SIZE_PER_RANK");
  REQUIRE(split.size() == 1);
  CHECK(split[0].tensor == "model.layers.0.mlp.down_proj.weight");
}

TEST_CASE("a group size that fits some tensors only") {
  PlanRequest request =
      LlamaWith({UseRtn("*.down_proj.*", {.group_size = 96})});
  const Plan plan = PlanOf(request);
  CHECK_THAT(EntryOf(plan, "model.layers.0.mlp.down_proj.weight").reason,
             StartsWith("group_size: got 96"));
}

TEST_CASE("what is folded together has one configuration") {
  PlanRequest request =
      MixtureWith({Use("*.shared_expert.*", "W8A16")}, "W4A16-awq");
  std::get<RtnSpec>(request.overrides[0].spec->method).group_size = 128;
  const Plan plan = PlanOf(request);
  CHECK_FALSE(plan.refused);
  int shared = 0;
  for (const PlanSite& site : plan.sites) {
    if (site.name.ends_with("mlp.experts.gate_up")) {
      ++shared;
      CHECK(site.fold.kind == FoldKind::kNone);
      CHECK(site.fold.reason == "its readers are quantized in different ways");
    }
    if (site.name.ends_with("mlp.experts.1.down_proj")) {
      CHECK(site.fold.kind == FoldKind::kLinear);
    }
  }
  CHECK(shared == 2);
  // up makes what down reads.
  request = LlamaWith({Use("*.down_proj.*", "W8A16")}, "W4A16-awq");
  bool seen = false;
  for (const PlanSite& site : PlanOf(request).sites) {
    if (!site.name.ends_with("mlp.down_proj")) continue;
    seen = true;
    CHECK(site.fold.kind == FoldKind::kNone);
    CHECK_THAT(site.fold.reason, Contains("is quantized in another way"));
  }
  CHECK(seen);
}

TEST_CASE("sites are listed when an override needs a calibration") {
  CHECK(PlanOf(LlamaWith({})).sites.empty());
  CHECK_FALSE(PlanOf(LlamaWith({Use("*.mlp.*", "W4A16-gptq")})).sites.empty());
}

}  // namespace
}  // namespace qs

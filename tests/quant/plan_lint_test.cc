// The engines' rules, as findings.
#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "quant/plan/draft.h"
#include "quant/plan/engines.h"
#include "quant/plan/findings.h"
#include "tests/quant/plan_request.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;

const std::string kDown = "model.layers.0.mlp.down_proj.weight";

std::vector<Finding> Errors(const Plan& plan) {
  std::vector<Finding> errors;
  for (const Finding& finding : plan.findings) {
    if (finding.severity == Severity::kError) errors.push_back(finding);
  }
  CHECK(plan.refused == !errors.empty());
  return errors;
}

TEST_CASE("The matrix names its engines, versions and dates") {
  const std::vector<EngineFacts>& engines = EngineMatrix();
  REQUIRE(engines.size() == 5);
  const Engine order[] = {Engine::kVllm, Engine::kTransformers,
                          Engine::kBitsandbytes, Engine::kGptqModel,
                          Engine::kHqq};
  for (size_t i = 0; i < engines.size(); ++i) {
    CHECK(engines[i].engine == order[i]);
    CHECK_FALSE(engines[i].name.empty());
    CHECK_FALSE(engines[i].version.empty());
    CHECK(engines[i].read_on.size() == 7);  // YYYY-MM
    CHECK_FALSE(engines[i].accepts.empty());
  }
}

TEST_CASE("A format that the target does not load is an error") {
  const Plan nf4 = PlanOf(SmallLlama("NF4", Engine::kVllm));
  REQUIRE(Errors(nf4).size() == 1);
  CHECK(Errors(nf4)[0].rule == "FORMAT");
  CHECK_THAT(Errors(nf4)[0].text, Contains("vLLM 0.33.0 does not load"));
  const Plan w4 = PlanOf(SmallLlama("W4A16", Engine::kBitsandbytes));
  REQUIRE(Errors(w4).size() == 1);
  CHECK(Errors(w4)[0].rule == "FORMAT");
}

TEST_CASE("Asymmetric schemes are for vLLM") {
  PlanRequest request = SmallLlama("W4A16", Engine::kVllm);
  request.spec.method = RtnSpec{.symmetric = false};
  CHECK(Errors(PlanOf(request)).empty());
  CHECK(PlanOf(request).engines == std::vector<std::string>{"vLLM 0.33.0"});
  request.engine = Engine::kTransformers;
  REQUIRE(Errors(PlanOf(request)).size() == 1);
  CHECK(Errors(PlanOf(request))[0].rule == "ASYMMETRIC");
  request.engine = Engine::kNone;
  const Plan plan = PlanOf(request);
  CHECK(Errors(plan).empty());
  CHECK(FindingsOf(plan, "ASYMMETRIC").size() == 1);
}

TEST_CASE("Row-parallel layers: the group size divides K of a rank") {
  PlanRequest request = SmallLlama("W4A16", Engine::kVllm, 512, 1024);
  const std::string o = "model.layers.0.self_attn.o_proj.weight";
  SECTION("1024 / 4 = 256 and 512 / 4 = 128") {
    request.tensor_parallel = 4;
    CHECK(Errors(PlanOf(request)).empty());
  }
  SECTION("1024 / 8 = 128, 512 / 8 = 64") {
    request.tensor_parallel = 8;
    const auto errors = Errors(PlanOf(request));
    REQUIRE(errors.size() == 1);
    CHECK(errors[0].rule == "GROUP_SIZE_PER_RANK");
    CHECK(errors[0].tensor == o);
    CHECK_THAT(errors[0].text, Contains("512 / 8 = 64: got group_size 128"));
  }
  SECTION("whole rows need no group") {
    request.spec = FindPreset("W8A16")->spec;
    request.tensor_parallel = 8;
    CHECK(Errors(PlanOf(request)).empty());
  }
  SECTION("K that the ranks do not divide") {
    request.spec = FindPreset("W8A16")->spec;
    request.tensor_parallel = 3;
    const auto errors = Errors(PlanOf(request));
    REQUIRE(errors.size() == 2);
    CHECK(errors[0].rule == "TENSOR_PARALLEL");
    CHECK(errors[0].tensor == o);
    CHECK(errors[1].tensor == kDown);
  }
}

TEST_CASE("Heads are split over the ranks") {
  PlanRequest request = SmallLlama("W8A16", Engine::kVllm, 384, 768);
  const auto set_heads = [&](int heads, int pairs) {
    request.config_json =
        absl::StrCat(R"({"model_type": "llama", "num_attention_heads": )",
                     heads, R"(, "num_key_value_heads": )", pairs, "}");
  };
  const auto error_with = [&](int ranks) -> std::string {
    request.tensor_parallel = ranks;
    const auto errors = Errors(PlanOf(request));
    if (errors.empty()) return "";
    REQUIRE(errors.size() == 1);
    CHECK(errors[0].rule == "TENSOR_PARALLEL");
    CHECK(errors[0].tensor.empty());
    return errors[0].text;
  };
  set_heads(12, 2);
  CHECK(error_with(1).empty());
  CHECK(error_with(2).empty());
  CHECK(error_with(4).empty());  // each pair on two ranks
  CHECK(error_with(8) ==
        "num_attention_heads = 12 are split over ranks: got tensor_parallel 8, "
        "allowed a divisor of 12");
  set_heads(24, 6);
  CHECK(error_with(3).empty());
  CHECK(error_with(6).empty());
  CHECK(error_with(12).empty());
  CHECK(error_with(4) ==
        "num_key_value_heads = 6 are split over ranks: got tensor_parallel 4, "
        "allowed a divisor or a multiple of 6");
  request.engine = Engine::kTransformers;
  CHECK(error_with(4).empty());
  request.engine = Engine::kVllm;
  request.config_json = R"({"model_type": "llama", "num_attention_heads": 12,
      "num_key_value_heads": 5, "text_config": {"num_attention_heads": 16}})";
  CHECK(error_with(8).empty());
}

TEST_CASE("A group size that does not divide K carries the weight") {
  const Plan plan = PlanOf(SmallLlama("W4A16", Engine::kVllm, 256, 320));
  CHECK(Errors(plan).empty());
  CHECK(EntryOf(plan, kDown).reason ==
        "group_size: got 128, allowed -1 or a divisor of 320 columns");
  REQUIRE(FindingsOf(plan, "GROUP_SIZE").size() == 1);
  CHECK(FindingsOf(plan, "GROUP_SIZE")[0].tensor == kDown);
  PlanRequest hqq = SmallLlama("W4A16-hqq", Engine::kVllm, 256, 320);
  hqq.spec.method = HqqSpec{.group_size = 128};
  CHECK(EntryOf(PlanOf(hqq), kDown).reason ==
        "group_size: got 128, allowed a divisor of 320 columns");
}

TEST_CASE("What Marlin is not fast with is a warning") {
  PlanRequest request = SmallLlama("W4A16", Engine::kVllm);
  CHECK(PlanOf(request).findings.empty());
  SECTION("bits") {
    for (const int bits : {2, 3, 5, 6, 7}) {
      request.spec.method = RtnSpec{.bits = bits};
      CHECK(FindingsOf(PlanOf(request), "MARLIN_BITS").size() == 1);
    }
    request.spec.method = RtnSpec{.bits = 8};
    CHECK(FindingsOf(PlanOf(request), "MARLIN_BITS").empty());
  }
  SECTION("group size") {
    for (const int64_t size : {16, 256}) {
      request.spec.method = RtnSpec{.group_size = size};
      CHECK(FindingsOf(PlanOf(request), "MARLIN_GROUP_SIZE").size() == 1);
    }
    for (const int64_t size : {-1, 32, 64, 128}) {
      request.spec.method = RtnSpec{.group_size = size};
      CHECK(FindingsOf(PlanOf(request), "MARLIN_GROUP_SIZE").empty());
    }
  }
  SECTION("shapes, of the fused layer on a rank") {
    // q, k, v: N = 3 * 256 / 8 = 96; gate, up: N = 2 * 512 / 8 = 128.
    request.spec.method = RtnSpec{.group_size = 32};
    request.tensor_parallel = 8;
    const auto found = FindingsOf(PlanOf(request), "MARLIN_SHAPE");
    REQUIRE(found.size() == 2);
    CHECK(found[0].tensor == "model.layers.0.self_attn.q_proj.weight");
    CHECK_THAT(found[0].text, Contains("K = 256, N = 96 per rank"));
    CHECK_THAT(found[0].text, EndsWith("(and 2 more tensors)"));
    CHECK(found[1].tensor == "model.layers.0.self_attn.o_proj.weight");
    CHECK_THAT(found[1].text, Contains("K = 32, N = 256 per rank"));
  }
}

TEST_CASE("Shapes that bitsandbytes computes wrongly are warned of") {
  // 272 = 16 * 17.
  const Plan plan = PlanOf(SmallLlama("NF4", Engine::kTransformers, 256, 272));
  CHECK_FALSE(plan.refused);
  const auto found = FindingsOf(plan, "AVX512_DEQUANTIZE");
  REQUIRE(found.size() == 1);
  CHECK(found[0].tensor == kDown);
  // 272 rows are no multiple of 32.
  CHECK(FindingsOf(plan, "LINEAR4BIT_SHAPE").size() == 1);
  PlanRequest request = SmallLlama("NF4", Engine::kTransformers, 256, 272);
  request.spec.method = Nf4Spec{.block_size = 2048};
  CHECK(FindingsOf(PlanOf(request), "AVX512_DEQUANTIZE").empty());
}

PlanRequest GptqRequest(Engine engine, const GptqSpec& gptq = {},
                        OutputFormat format = OutputFormat::kGptq) {
  PlanRequest request = SmallLlama("W4A16-gptq", engine);
  request.spec.method = gptq;
  request.spec.format = format;
  return request;
}

std::vector<std::string> ErrorRules(const PlanRequest& request) {
  std::vector<std::string> rules;
  for (const Finding& error : Errors(PlanOf(request))) {
    rules.push_back(error.rule);
  }
  return rules;
}

TEST_CASE("vLLM takes GPTQ files of 4 and 8 bits, symmetric, as stored") {
  using Rules = std::vector<std::string>;
  const auto rules = [](const GptqSpec& gptq) {
    return ErrorRules(GptqRequest(Engine::kVllm, gptq));
  };
  CHECK(rules({.bits = 4}).empty());
  CHECK(rules({.bits = 8, .group_size = -1}).empty());
  CHECK(rules({.bits = 2}) == Rules{"BITS"});
  CHECK(rules({.bits = 3}) == Rules{"BITS"});
  CHECK(rules({.symmetric = false}) == Rules{"ASYMMETRIC"});
  CHECK(rules({.group_size = 16}) == Rules{"GROUP_SIZES"});
  CHECK(rules({.group_size = 256}) == Rules{"GROUP_SIZES"});
  CHECK(rules({.order = ColumnOrder::kActOrder}) == Rules{"ACT_ORDER"});
  CHECK(rules({.order = ColumnOrder::kGroupAware}).empty());
  CHECK(rules({.group_size = -1, .order = ColumnOrder::kActOrder}).empty());
  CHECK(rules({.bits = 3, .symmetric = false}) == Rules{"ASYMMETRIC", "BITS"});
  const PlanRequest v2 = GptqRequest(Engine::kVllm, {}, OutputFormat::kGptqV2);
  CHECK(ErrorRules(v2).empty());
  CHECK(PlanOf(v2).findings.empty());
}

TEST_CASE("GPTQModel and transformers take all GPTQ files of their sizes") {
  for (const Engine engine : {Engine::kGptqModel, Engine::kTransformers}) {
    for (const int bits : {2, 3, 4, 8}) {
      for (const bool symmetric : {true, false}) {
        CHECK(ErrorRules(GptqRequest(engine,
                                     {.bits = bits,
                                      .symmetric = symmetric,
                                      .order = ColumnOrder::kActOrder},
                                     OutputFormat::kGptqV2))
                  .empty());
      }
    }
    CHECK(ErrorRules(GptqRequest(engine, {.group_size = 48})) ==
          std::vector<std::string>{"GROUP_SIZES"});
  }
}

TEST_CASE("A zero point of 0 in GPTQ v1 is warned of before it is met") {
  const auto found = [](bool symmetric, OutputFormat format) {
    return FindingsOf(PlanOf(GptqRequest(Engine::kGptqModel,
                                         {.symmetric = symmetric}, format)),
                      "GPTQ_V1_ZERO_POINT")
        .size();
  };
  CHECK(found(false, OutputFormat::kGptq) == 1);
  CHECK(found(true, OutputFormat::kGptq) == 0);
  CHECK(found(false, OutputFormat::kGptqV2) == 0);
}

TEST_CASE("A shorter last group is GPTQModel's") {
  PlanRequest request = SmallLlama("W4A16-gptq", Engine::kGptqModel, 256, 320);
  request.spec.format = OutputFormat::kGptq;
  CHECK(PlanOf(request).findings.empty());
  CHECK(EntryOf(PlanOf(request), kDown).action == TensorAction::kQuantize);
  request.engine = Engine::kVllm;
  const Plan carried = PlanOf(request);
  CHECK(Errors(carried).empty());
  CHECK(EntryOf(carried, kDown).reason ==
        "group_size: got 128, allowed -1 or a divisor of 320 columns");
  request.engine = Engine::kNone;
  const auto found = FindingsOf(PlanOf(request), "GROUP_SIZE");
  REQUIRE(found.size() == 1);
  CHECK_THAT(found[0].text, Contains("K = 320: got group_size 128"));
}

TEST_CASE("Words that a shape leaves part empty carry the weight") {
  PlanRequest request = GptqRequest(Engine::kGptqModel, {.bits = 3});
  const std::string extra = "model.layers.1.mlp.down_proj.weight";
  AddTensor(&request, extra, {240, 512});
  const Plan plan = PlanOf(request);
  CHECK_THAT(EntryOf(plan, extra).reason,
             Contains("allowed multiples of 32 in both"));
  REQUIRE(FindingsOf(plan, "SHAPE").size() == 1);
  CHECK(FindingsOf(plan, "SHAPE")[0].tensor == extra);
}

TEST_CASE("AWQ files are for vLLM, transformers and GPTQModel") {
  PlanRequest request = SmallLlama("W4A16-awq", Engine::kNone);
  request.spec.format = OutputFormat::kAwqGemm;
  CHECK(PlanOf(request).engines ==
        std::vector<std::string>{"vLLM 0.33.0", "transformers 5.23.0",
                                 "GPTQModel 7.7.0"});
  request.engine = Engine::kVllm;
  request.spec.method = AwqSpec{.symmetric = false};
  CHECK(ErrorRules(request).empty());
  request.spec.method = AwqSpec{.group_size = 16};
  CHECK(ErrorRules(request).empty());
  CHECK(FindingsOf(PlanOf(request), "MARLIN_GROUP_SIZE").size() == 1);
  request.spec.method = AwqSpec{};
  request.tensor_parallel = 8;
  CHECK(ErrorRules(request) ==
        std::vector<std::string>{"GROUP_SIZE_PER_RANK", "GROUP_SIZE_PER_RANK"});
}

TEST_CASE("A name that is a part of another cannot be skipped alone in AWQ") {
  PlanRequest request = RequestWith("W4A16-awq", Engine::kNone);
  request.config_json = "";
  request.spec.format = OutputFormat::kAwqGemm;
  AddTensor(&request, "a.mix.weight", {256, 256});
  AddTensor(&request, "a.mixer.weight", {256, 256});
  AddTensor(&request, "b.part.weight", {256, 256});
  AddTensor(&request, "sub.b.part.weight", {256, 256});
  request.exclude = {"a.mix.weight", "b.part.weight"};
  request.engine = Engine::kVllm;
  const auto errors = Errors(PlanOf(request));
  REQUIRE(errors.size() == 2);
  CHECK(errors[0].rule == "SKIP_NAME");
  CHECK(errors[0].tensor == "a.mix.weight");
  CHECK_THAT(errors[0].text, Contains("a part of a.mixer"));
  CHECK(errors[1].tensor == "b.part.weight");
  request.exclude = {"a.mixer.weight"};
  CHECK(ErrorRules(request).empty());
}

PlanRequest AwqOfLinears(const std::vector<std::string>& modules) {
  PlanRequest request = RequestWith("W4A16-awq", Engine::kVllm);
  request.config_json = "";
  request.spec.format = OutputFormat::kAwqGemm;
  for (const std::string& module : modules) {
    AddTensor(&request, module + ".weight", {256, 256});
  }
  return request;
}

// Module by module, part by part.
std::vector<Finding> SkippedParts(const std::vector<std::string>& skipped,
                                  const std::vector<std::string>& quantized) {
  FindingList findings;
  for (const std::string& name : skipped) {
    std::string first;
    for (const std::string& other : quantized) {
      for (size_t at = other.find(name); at != other.npos;
           at = other.find(name, at + 1)) {
        const std::string end = other.substr(at);
        if (first.empty() || end < first) first = end;
      }
    }
    if (first.empty()) continue;
    findings.Add(Severity::kError, "SKIP_NAME", name + ".weight",
                 "not quantized, but its name is a part of " + first +
                     ", which is: vLLM 0.33.0 would skip both in AWQ files");
  }
  return findings.Findings();
}

TEST_CASE("Names that are parts of others are told as they stand") {
  std::mt19937 random(1);
  size_t told = 0;
  for (int round = 0; round < 200; ++round) {
    std::set<std::string> modules;
    for (int i = 0; i < 40; ++i) {
      std::string name(1 + random() % 12, ' ');
      for (char& c : name) c = "uv."[random() % 3];
      modules.insert(name);
    }
    std::vector<std::string> order(modules.begin(), modules.end());
    std::shuffle(order.begin(), order.end(), random);
    PlanRequest request = AwqOfLinears(order);
    std::vector<std::string> quantized;
    std::vector<std::string> skipped;
    for (const std::string& name : order) {
      const bool skip = random() % 2 == 0;
      (skip ? skipped : quantized).push_back(name);
      if (skip) request.exclude.push_back(name + ".weight");
    }
    const std::vector<Finding> expected = SkippedParts(skipped, quantized);
    const std::vector<Finding> found = FindingsOf(PlanOf(request), "SKIP_NAME");
    REQUIRE(found.size() == expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      CHECK(found[i].tensor == expected[i].tensor);
      CHECK(found[i].text == expected[i].text);
    }
    told += found.size();
  }
  CHECK(told > 1000);
}

// The first components of the skipped names stand in 8e8 places; kept, these
// are 13 GB.
TEST_CASE("Places where parts of names stand are not kept") {
  std::vector<std::string> modules;
  for (int i = 0; i < 20000; ++i) {
    modules.push_back("q" + std::to_string(i) + "." + std::string(290, 'x'));
  }
  for (size_t i = 1; i <= 290; ++i) {
    modules.push_back(std::string(i, 'x') + ".w");
  }
  PlanRequest request = AwqOfLinears(modules);
  request.exclude = {"x*"};
  CHECK(FindingsOf(PlanOf(request), "SKIP_NAME").empty());
  request.tensors.back().name = std::string(290, 'x') + ".weight";
  REQUIRE(FindingsOf(PlanOf(request), "SKIP_NAME").size() == 1);
}

// 4e8 pairs of a skipped name and another one, of 140 places each.
TEST_CASE("No pair of names is looked at by itself") {
  const std::string run(136, 'x');
  std::vector<std::string> modules;
  for (int i = 0; i < 20000; ++i) {
    modules.push_back(run + "q" + std::to_string(i) + "." + run);
    modules.push_back(run + "s" + std::to_string(i) + "." + run);
  }
  PlanRequest request = AwqOfLinears(modules);
  request.exclude = {"*xs*"};
  CHECK(FindingsOf(PlanOf(request), "SKIP_NAME").empty());
}

TEST_CASE("What nobody wants any more is not looked through") {
  std::atomic<bool> cancelled = false;
  PlanRequest request = AwqOfLinears({"a.mix", "a.mixer"});
  request.cancelled = &cancelled;
  Draft draft(request);
  draft.architecture = &FindArchitecture(draft.config);
  for (const PlanTensor& tensor : request.tensors) {
    REQUIRE(AddTensor(&draft, tensor).ok());
    draft.plan.entries.back().action = TensorAction::kQuantize;
  }
  const EngineRules& vllm = AllEngineRules().front();
  CHECK(Lint(draft, vllm).ok());
  cancelled = true;
  CHECK(absl::IsCancelled(Lint(draft, vllm).status()));
}

TEST_CASE("Between its stages a plan looks whether it is wanted") {
  const std::atomic<bool> cancelled = true;
  // Of no tensors, for each of which some stages look.
  PlanRequest request = RequestWith("W4A16", Engine::kVllm);
  CHECK(MakePlan(request).ok());
  request.cancelled = &cancelled;
  CHECK(absl::IsCancelled(MakePlan(request).status()));
}

TEST_CASE("hqq's state dict is for hqq") {
  const Plan plan = PlanOf(SmallLlama("HQQ-4", Engine::kNone));
  CHECK(plan.engines == std::vector<std::string>{"hqq 0.2.8.post1"});
  CHECK(ErrorRules(SmallLlama("HQQ-2", Engine::kHqq)).empty());
  for (const Engine engine : {Engine::kVllm, Engine::kTransformers}) {
    CHECK(ErrorRules(SmallLlama("HQQ-4", engine)) ==
          std::vector<std::string>{"FORMAT"});
  }
  CHECK(ErrorRules(SmallLlama("W4A16-hqq", Engine::kVllm)).empty());
  CHECK(ErrorRules(SmallLlama("W4A16-hqq", Engine::kTransformers)) ==
        std::vector<std::string>{"ASYMMETRIC"});
}

TEST_CASE("Convolutions are flattened for hqq's own format alone") {
  const std::string name = "down.conv.weight";
  const auto plan_of = [&](const char* preset, Engine engine) {
    PlanRequest request = SmallLlama(preset, engine);
    request.config_json = "";
    AddTensor(&request, name, {64, 64, 4, 4});
    return PlanOf(request);
  };
  CHECK(EntryOf(plan_of("HQQ-4", Engine::kNone), name).action ==
        TensorAction::kQuantize);
  CHECK(FindingsOf(plan_of("HQQ-4", Engine::kNone), "CONVOLUTION").size() == 1);
  CHECK_THAT(EntryOf(plan_of("HQQ-4", Engine::kHqq), name).reason,
             Contains("hqq loads packed weights into nn.Linear only"));
  CHECK_THAT(EntryOf(plan_of("W4A16-hqq", Engine::kNone), name).reason,
             Contains("compressed-tensors packs 2-D weights"));
  CHECK_THAT(EntryOf(plan_of("W4A16-gptq", Engine::kNone), name).reason,
             Contains("compressed-tensors packs 2-D weights"));
}

TEST_CASE("Good plans name the engines that load them") {
  using Strings = std::vector<std::string>;
  CHECK(PlanOf(SmallLlama("NF4", Engine::kNone)).engines ==
        Strings{"transformers 5.23.0", "bitsandbytes 0.50.2"});
  CHECK(PlanOf(SmallLlama("W4A16", Engine::kNone)).engines ==
        Strings{"vLLM 0.33.0", "transformers 5.23.0"});
  CHECK(PlanOf(SmallLlama("NF4", Engine::kVllm)).engines ==
        Strings{"transformers 5.23.0", "bitsandbytes 0.50.2"});
}

}  // namespace
}  // namespace qs

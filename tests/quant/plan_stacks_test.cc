// Stacks of experts: how they are split, and when they are not.
#include "absl/strings/str_cat.h"
#include "quant/plan/stacks.h"
#include "tests/quant/plan_request.h"

namespace qs {
namespace {

using Catch::Matchers::Contains;

constexpr char kBlock[] = "model.language_model.layers.3.";
constexpr char kGateUp[] =
    "model.language_model.layers.3.mlp.experts.gate_up_proj";
constexpr char kDown[] = "model.language_model.layers.3.mlp.experts.down_proj";

// One layer with 4 experts of 512 inner and 256 outer values.
PlanRequest Stacked(const std::string& type, bool transposed,
                    const std::string& preset = "W4A16",
                    Engine engine = Engine::kVllm) {
  PlanRequest request = RequestWith(preset, engine);
  request.config_json =
      absl::StrCat(R"({"model_type": ")", type, R"(", "text_config": {}})");
  request.list_sites = true;
  const std::string block = kBlock;
  AddTensor(&request, block + "input_layernorm.weight", {256});
  AddTensor(&request, block + "post_attention_layernorm.weight", {256});
  AddTensor(&request, block + "mlp.gate.weight", {4, 256});
  using Shape = std::vector<int64_t>;
  AddTensor(&request, kGateUp,
            transposed ? Shape{4, 256, 1024} : Shape{4, 1024, 256});
  AddTensor(&request, kDown,
            transposed ? Shape{4, 512, 256} : Shape{4, 256, 512});
  return request;
}

std::string Slice(int expert, const std::string& part) {
  return absl::StrCat(kBlock, "mlp.experts.", expert, ".", part, ".weight");
}

void CheckSlice(const Plan& plan, int expert, const std::string& part,
                const PlanSlice& want) {
  const PlanEntry entry = EntryOf(plan, Slice(expert, part));
  CHECK(entry.action == TensorAction::kQuantize);
  REQUIRE(entry.slice.has_value());
  CHECK(entry.slice->tensor == want.tensor);
  CHECK(entry.slice->expert == expert);
  CHECK(entry.slice->first_row == want.first_row);
  CHECK(entry.slice->row_step == want.row_step);
  CHECK(entry.slice->transposed == want.transposed);
  CHECK(entry.rows == (part == "down_proj" ? 256 : 512));
  CHECK(entry.cols == (part == "down_proj" ? 512 : 256));
  CHECK(entry.bytes_in == 2 * 256 * 512);
}

void CheckCarried(const Plan& plan, const std::string& why) {
  for (const char* stack : {kGateUp, kDown}) {
    const PlanEntry entry = EntryOf(plan, stack);
    CHECK(entry.action == TensorAction::kCarry);
    CHECK_THAT(entry.reason, Contains(why));
    CHECK(entry.bytes_in == entry.bytes_out);
    CHECK(entry.bytes_in > 0);
  }
  for (const PlanEntry& entry : plan.entries) CHECK_FALSE(entry.slice);
}

TEST_CASE("Overrides hold for stacks whole, by either name") {
  const std::string glob = GENERATE("*.experts.*", "*experts*");
  PlanRequest request = Stacked("qwen3_5_moe", false);
  request.overrides = {{glob, std::nullopt}};
  Plan plan = PlanOf(request);
  CHECK(FindingsOf(plan, "OVERRIDE_UNUSED").empty());
  CheckCarried(plan, "skipped by override 1");
  CHECK(EntryOf(plan, kDown).rule == 1);
  request.overrides[0].spec = FindPreset("W8A16")->spec;
  plan = PlanOf(request);
  CHECK(plan.tensors_quantized == 12);
  CHECK(EntryOf(plan, Slice(2, "up_proj")).rule == 1);
  // A part of them.
  for (const std::string part : {"*.experts.gate_up_proj", "*.experts.1.*"}) {
    INFO(part);
    request.overrides[0].tensors = part;
    CHECK(PlanOf(request).refused);
    CHECK(FindingsOf(PlanOf(request), "GROUP_SPLIT").size() == 1);
  }
}

TEST_CASE("A stack is split as its architecture stores it") {
  const bool transposed = GENERATE(false, true);
  const Plan plan =
      PlanOf(Stacked(transposed ? "qwen3_vl_moe" : "qwen3_5_moe", transposed));
  CHECK(plan.entries.size() == 5 + 12);
  CHECK(plan.tensors_quantized == 12);
  CHECK(plan.bytes_in == 2 * (2 * 256 + 4 * 256 + 12 * 256 * 512));
  for (const char* stack : {kGateUp, kDown}) {
    const PlanEntry entry = EntryOf(plan, stack);
    CHECK(entry.action == TensorAction::kSplit);
    CHECK_FALSE(entry.reason.empty());
    CHECK(entry.bytes_in == 0);
    CHECK(entry.bytes_out == 0);
  }
  // In the order of experts, behind their stack.
  CHECK(plan.entries[3].name == kGateUp);
  CHECK(plan.entries[4].name == Slice(0, "gate_proj"));
  CHECK(plan.entries[5].name == Slice(0, "up_proj"));
  CHECK(plan.entries[11].name == Slice(3, "up_proj"));
  CHECK(plan.entries[12].name == kDown);
  for (const int expert : {0, 3}) {
    CheckSlice(plan, expert, "gate_proj", {kGateUp, 0, transposed, 0, 1});
    CheckSlice(plan, expert, "up_proj", {kGateUp, 0, transposed, 512, 1});
    CheckSlice(plan, expert, "down_proj", {kDown, 0, transposed, 0, 1});
  }
  CHECK(plan.findings.empty());
  CHECK(plan.quantization_config_json.find("experts") == std::string::npos);
}

TEST_CASE("Rows that alternate are cut apart") {
  ConfigFacts facts;
  facts.model_type = "gpt_oss";
  const Architecture& gpt_oss = FindArchitecture(facts);
  const StackMatch match =
      MatchStack(gpt_oss, "model.layers.7.mlp.experts.gate_up_proj");
  REQUIRE(match.rule != nullptr);
  CHECK(match.block == "model.layers.7");
  CHECK(match.local == "mlp.experts.gate_up_proj");
  CHECK(match.rule->interleaved);
  CHECK(match.rule->transposed);
  PlanTensor tensor;
  tensor.name = "model.layers.7.mlp.experts.gate_up_proj";
  tensor.shape = {32, 2880, 5760};
  StackCut cut;
  CHECK(CutStack(*match.rule, tensor, &cut) == "");
  CHECK(cut.experts == 32);
  CHECK(cut.rows == 2880);
  CHECK(cut.cols == 2880);
  CHECK(SliceName(tensor, cut, 31, 1) ==
        "model.layers.7.mlp.experts.31.up_proj.weight");
  tensor.shape = {32, 2880, 5761};
  CHECK_THAT(CutStack(*match.rule, tensor, &cut), Contains("5761"));
  // Not outside a block.
  CHECK(MatchStack(gpt_oss, "mlp.experts.gate_up_proj").rule == nullptr);
}

TEST_CASE("All experts share the input of gate and up, each has its own down") {
  const std::string preset = GENERATE("W4A16-gptq", "W4A16-awq");
  const Plan plan = PlanOf(Stacked("qwen3_5_moe", false, preset));
  REQUIRE(plan.sites.size() == 5);
  const PlanSite& shared = plan.sites[0];
  CHECK(shared.name == "model.language_model.layers.3/mlp.experts.gate_up");
  CHECK(shared.pooled);
  CHECK(shared.inputs == 256);
  CHECK(shared.consumers.size() == 8);
  CHECK(shared.fold.kind == FoldKind::kNormPlusOne);
  CHECK(shared.fold.scaled_only ==
        std::vector<std::string>{std::string(kBlock) + "mlp.gate.weight"});
  for (int expert = 0; expert < 4; ++expert) {
    const PlanSite& down = plan.sites[static_cast<size_t>(expert) + 1];
    CHECK(down.consumers == std::vector{Slice(expert, "down_proj")});
    CHECK(down.inputs == 512);
    CHECK(down.pool == "model.language_model.layers.3/mlp.experts.down_proj");
    CHECK(down.fold.kind == FoldKind::kLinear);
    CHECK(down.fold.producer == Slice(expert, "up_proj"));
    CHECK(down.group == shared.group);
  }
}

TEST_CASE("Shapes that are not as the architecture stores them are carried") {
  SECTION("the other way round") {
    CheckCarried(PlanOf(Stacked("qwen3_vl_moe", false)), "as qwen3_vl_moe");
    CheckCarried(PlanOf(Stacked("qwen3_5_moe", true)), "as qwen3_5_moe");
  }
  SECTION("another number of experts") {
    PlanRequest request = Stacked("qwen3_5_moe", false);
    request.tensors.back().shape[0] = 8;
    request.tensors.back().begin = request.tensors.back().end = 0;
    CheckCarried(PlanOf(request), "does not go with");
  }
  SECTION("one of the two is not there") {
    PlanRequest request = Stacked("qwen3_5_moe", false);
    request.tensors.pop_back();
    const PlanEntry entry = EntryOf(PlanOf(request), kGateUp);
    CHECK_THAT(entry.reason, Contains("no mlp.experts.down_proj beside it"));
  }
  SECTION("single experts are there, too") {
    PlanRequest request = Stacked("qwen3_5_moe", false);
    AddTensor(&request, Slice(0, "gate_proj"), {512, 256});
    const PlanEntry entry = EntryOf(PlanOf(request), kGateUp);
    CHECK(entry.action == TensorAction::kCarry);
    CHECK_THAT(entry.reason, Contains("as 2-D weights, too"));
  }
  SECTION("an architecture that the catalogue does not know") {
    PlanRequest request = Stacked("mystery_moe", true);
    AddTensor(&request, std::string(kBlock) + "self_attn.q_proj.weight",
              {256, 256});
    const Plan plan = PlanOf(request);
    CheckCarried(plan, "the format stores experts as one 2-D weight each");
    CHECK(FindingsOf(plan, "EXPERT_STACK").size() == 2);
  }
}

TEST_CASE("Groups that do not fit carry both stacks of a layer") {
  PlanRequest request = Stacked("qwen3_5_moe", false);
  std::get<RtnSpec>(request.spec.method).group_size = 384;
  const Plan plan = PlanOf(request);
  CheckCarried(plan, "group_size: got 384");
  const std::vector<Finding> found = FindingsOf(plan, "GROUP_SIZE");
  REQUIRE(found.size() == 2);
  CHECK(found[0].tensor == kGateUp);
  CHECK_THAT(found[0].text, !Contains("more tensor"));
  request = Stacked("qwen3_5_moe", false);
  std::get<RtnSpec>(request.spec.method).group_size = 512;
  const PlanEntry down = EntryOf(PlanOf(request), kDown);
  CHECK_THAT(down.reason, Contains(std::string("fused with ") + kGateUp));
}

TEST_CASE("Globs choose stacks by their own name and by their slices'") {
  PlanRequest request = Stacked("qwen3_5_moe", false);
  AddTensor(&request, std::string(kBlock) + "self_attn.o_proj.weight",
            {256, 256});
  SECTION("no expert") {
    request.exclude = {"*experts*"};
    const Plan plan = PlanOf(request);
    CHECK(EntryOf(plan, kGateUp).reason == "excluded");
    CheckCarried(plan, "excluded");
    CHECK(FindingsOf(plan, "EXPERT_STACK").empty());
  }
  SECTION("the stacks' names") {
    request.exclude = {kGateUp, kDown};
    CheckCarried(PlanOf(request), "excluded");
  }
  SECTION("only the experts") {
    request.include = {kGateUp, kDown};
    CHECK(PlanOf(request).tensors_quantized == 12);
  }
  SECTION("one expert of four: a scheme for all or for none") {
    request.engine = Engine::kNone;
    request.exclude = {"*experts.2.*"};
    const Plan plan = PlanOf(request);
    CheckCarried(plan, "excluded");
    const std::vector<Finding> found = FindingsOf(plan, "GROUP_SPLIT");
    REQUIRE(found.size() == 1);
    CHECK(found[0].tensor == kGateUp);
    request.engine = Engine::kVllm;
    CHECK(PlanOf(request).refused);
  }
}

TEST_CASE("What a target or format cannot load is carried as a stack") {
  SECTION("transformers keeps one parameter of Qwen3-VL's") {
    CheckCarried(
        PlanOf(Stacked("qwen3_vl_moe", true, "W4A16", Engine::kTransformers)),
        "transformers 5.23.0 does not load the experts of qwen3_vl_moe");
  }
  SECTION("and merges Qwen3.5's in GPTQ files, not in compressed-tensors") {
    PlanRequest request =
        Stacked("qwen3_5_moe", false, "W4A16-gptq", Engine::kTransformers);
    CHECK(PlanOf(request).tensors_quantized == 12);
    request.spec.format = OutputFormat::kGptq;
    CheckCarried(PlanOf(request), "merges the experts of a layer");
  }
  SECTION("NF4, with and without a target") {
    for (const Engine engine : {Engine::kNone, Engine::kTransformers}) {
      CheckCarried(PlanOf(Stacked("qwen3_5_moe", false, "NF4", engine)),
                   "the format stores experts as one 2-D weight each");
    }
  }
  SECTION("gpt-oss") {
    PlanRequest request = Stacked("gpt_oss", true, "W4A16", Engine::kNone);
    CheckCarried(PlanOf(request), "no engine loads the experts of gpt_oss");
    CheckCarried(PlanOf(request), "w13_bias");
  }
}

TEST_CASE("A plan without a target says which engines load split stacks") {
  const auto engines = [](const std::string& type, bool transposed) {
    return PlanOf(Stacked(type, transposed, "W4A16", Engine::kNone)).engines;
  };
  CHECK(engines("qwen3_vl_moe", true) ==
        std::vector<std::string>{"vLLM 0.33.0"});
  CHECK(engines("qwen3_5_moe", false) ==
        std::vector<std::string>{"vLLM 0.33.0", "transformers 5.23.0"});
}

TEST_CASE("Too many tensors are an error with and without stacks") {
  PlanRequest request = SmallLlama("W4A16", Engine::kVllm);
  request.max_entries = static_cast<int64_t>(request.tensors.size());
  CHECK(PlanOf(request).entries.size() == 8);
  request.max_entries = 7;
  const absl::Status status = MakePlan(request).status();
  CHECK(status.code() == absl::StatusCode::kResourceExhausted);
  CHECK(status.message() == "tensors: got 8, allowed 7");
}

TEST_CASE("A stack of too many experts is an error, not a long answer") {
  PlanRequest request = Stacked("qwen3_5_moe", false);
  request.max_entries = 17;
  CHECK(PlanOf(request).entries.size() == 17);
  request.max_entries = 16;
  const absl::Status status = MakePlan(request).status();
  CHECK(status.code() == absl::StatusCode::kResourceExhausted);
  CHECK_THAT(std::string(status.message()), Contains("got more than 16"));
  for (PlanTensor& tensor : request.tensors) {
    if (tensor.shape.size() != 3) continue;
    tensor.shape[0] = int64_t{1} << 40;
    tensor.begin = tensor.end = 0;
  }
  CHECK(MakePlan(request).status().code() ==
        absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace qs

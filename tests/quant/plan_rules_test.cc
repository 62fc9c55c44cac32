// Rules of the plan, one at a time: bad input, quantized sources, ties, globs,
// fused groups, files.
#include <algorithm>
#include <string>
#include <vector>

#include "tests/quant/plan_request.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

std::string MessageOf(const PlanRequest& request, absl::StatusCode code) {
  const absl::Status status = MakePlan(request).status();
  CHECK(status.code() == code);
  return std::string(status.message());
}

std::string BadInput(const PlanRequest& request) {
  return MessageOf(request, absl::StatusCode::kInvalidArgument);
}

std::string Quantized(const PlanRequest& request) {
  return MessageOf(request, absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("Bad requests are refused by name") {
  PlanRequest request = SmallLlama("W4A16", Engine::kNone);
  SECTION("config.json") {
    for (const char* text : {"[]", "{", "7", R"({"a": 1, "a": 2})"}) {
      request.config_json = text;
      CHECK_THAT(BadInput(request), StartsWith("config.json"));
    }
  }
  SECTION("a tensor twice") {
    request.tensors.push_back(request.tensors[1]);
    CHECK_THAT(BadInput(request),
               Contains("self_attn.q_proj.weight\": got it twice"));
  }
  SECTION("bytes that the shape does not have") {
    request.tensors[0].end -= 2;
    CHECK_THAT(BadInput(request), Contains("end - begin: got 262142") &&
                                      Contains("allowed 262144"));
  }
  SECTION("a shape beyond 64 bits") {
    request.tensors[0].shape = {int64_t{1} << 40, int64_t{1} << 40};
    CHECK_THAT(BadInput(request), Contains("model.embed_tokens.weight"));
  }
  SECTION("include that selects nothing") {
    request.include = {"*.nothing"};
    CHECK_THAT(BadInput(request), StartsWith("include: got \"*.nothing\""));
  }
  SECTION("an illegal spec") {
    request.spec.method = RtnSpec{.bits = 9};
    CHECK_THAT(BadInput(request), StartsWith("rtn.bits"));
  }
  SECTION("tensor_parallel") {
    request.tensor_parallel = 0;
    CHECK_THAT(BadInput(request), StartsWith("tensor_parallel: got 0"));
  }
}

TEST_CASE("A source that is quantized is refused by what shows it") {
  PlanRequest request = SmallLlama("NF4", Engine::kNone);
  const std::string up = "model.layers.0.mlp.up_proj";
  SECTION("quantization_config") {
    request.config_json = R"({"quantization_config": {"quant_method": "fp8"}})";
    CHECK_THAT(Quantized(request), Contains("quantization_config (fp8)"));
    request.config_json =
        R"({"text_config": {"quantization_config": {"quant_method": "awq"}}})";
    CHECK_THAT(Quantized(request), Contains("(awq)"));
  }
  SECTION("null is none") {
    request.config_json = R"({"quantization_config": null})";
    CHECK(MakePlan(request).ok());
  }
  SECTION("companions of packed weights") {
    for (const char* name :
         {".weight_scale_inv", ".weight_scale", ".weight_packed", ".qweight",
          ".SCB", ".weight.absmax", ".W_q"}) {
      PlanRequest one = request;
      AddTensor(&one, up + name, {4}, DType::kF32);
      CHECK_THAT(Quantized(one), Contains(up + name));
    }
  }
  SECTION("MXFP4 needs both tensors") {
    AddTensor(&request, "experts.w_blocks", {2, 2, 2, 16}, DType::kU8);
    CHECK(MakePlan(request).ok());
    AddTensor(&request, "experts.w_scales", {2, 2, 2}, DType::kU8);
    CHECK_THAT(Quantized(request), Contains("(MXFP4)"));
  }
  SECTION("8-bit weights") {
    for (const DType dtype :
         {DType::kF8E4M3, DType::kF8E5M2, DType::kU8, DType::kI8}) {
      PlanRequest one = request;
      AddTensor(&one, "extra.weight", {64, 64}, dtype);
      CHECK_THAT(Quantized(one), Contains(DTypeName(dtype)));
    }
  }
}

TEST_CASE("What is quantized already may be left out") {
  PlanRequest request = SmallLlama("W4A16", Engine::kNone);
  const std::string down = "model.layers.0.mlp.down_proj.weight";
  for (PlanTensor& tensor : request.tensors) {
    if (tensor.name != down) continue;
    tensor.dtype = DType::kF8E4M3;
    tensor.end = tensor.begin + (tensor.end - tensor.begin) / 2;
  }
  AddTensor(&request, down + "_scale", {1}, DType::kF32);
  CHECK_THAT(Quantized(request), Contains(down) && Contains("F8_E4M3"));
  std::string reason = "excluded";
  SECTION("by exclude") { request.exclude = {"*down*"}; }
  SECTION("by include") {
    request.include = {"*self_attn*", "*up_proj*", "*gate_proj*"};
    reason = "not included";
  }
  SECTION("by an override") {
    request.overrides = {{"*down*", std::nullopt}};
    reason = "skipped by override 1 (\"*down*\")";
  }
  SECTION("but not by half") {
    request.exclude = {"*down_proj.weight"};
    CHECK_THAT(Quantized(request),
               Contains(down + "_scale") && Contains("left out"));
    request.exclude = {"*down*scale"};
    CHECK_THAT(Quantized(request), Contains(down) && Contains("left out"));
    return;
  }
  SECTION("nor by a rule that another comes before") {
    request.overrides = {{"*.mlp.*", request.spec}, {"*down*", std::nullopt}};
    CHECK_THAT(Quantized(request), Contains(down));
    return;
  }
  const Plan plan = PlanOf(request);
  CHECK_FALSE(plan.refused);
  CHECK(plan.tensors_quantized == 6);
  CHECK(EntryOf(plan, down).action == TensorAction::kCarry);
  CHECK(EntryOf(plan, down).reason == reason);
  const auto found = FindingsOf(plan, "CARRIED_QUANTIZED");
  REQUIRE(found.size() == 2);
  CHECK(found[0].severity == Severity::kWarning);
  CHECK(found[0].tensor == down);
  CHECK_THAT(found[0].text, Contains("F8_E4M3"));
  // An engine that is told what is not quantized does not take it for packed.
  CHECK_THAT(plan.quantization_config_json,
             Contains("model.layers.0.mlp.down_proj"));
}

TEST_CASE("A quantization_config is refused whatever is left out") {
  PlanRequest request = SmallLlama("NF4", Engine::kNone);
  request.config_json = R"({"quantization_config": {"quant_method": "fp8"}})";
  request.exclude = {"*down*"};
  CHECK_THAT(Quantized(request), Contains("quantization_config (fp8)"));
}

TEST_CASE("Equal bytes are stored once and not quantized") {
  PlanRequest request = SmallLlama("NF4", Engine::kNone);
  PlanTensor alias = request.tensors[1];
  alias.name = "model.layers.1.self_attn.q_proj.weight";
  request.tensors.push_back(alias);
  const Plan plan = PlanOf(request);
  const PlanEntry tied = EntryOf(plan, alias.name);
  CHECK(tied.action == TensorAction::kTied);
  CHECK(tied.tied_to == "model.layers.0.self_attn.q_proj.weight");
  CHECK(tied.bytes_out == 0);
  const PlanEntry owner = EntryOf(plan, tied.tied_to);
  CHECK(owner.action == TensorAction::kCarry);
  CHECK(owner.reason == "other tensors are tied to it");
  CHECK(plan.bytes_in == request.tensors[request.tensors.size() - 2].end);
  CHECK_THAT(plan.quantization_config_json,
             Contains("\"model.layers.1.self_attn.q_proj\"") &&
                 Contains("\"model.layers.0.self_attn.q_proj\""));
  SECTION("in another file they are not equal") {
    request.tensors.back().file = "other.safetensors";
    CHECK(EntryOf(PlanOf(request), alias.name).action ==
          TensorAction::kQuantize);
  }
  SECTION("without ranges nothing is known") {
    for (PlanTensor& tensor : request.tensors) tensor.begin = tensor.end = 0;
    CHECK(EntryOf(PlanOf(request), alias.name).action ==
          TensorAction::kQuantize);
  }
}

TEST_CASE("A stored head that config.json ties is left out") {
  PlanRequest request = SmallLlama("NF4", Engine::kNone);
  AddTensor(&request, "lm_head.weight", {512, 256});
  CHECK(EntryOf(PlanOf(request), "lm_head.weight").reason == "output head");
  request.config_json =
      R"({"model_type": "llama", "tie_word_embeddings": true})";
  const Plan plan = PlanOf(request);
  const PlanEntry head = EntryOf(plan, "lm_head.weight");
  CHECK(head.action == TensorAction::kTied);
  CHECK(head.tied_to == "model.embed_tokens.weight");
  REQUIRE(FindingsOf(plan, "TIED_HEAD_STORED").size() == 1);
  SECTION("not to an embedding of another shape") {
    request.tensors[0].shape = {256, 512};
    CHECK(EntryOf(PlanOf(request), "lm_head.weight").action ==
          TensorAction::kCarry);
  }
  SECTION("the outer config wins over text_config") {
    request.config_json = R"({"model_type": "llama",
      "tie_word_embeddings": false,
      "text_config": {"tie_word_embeddings": true}})";
    CHECK(EntryOf(PlanOf(request), "lm_head.weight").action ==
          TensorAction::kCarry);
  }
}

TEST_CASE("Globs choose among what can be quantized") {
  PlanRequest request = SmallLlama("NF4", Engine::kNone);
  request.include = {"*.mlp.*", "*embed*"};
  request.exclude = {"*down*"};
  const Plan plan = PlanOf(request);
  CHECK(plan.tensors_quantized == 2);
  CHECK(EntryOf(plan, "model.layers.0.self_attn.q_proj.weight").reason ==
        "not included");
  CHECK(EntryOf(plan, "model.layers.0.mlp.down_proj.weight").reason ==
        "excluded");
  CHECK(EntryOf(plan, "model.embed_tokens.weight").reason == "embedding");
}

TEST_CASE("A glob through a fused group") {
  const std::string q = "model.layers.0.self_attn.q_proj.weight";
  const std::string v = "model.layers.0.self_attn.v_proj.weight";
  PlanRequest request = SmallLlama("W4A16", Engine::kVllm);
  request.exclude = {"*v_proj*"};
  SECTION("is refused for vLLM") {
    const Plan plan = PlanOf(request);
    CHECK(plan.refused);
    const auto found = FindingsOf(plan, "GROUP_SPLIT");
    REQUIRE(found.size() == 1);
    CHECK(found[0].severity == Severity::kError);
    CHECK(found[0].tensor == v);
  }
  SECTION("widens to the group for compressed-tensors elsewhere") {
    request.engine = Engine::kNone;
    const Plan plan = PlanOf(request);
    CHECK_FALSE(plan.refused);
    CHECK(plan.tensors_quantized == 4);
    CHECK(EntryOf(plan, q).reason ==
          "fused with " + v + ", which is carried: excluded");
    const auto found = FindingsOf(plan, "GROUP_SPLIT");
    REQUIRE(found.size() == 1);
    CHECK(found[0].severity == Severity::kWarning);
  }
  SECTION("is taken as it is for bitsandbytes") {
    request = SmallLlama("NF4", Engine::kTransformers);
    request.exclude = {"*v_proj*"};
    const Plan plan = PlanOf(request);
    CHECK(plan.tensors_quantized == 6);
    CHECK(FindingsOf(plan, "GROUP_SPLIT").empty());
  }
  SECTION("that takes all of it is fine for vLLM") {
    request.exclude = {"*[qkv]_proj*"};
    const Plan plan = PlanOf(request);
    CHECK_FALSE(plan.refused);
    CHECK(plan.tensors_quantized == 4);
  }
}

TEST_CASE("One expert carried carries the experts of its layer") {
  PlanRequest request = RequestWith("W4A16", Engine::kVllm);
  request.config_json = R"({"model_type": "mixtral"})";
  for (int layer = 0; layer < 2; ++layer) {
    for (int expert = 0; expert < 2; ++expert) {
      const std::string at = "model.layers." + std::to_string(layer) +
                             ".block_sparse_moe.experts." +
                             std::to_string(expert);
      AddTensor(&request, at + ".w1.weight", {256, 128});
      // Of layer 1, one expert's K is no multiple of the group size.
      const int64_t odd = layer == 1 && expert == 1 ? 192 : 256;
      AddTensor(&request, at + ".w2.weight", {128, odd});
      AddTensor(&request, at + ".w3.weight", {256, 128});
    }
  }
  const Plan plan = PlanOf(request);
  CHECK_FALSE(plan.refused);
  CHECK(plan.tensors_quantized == 6);
  CHECK(FindingsOf(plan, "GROUP_SIZE").size() == 1);
  const auto found = FindingsOf(plan, "GROUP_SPLIT");
  REQUIRE(found.size() == 1);
  CHECK(found[0].severity == Severity::kWarning);
  CHECK(found[0].tensor ==
        "model.layers.1.block_sparse_moe.experts.1.w2.weight");
}

TEST_CASE("Without a config names and shapes decide") {
  PlanRequest request = SmallLlama("W4A16", Engine::kNone);
  request.config_json = "";
  const Plan plan = PlanOf(request);
  CHECK(plan.architecture == "unknown (by shape)");
  CHECK(plan.tensors_quantized == 7);
  const PlanEntry q = EntryOf(plan, "model.layers.0.self_attn.q_proj.weight");
  CHECK(q.site == "model.layers.0.self_attn/qkv");
  CHECK(q.group == "model.layers.0.self_attn/qkv_proj");
}

TEST_CASE("Parts of a multimodal model with a known text model are carried") {
  PlanRequest request = SmallLlama("NF4", Engine::kNone);
  request.config_json = R"({"model_type": "llava", "vision_config": {},
                            "text_config": {"model_type": "llama"}})";
  const std::string tower =
      "vision_tower.encoder.layers.0.self_attn.q_proj.weight";
  AddTensor(&request, tower, {256, 256});
  const Plan plan = PlanOf(request);
  CHECK(plan.architecture == "llama");
  CHECK(plan.tensors_quantized == 7);
  CHECK(EntryOf(plan, tower).reason ==
        "vision or audio part of a multimodal model");
}

TEST_CASE("Every file has an action, and a reason unless it is copied") {
  PlanRequest request = SmallLlama("NF4", Engine::kNone);
  const std::pair<const char*, FileAction> files[] = {
      {"model.safetensors", FileAction::kRewrite},
      {"model.safetensors.index.json", FileAction::kRewrite},
      {"config.json", FileAction::kRewrite},
      {"sub/config.json", FileAction::kCopy},
      {"tokenizer.json", FileAction::kCopy},
      {"tokenizer.model", FileAction::kCopy},
      {"chat_template.jinja", FileAction::kCopy},
      {"generation_config.json", FileAction::kCopy},
      {"modeling_custom.py", FileAction::kCopy},
      {"pytorch_model.bin", FileAction::kSkip},
      {"pytorch_model.bin.index.json", FileAction::kSkip},
      {"training_args.BIN", FileAction::kSkip},
      {"optimizer.pt", FileAction::kSkip},
      {"original/consolidated.00.pth", FileAction::kSkip},
      {"state.pkl", FileAction::kSkip},
      {"consolidated.safetensors", FileAction::kSkip},
      {"tf_model.h5", FileAction::kSkip},
      {"model.gguf", FileAction::kSkip},
  };
  for (const auto& [path, action] : files) request.files.push_back({path, 1});
  const Plan plan = PlanOf(request);
  REQUIRE(plan.files.size() == std::size(files));
  for (size_t i = 0; i < std::size(files); ++i) {
    INFO(files[i].first);
    CHECK(plan.files[i].path == files[i].first);
    CHECK(plan.files[i].action == files[i].second);
    CHECK(plan.files[i].reason.empty() ==
          (files[i].second == FileAction::kCopy));
  }
}

TEST_CASE("Two output tensors of one name are refused") {
  const std::string up = "model.layers.0.mlp.up_proj";
  struct Case {
    const char* preset;
    std::string carried;
    bool refused;
  };
  for (const Case& one : std::vector<Case>{
           {"W4A16", up + ".weight_shape", true},
           {"W4A16", up + ".weight_zero_point", false},  // symmetric
           {"NF4", up + ".weight.quant_map", true},
           {"NF4", up + ".weight_shape", false},
           {"NF4", up + ".weight.nested_quant_map", false},
           {"NF4-dq", up + ".weight.nested_quant_map", true},
           {"HQQ-4", up + ".packing", true},
           {"W4A16-gptq", up + ".weight_shape", true}}) {
    INFO(one.preset << " " << one.carried);
    PlanRequest request = SmallLlama(one.preset, Engine::kNone);
    AddTensor(&request, one.carried, {4}, DType::kF32);
    const Plan plan = PlanOf(request);
    const std::vector<Finding> found = FindingsOf(plan, "OUTPUT_NAME");
    CHECK(plan.refused == one.refused);
    REQUIRE(found.size() == (one.refused ? 1 : 0));
    if (!one.refused) continue;
    CHECK(found[0].severity == Severity::kError);
    CHECK(found[0].tensor == up + ".weight");
    CHECK_THAT(found[0].text, Contains("\"" + one.carried + "\""));
  }
}

TEST_CASE("Names of output tensors are those of a tensor's own scheme") {
  const std::string up = "model.layers.0.mlp.up_proj";
  PlanRequest request = SmallLlama("W4A16", Engine::kNone);
  AddTensor(&request, up + ".weight_zero_point", {4}, DType::kF32);
  CHECK_FALSE(PlanOf(request).refused);
  request.spec.method = RtnSpec{.group_size = 128, .symmetric = true};
  QuantSpec asymmetric = request.spec;
  asymmetric.method = RtnSpec{.group_size = 128, .symmetric = false};
  request.overrides.push_back({"*.mlp.*", asymmetric});
  const Plan plan = PlanOf(request);
  const std::vector<Finding> found = FindingsOf(plan, "OUTPUT_NAME");
  REQUIRE(found.size() == 1);
  CHECK(found[0].tensor == up + ".weight");
}

TEST_CASE("Without config.json who reads it does not load the result") {
  PlanRequest request = SmallLlama("W4A16", Engine::kVllm);
  const auto names = [](const Plan& plan, const char* engine) {
    return std::any_of(
        plan.engines.begin(), plan.engines.end(),
        [&](const std::string& name) { return name.starts_with(engine); });
  };
  CHECK(FindingsOf(PlanOf(request), "NO_CONFIG").empty());
  CHECK(names(PlanOf(request), "vLLM"));
  request.config_json = "";
  const Plan plan = PlanOf(request);
  const std::vector<Finding> found = FindingsOf(plan, "NO_CONFIG");
  REQUIRE(found.size() == 1);
  CHECK(found[0].severity == Severity::kWarning);
  CHECK_THAT(found[0].text, StartsWith("config.json: got none") &&
                                Contains("vLLM 0.33.0 needs one"));
  CHECK_FALSE(plan.refused);
  CHECK_FALSE(names(plan, "vLLM"));
  CHECK_FALSE(names(plan, "transformers"));
  request = SmallLlama("NF4", Engine::kTransformers);
  request.config_json = "";
  CHECK(FindingsOf(PlanOf(request), "NO_CONFIG").size() == 1);
  // These put tensors into modules that are there.
  request.engine = Engine::kBitsandbytes;
  CHECK(FindingsOf(PlanOf(request), "NO_CONFIG").empty());
  CHECK(names(PlanOf(request), "bitsandbytes"));
  request.engine = Engine::kNone;
  CHECK(FindingsOf(PlanOf(request), "NO_CONFIG").empty());
}

TEST_CASE("A plan without a weight to quantize is refused") {
  PlanRequest request = RequestWith("NF4", Engine::kNone);
  AddTensor(&request, "model.embed_tokens.weight", {512, 256});
  const Plan plan = PlanOf(request);
  CHECK(plan.refused);
  REQUIRE(plan.findings.size() == 1);
  CHECK(plan.findings[0].rule == "NOTHING_TO_QUANTIZE");
  CHECK(plan.engines.empty());
}

TEST_CASE("Globs that match nothing are told of") {
  PlanRequest request = SmallLlama("NF4", Engine::kNone);
  request.include = {"*_proj*"};
  request.exclude = {"*up_proj*"};
  CHECK(PlanOf(request).findings.empty());
  const auto text = [&request] {
    const auto findings = FindingsOf(PlanOf(request), "GLOB_UNUSED");
    REQUIRE(findings.size() == 1);
    CHECK(findings[0].severity == Severity::kWarning);
    return findings[0].text;
  };
  SECTION("one of exclude") {
    request.exclude.push_back("*up_prj*");
    CHECK(text() ==
          "exclude: got \"*up_prj*\", which matches none of 8 tensor names");
  }
  SECTION("all of exclude") {
    request.exclude = {"a", "b"};
    CHECK(text() ==
          "exclude: got \"a\" (and 1 more), which matches none of 8 tensor "
          "names");
  }
  SECTION("one of include") {
    request.include.push_back("*.qkv_proj*");
    CHECK(text() ==
          "include: got \"*.qkv_proj*\", which matches none of 8 "
          "tensor names");
  }
}

}  // namespace
}  // namespace qs

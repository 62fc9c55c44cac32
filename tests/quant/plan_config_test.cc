// quantization_config_json, character by character.
#include <nlohmann/json.hpp>
#include <string>

#include "quant/formats/checkpoint.h"
#include "tests/quant/plan_request.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using Strings = std::vector<std::string>;

PlanRequest TinyLlama(const std::string& preset, Engine engine) {
  const std::string path = std::string(QS_TEST_DATA) + "/tiny-llama";
  const absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(path);
  INFO(checkpoint.status());
  REQUIRE(checkpoint.ok());
  PlanRequest request = RequestWith(preset, engine);
  request.config_json = checkpoint->config_json();
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    request.tensors.push_back({tensor.entry.name, tensor.entry.dtype,
                               tensor.entry.shape,
                               checkpoint->shard_name(tensor.shard),
                               tensor.entry.begin, tensor.entry.end});
  }
  return request;
}

Strings SkipOf(const Plan& plan) {
  return nlohmann::json::parse(plan.quantization_config_json)
      .at("llm_int8_skip_modules")
      .get<Strings>();
}

Strings IgnoreOf(const Plan& plan) {
  return nlohmann::json::parse(plan.quantization_config_json)
      .at("ignore")
      .get<Strings>();
}

TEST_CASE("tiny-llama to NF4: what transformers writes") {
  const Plan plan = PlanOf(TinyLlama("NF4", Engine::kTransformers));
  CHECK(plan.architecture == "llama");
  CHECK(plan.tensors_quantized == 28);
  CHECK(plan.findings.empty());
  CHECK(plan.quantization_config_json ==
        R"({"_load_in_4bit":true,"_load_in_8bit":false,)"
        R"("bnb_4bit_compute_dtype":"bfloat16",)"
        R"("bnb_4bit_quant_storage":"uint8","bnb_4bit_quant_type":"nf4",)"
        R"("bnb_4bit_use_double_quant":false,)"
        R"("llm_int8_enable_fp32_cpu_offload":false,)"
        R"("llm_int8_has_fp16_weight":false,)"
        R"("llm_int8_skip_modules":["lm_head"],"llm_int8_threshold":6.0,)"
        R"("load_in_4bit":true,"load_in_8bit":false,)"
        R"("quant_method":"bitsandbytes"})");
}

TEST_CASE("tiny-llama to W4A16: what compressed-tensors reads") {
  const Plan plan = PlanOf(TinyLlama("W4A16", Engine::kVllm));
  CHECK(plan.tensors_quantized == 28);
  CHECK_FALSE(plan.refused);
  CHECK(plan.quantization_config_json ==
        R"({"config_groups":{"group_0":{"input_activations":null,)"
        R"("output_activations":null,"targets":["Linear"],"weights":{)"
        R"("actorder":null,"dynamic":false,"group_size":128,"num_bits":4,)"
        R"("strategy":"group","symmetric":true,"type":"int"}}},)"
        R"("format":"pack-quantized","global_compression_ratio":null,)"
        R"("ignore":["lm_head"],"kv_cache_scheme":null,)"
        R"("quant_method":"compressed-tensors",)"
        R"("quantization_status":"compressed"})");
}

TEST_CASE("Excluded linears stand in the list, in checkpoint order") {
  PlanRequest request = SmallLlama("NF4", Engine::kTransformers);
  request.exclude = {"*up_proj*", "*k_proj*"};
  CHECK(SkipOf(PlanOf(request)) == Strings{"model.layers.0.self_attn.k_proj",
                                           "model.layers.0.mlp.up_proj",
                                           "lm_head"});
  request = SmallLlama("W4A16", Engine::kVllm);
  request.exclude = {"*gate_proj*", "*up_proj*"};
  CHECK(IgnoreOf(PlanOf(request)) == Strings{"model.layers.0.mlp.gate_proj",
                                             "model.layers.0.mlp.up_proj",
                                             "lm_head"});
}

// transformers skips every module that ends with an entry, and those below it.
TEST_CASE("A skipped name that would catch a quantized one is anchored") {
  PlanRequest request = RequestWith("NF4", Engine::kTransformers);
  request.config_json = "";
  AddTensor(&request, "mix.weight", {64, 64});
  AddTensor(&request, "stage.mix.weight", {64, 64});
  AddTensor(&request, "remix.weight", {64, 64});
  AddTensor(&request, "part.weight", {64, 64});
  AddTensor(&request, "part.inner.weight", {64, 64});
  AddTensor(&request, "odd+name.weight", {64, 64});
  request.exclude = {"mix.weight", "part.weight", "odd*"};
  CHECK(SkipOf(PlanOf(request)) ==
        Strings{"mix$", "part$", "odd\\+name$", "lm_head"});
}

TEST_CASE("The compute dtype is the config's, else the weights'") {
  const auto dtype_of = [](const PlanRequest& request) {
    return nlohmann::json::parse(PlanOf(request).quantization_config_json)
        .at("bnb_4bit_compute_dtype")
        .get<std::string>();
  };
  PlanRequest request = RequestWith("NF4-dq", Engine::kNone);
  AddTensor(&request, "model.layers.0.mlp.up_proj.weight", {64, 64},
            DType::kF16);
  CHECK(dtype_of(request) == "bfloat16");
  request.config_json = R"({"model_type": "llama"})";
  CHECK(dtype_of(request) == "float16");
  request.config_json = R"({"model_type": "llama", "dtype": "float32"})";
  CHECK(dtype_of(request) == "float32");
}

TEST_CASE("Sizes are those that the method writes") {
  const Plan plan = PlanOf(TinyLlama("W4A16", Engine::kNone));
  const PlanEntry q = EntryOf(plan, "model.layers.0.self_attn.q_proj.weight");
  CHECK(q.rows == 256);
  CHECK(q.cols == 256);
  CHECK(q.bytes_in == 256 * 256 * 2);
  // Codes, bf16 scales of two groups a row, the shape.
  CHECK(q.bytes_out == 256 * 256 / 2 + 256 * 2 * 2 + 16);
}

}  // namespace
}  // namespace qs

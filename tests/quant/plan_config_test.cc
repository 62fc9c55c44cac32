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

TEST_CASE("A linear with embed in its name is named, an embedding is not") {
  PlanRequest request = RequestWith("W4A16", Engine::kTransformers);
  request.config_json = R"({"model_type": "electra", "vocab_size": 512})";
  AddTensor(&request, "embeddings.word_embeddings.weight", {512, 128});
  AddTensor(&request, "embeddings.position_embeddings.weight", {512, 128});
  AddTensor(&request, "embeddings_project.weight", {256, 128});
  AddTensor(&request, "encoder.layer.0.attention.output.dense.weight",
            {256, 256});
  const Plan plan = PlanOf(request);
  CHECK(EntryOf(plan, "embeddings_project.weight").reason == "embedding");
  CHECK(IgnoreOf(plan) == Strings{"embeddings_project", "generator_lm_head"});
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

nlohmann::json ConfigOf(const PlanRequest& request) {
  return nlohmann::json::parse(PlanOf(request).quantization_config_json);
}

TEST_CASE("every method has compressed-tensors' configuration of its grid") {
  for (const char* preset : {"W4A16", "W4A16-gptq", "W4A16-awq"}) {
    INFO(preset);
    CHECK(PlanOf(TinyLlama(preset, Engine::kVllm)).quantization_config_json ==
          PlanOf(TinyLlama("W4A16", Engine::kVllm)).quantization_config_json);
  }
  const nlohmann::json hqq = ConfigOf(TinyLlama("W4A16-hqq", Engine::kVllm));
  const nlohmann::json& weights =
      hqq.at("config_groups").at("group_0").at("weights");
  CHECK(weights.at("symmetric") == false);
  CHECK(weights.at("group_size") == 64);
}

TEST_CASE("tiny-llama to GPTQ files") {
  PlanRequest request = TinyLlama("W4A16-gptq", Engine::kVllm);
  request.spec.format = OutputFormat::kGptq;
  const Plan plan = PlanOf(request);
  CHECK(plan.tensors_quantized == 28);
  CHECK_FALSE(plan.refused);
  CHECK(plan.quantization_config_json ==
        R"({"bits":4,"checkpoint_format":"gptq","damp_percent":0.001,)"
        R"("desc_act":false,"dynamic":{"-:^lm_head$":{}},"group_size":128,)"
        R"("lm_head":false,"pack_dtype":"int32","quant_method":"gptq",)"
        R"("static_groups":true,"sym":true,"true_sequential":false})");
  request.exclude = {"*layers.0.mlp.down_proj*"};
  const nlohmann::json config = ConfigOf(request);
  CHECK(config.at("dynamic").contains(
      "-:^model\\.layers\\.0\\.mlp\\.down_proj$"));
  const auto quantized =
      config.at("modules_in_block_to_quantize").at(0).get<Strings>();
  CHECK(quantized.size() == 27);
  CHECK(quantized.front() == "model.layers.0.mlp.gate_proj");
}

TEST_CASE("experts that are not quantized are named as the layer has them") {
  PlanRequest request = RequestWith("W4A16-gptq", Engine::kVllm);
  request.config_json = R"({"model_type": "mixtral", "vocab_size": 512})";
  request.spec.format = OutputFormat::kGptq;
  for (const std::string layer : {"0", "1"}) {
    const std::string block = "model.layers." + layer + ".";
    AddTensor(&request, block + "self_attn.o_proj.weight", {256, 256});
    AddTensor(&request, block + "block_sparse_moe.gate.weight", {8, 256});
    for (const char* part : {"w1", "w2", "w3"}) {
      AddTensor(&request,
                block + "block_sparse_moe.experts.0." + part + ".weight",
                {256, 256});
    }
  }
  request.exclude = {"*layers.1*experts*"};
  const nlohmann::json config = ConfigOf(request);
  CHECK(config.at("dynamic").contains(
      "-:^model\\.layers\\.1\\.block_sparse_moe\\.experts$"));
  CHECK_FALSE(config.at("dynamic").contains(
      "-:^model\\.layers\\.0\\.block_sparse_moe\\.experts$"));
  CHECK(config.at("dynamic").contains(
      "-:^model\\.layers\\.0\\.block_sparse_moe\\.gate$"));
  CHECK_FALSE(config.contains("modules_in_block_to_quantize"));
}

TEST_CASE("tiny-llama to AWQ files") {
  PlanRequest request = TinyLlama("W4A16-awq", Engine::kVllm);
  request.spec.format = OutputFormat::kAwqGemm;
  CHECK(PlanOf(request).quantization_config_json ==
        R"({"bits":4,"group_size":128,"modules_to_not_convert":["lm_head"],)"
        R"("quant_method":"awq","version":"gemm","zero_point":true})");
}

TEST_CASE("tiny-llama to hqq's state dict") {
  const Plan plan = PlanOf(TinyLlama("HQQ-4", Engine::kHqq));
  CHECK_FALSE(plan.refused);
  CHECK(plan.quantization_config_json ==
        R"({"quant_config":{"offload_meta":false,"scale_quant_params":null,)"
        R"("weight_quant_params":{"axis":1,"channel_wise":true,)"
        R"("group_size":64,"nbits":4,"optimize":true,"round_zero":true,)"
        R"("view_as_float":false},"zero_quant_params":null},)"
        R"("quant_method":"hqq","skip_modules":["lm_head"]})");
}

TEST_CASE("Another quantization's file does not come along") {
  PlanRequest request = SmallLlama("W4A16", Engine::kVllm);
  request.files = {{"quantize_config.json", 10},
                   {"quant_config.json", 10},
                   {"tokenizer_config.json", 10}};
  const Plan plan = PlanOf(request);
  CHECK(plan.files[0].action == FileAction::kSkip);
  CHECK(plan.files[1].action == FileAction::kSkip);
  CHECK(plan.files[2].action == FileAction::kCopy);
}

TEST_CASE("GPTQ's own file of settings is in the plan") {
  PlanRequest request = SmallLlama("W4A16-gptq", Engine::kNone);
  request.files = {{"config.json", 10}, {"quantize_config.json", 10}};
  CHECK(PlanOf(request).files.back().action == FileAction::kSkip);
  request.spec.format = OutputFormat::kGptq;
  const Plan plan = PlanOf(request);
  REQUIRE(plan.files.size() == 2);
  CHECK(plan.files[1].path == "quantize_config.json");
  CHECK(plan.files[1].action == FileAction::kRewrite);
  // New, where the source has none; without config.json nobody could use it.
  request.files = {{"config.json", 10}};
  CHECK(PlanOf(request).files.size() == 2);
  request.files.clear();
  CHECK(PlanOf(request).files.empty());
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

  const auto bytes = [](const char* preset, OutputFormat format) {
    PlanRequest request = TinyLlama(preset, Engine::kNone);
    request.spec.format = format;
    return EntryOf(PlanOf(request), "model.layers.0.self_attn.q_proj.weight")
        .bytes_out;
  };
  using enum OutputFormat;
  // Codes, F16 scales and 4-bit zero points of two groups; the group index.
  CHECK(bytes("W4A16-awq", kAwqGemm) == 256 * 128 + 2 * 256 * 2 + 2 * 128);
  CHECK(bytes("W4A16-gptq", kGptq) ==
        256 * 128 + 2 * 256 * 2 + 2 * 128 + 256 * 4);
  // Four groups a row with two BF16 numbers; the metadata and its three texts.
  CHECK(bytes("HQQ-4", kHqq) ==
        256 * 128 + 256 * 4 * 4 + 3 * 4 + 16 + 9 + 7 + 11 + 14);
}

}  // namespace
}  // namespace qs

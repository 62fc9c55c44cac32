// Plans of models of several parts, and of architectures that the catalogue
// does not have.
#include <algorithm>
#include <string>
#include <vector>

#include "tests/quant/plan_request.h"

namespace qs {
namespace {

// Two blocks of a language model below `prefix`.
void AddBlocks(PlanRequest* request, const std::string& prefix) {
  for (int layer = 0; layer < 2; ++layer) {
    const std::string block = prefix + "layers." + std::to_string(layer) + ".";
    for (const char* name : {"self_attn.q_proj", "self_attn.k_proj",
                             "self_attn.v_proj", "self_attn.o_proj",
                             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      AddTensor(request, block + name + ".weight", {256, 256});
    }
  }
}

bool Names(const Plan& plan, const std::string& engine) {
  return std::any_of(
      plan.engines.begin(), plan.engines.end(),
      [&](const auto& name) { return name.starts_with(engine); });
}

std::vector<std::string> Quantized(const Plan& plan) {
  std::vector<std::string> names;
  for (const PlanEntry& entry : plan.entries) {
    if (entry.action == TensorAction::kQuantize) names.push_back(entry.name);
  }
  return names;
}

bool Ignores(const Plan& plan, const std::string& module) {
  return plan.quantization_config_json.find(module) != std::string::npos;
}

TEST_CASE("The text part of a config decides by whatever key it has") {
  for (const char* key : {"text_config", "llm_config", "language_config"}) {
    INFO(key);
    PlanRequest request = RequestWith("W4A16", Engine::kVllm);
    request.config_json = std::string(R"({"model_type": "internvl_chat", ")") +
                          key + R"(": {"model_type": "qwen2",
                          "vocab_size": 512, "hidden_size": 256}})";
    AddBlocks(&request, "language_model.model.");
    for (const char* name :
         {"mlp1.1", "mlp1.3", "vision_model.encoder.layers.0.attn.qkv"}) {
      AddTensor(&request, std::string(name) + ".weight", {256, 256});
    }
    const Plan plan = PlanOf(request);
    CHECK(plan.architecture == "qwen2");
    CHECK(plan.tensors_quantized == 14);
    CHECK(Names(plan, "vLLM"));
    for (const char* name : {"mlp1.1", "mlp1.3"}) {
      CHECK(EntryOf(plan, std::string(name) + ".weight").action ==
            TensorAction::kCarry);
      CHECK(Ignores(plan, name));
    }
  }
}

TEST_CASE("An unknown text part has its blocks quantized, nothing beside") {
  struct Case {
    const char* config;
    std::vector<std::string> beside;
  };
  const Case cases[] = {
      {R"({"model_type": "internvl_chat", "llm_config":
           {"model_type": "internlm2", "vocab_size": 512}})",
       {"mlp1.1", "language_model.output",
        "vision_model.encoder.layers.0.attn.qkv"}},
      {R"({"model_type": "phi3_v", "img_processor": {"name": "clip"}})",
       {"model.vision_embed_tokens.img_projection.0",
        "model.vision_embed_tokens.img_projection.2",
        "model.vision_embed_tokens.img_processor.vision_model.encoder.layers.0."
        "mlp.fc1"}},
      {R"({"model_type": "minicpmv", "vision_config": {}})",
       {"resampler.attn.out_proj", "vpm.encoder.layers.0.mlp.fc1"}},
      {R"({"model_type": "deepseek_vl_v2", "language_config": {},
           "vision_config": {}})",
       {"projector.layers.0", "projector.layers.2",
        "vision.blocks.0.attn.qkv"}},
      {R"({"model_type": "mllama", "vision_config": {}})",
       {"multi_modal_projector"}},
  };
  for (const Case& c : cases) {
    INFO(c.config);
    PlanRequest request = RequestWith("W4A16", Engine::kNone);
    request.config_json = c.config;
    AddBlocks(&request, "language_model.model.");
    for (const std::string& name : c.beside) {
      AddTensor(&request, name + ".weight", {256, 256});
    }
    const Plan plan = PlanOf(request);
    CHECK(Quantized(plan).size() == 14);
    for (const std::string& name : c.beside) {
      INFO(name);
      CHECK(EntryOf(plan, name + ".weight").action == TensorAction::kCarry);
      CHECK(Ignores(plan, name));
    }
  }
}

// A model without rules of the catalogue's. `linears` are modules [256, 256].
PlanRequest ByShape(const char* more, const std::vector<std::string>& linears) {
  PlanRequest request = RequestWith("NF4", Engine::kNone);
  request.config_json =
      std::string(R"({"model_type": "brandnew", "vocab_size": 512)") + more +
      "}";
  for (const std::string& name : linears) {
    AddTensor(&request, name + ".weight", {256, 256});
  }
  return request;
}

TEST_CASE("A block's own output is a linear, no output head") {
  const std::vector<std::string> linears = {
      "rwkv.blocks.0.attention.key",
      "rwkv.blocks.0.attention.output",
      "rwkv.blocks.1.attention.output",
      "layers.0.ffn.output_layer",
      "layers.0.attn.score",
      "encoder.layers.0.output",
      "model.language_model.layers.0.output"};
  PlanRequest request = ByShape("", linears);
  const std::vector<std::string> heads = {"head",
                                          "output",
                                          "model.output",
                                          "language_model.output",
                                          "decoder.output",
                                          "lm_head",
                                          "model.language_model.output",
                                          "model.lm_head",
                                          "transformer.output_layer",
                                          "score",
                                          "layers.2.shared_head.head",
                                          "mtp.0.lm_head",
                                          "layers.2.shared_head.output"};
  for (const std::string& name : heads) {
    AddTensor(&request, name + ".weight", {256, 256});
  }
  const Plan plan = PlanOf(request);
  for (const std::string& name : linears) {
    INFO(name);
    CHECK(EntryOf(plan, name + ".weight").action == TensorAction::kQuantize);
    CHECK_FALSE(Ignores(plan, '"' + name + '"'));
  }
  for (const std::string& name : heads) {
    INFO(name);
    CHECK(EntryOf(plan, name + ".weight").reason == "output head");
    // Maybe with a $ behind it, as other names end so.
    CHECK(Ignores(plan, '"' + name));
  }
}

// Embeddings do stand in blocks, and a lookup cannot be packed as a linear.
TEST_CASE("An embedding is one in a block, too") {
  const std::vector<std::string> names = {
      "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
      "model.layers.2.embed_tokens",
      "encoder.layers.0.attention.rel_attn_embed"};
  const Plan plan = PlanOf(ByShape("", names));
  for (const std::string& name : names) {
    CHECK(EntryOf(plan, name + ".weight").reason == "embedding");
  }
}

TEST_CASE("What a block has is tied to no embedding, nor a head to that") {
  const char* const tie = R"(, "tie_word_embeddings": true)";
  const std::vector<std::string> kept = {
      // The embedding of a layer for multi-token prediction, and its heads.
      "model.layers.2.embed_tokens", "model.layers.2.shared_head.head",
      "model.layers.2.lm_head",
      // Of the embedding's shape by chance.
      "model.layers.0.attention.output", "model.layers.0.model.output"};
  PlanRequest request = ByShape(tie, kept);
  AddTensor(&request, "model.embed_tokens.weight", {256, 256});
  AddTensor(&request, "lm_head.weight", {256, 256});
  const Plan plan = PlanOf(request);
  for (const std::string& name : kept) {
    INFO(name);
    CHECK(EntryOf(plan, name + ".weight").action != TensorAction::kTied);
  }
  const PlanEntry head = EntryOf(plan, "lm_head.weight");
  CHECK(head.action == TensorAction::kTied);
  CHECK(head.tied_to == "model.embed_tokens.weight");
}

TEST_CASE("A tower ties neither its head nor its embedding") {
  const std::vector<std::string> kept = {"audio_tower.decoder.embed_tokens",
                                         "audio_tower.lm_head"};
  PlanRequest request =
      ByShape(R"(, "tie_word_embeddings": true, "audio_config": {})", kept);
  AddTensor(&request, "model.embed_tokens.weight", {256, 256});
  AddTensor(&request, "lm_head.weight", {256, 256});
  const Plan plan = PlanOf(request);
  for (const std::string& name : kept) {
    CHECK(EntryOf(plan, name + ".weight").action == TensorAction::kCarry);
  }
  CHECK(EntryOf(plan, "lm_head.weight").tied_to == "model.embed_tokens.weight");
}

TEST_CASE("Convolutions beside an unknown text part are left alone, too") {
  for (const bool multimodal : {true, false}) {
    PlanRequest request = ByShape(multimodal ? R"(, "vision_config": {})" : "",
                                  {"llm.layers.0.mlp.up_proj"});
    AddTensor(&request, "stem.conv.weight", {256, 256, 3});
    AddTensor(&request, "llm.layers.0.short_conv.weight", {256, 1, 4});
    const Plan plan = PlanOf(request);
    CHECK(plan.tensors_quantized == (multimodal ? 2 : 3));
    CHECK(EntryOf(plan, "stem.conv.weight").reason ==
          (multimodal ? "outside of the blocks of a multimodal model" : ""));
  }
}

TEST_CASE("What loads an unknown architecture is not said") {
  PlanRequest request = SmallLlama("W4A16", Engine::kVllm);
  CHECK(Names(PlanOf(request), "vLLM"));
  request.config_json = R"({"model_type": "brandnew", "vocab_size": 512})";
  Plan plan = PlanOf(request);
  CHECK_FALSE(plan.refused);
  CHECK(plan.engines.empty());
  const auto found = FindingsOf(plan, "ARCHITECTURE_UNKNOWN");
  REQUIRE(found.size() == 1);
  CHECK(found[0].severity == Severity::kWarning);
  CHECK(found[0].text.find("got \"brandnew\"") != std::string::npos);
  // These put tensors into modules that are there.
  request = SmallLlama("NF4", Engine::kNone);
  request.config_json = R"({"model_type": "brandnew", "vocab_size": 512})";
  plan = PlanOf(request);
  CHECK(FindingsOf(plan, "ARCHITECTURE_UNKNOWN").empty());
  CHECK(plan.engines.size() == 1);
  CHECK(Names(plan, "bitsandbytes"));
}

TEST_CASE("Experts that are stacked under other names are named as one") {
  PlanRequest request = RequestWith("W4A16", Engine::kVllm);
  request.config_json = R"({"model_type": "granitemoe", "vocab_size": 512})";
  const std::string layer = "model.layers.0.";
  AddTensor(&request, layer + "self_attn.q_proj.weight", {256, 256});
  const std::string moe = layer + "block_sparse_moe.";
  AddTensor(&request, moe + "input_linear.weight", {8, 512, 256});
  AddTensor(&request, moe + "output_linear.weight", {8, 256, 256});
  const Plan plan = PlanOf(request);
  CHECK(Quantized(plan).size() == 1);
  CHECK(
      EntryOf(plan, moe + "input_linear.weight").reason.find("expert stack") !=
      std::string::npos);
  // vLLM asks for the experts' layer by this name.
  CHECK(Ignores(
      plan, R"(re:^model\\.layers\\.0\\.block_sparse_moe\\.experts(\\.|$))"));
}

TEST_CASE("gpt_bigcode's c_attn is a linear, as gpt2's is not") {
  for (const bool bigcode : {true, false}) {
    PlanRequest request = RequestWith("W4A16", Engine::kNone);
    request.config_json = bigcode ? R"({"model_type": "gpt_bigcode"})"
                                  : R"({"model_type": "gpt2"})";
    const std::string block = "transformer.h.0.";
    AddTensor(&request, block + "attn.c_attn.weight", {384, 256});
    AddTensor(&request, block + "attn.c_proj.weight", {256, 256});
    AddTensor(&request, block + "mlp.c_fc.weight", {1024, 256});
    AddTensor(&request, block + "mlp.c_proj.weight", {256, 1024});
    CHECK(PlanOf(request).tensors_quantized == (bigcode ? 4 : 0));
  }
}

TEST_CASE("A head that is tied and in no file is named as not quantized") {
  const struct {
    const char* type;
    const char* head;
  } cases[] = {{"bert", "cls.predictions.decoder"},
               {"roberta", "lm_head.decoder"},
               {"electra", "generator_lm_head"}};
  for (const auto& [type, head] : cases) {
    PlanRequest request = RequestWith("W4A16", Engine::kTransformers);
    request.config_json = std::string(R"({"model_type": ")") + type + R"("})";
    AddTensor(&request, "bert.encoder.layer.0.attention.self.query.weight",
              {256, 256});
    const Plan plan = PlanOf(request);
    CHECK(plan.tensors_quantized == 1);
    CHECK(Ignores(plan, head));
  }
}

TEST_CASE("siglip is loaded by transformers as NF4 alone") {
  for (const char* preset : {"W4A16", "NF4"}) {
    PlanRequest request = RequestWith(preset, Engine::kTransformers);
    request.config_json = R"({"model_type": "siglip"})";
    AddTensor(&request, "text_model.encoder.layers.0.mlp.fc1.weight",
              {256, 256});
    const Plan plan = PlanOf(request);
    const bool packed = std::string(preset) == "W4A16";
    CHECK(plan.refused == packed);
    CHECK(FindingsOf(plan, "MODULE_CLASS").size() == (packed ? 1 : 0));
    CHECK(Names(plan, "transformers") == !packed);
  }
}

TEST_CASE("GPTQ files are for transformers where optimum finds the blocks") {
  const struct {
    const char* config;
    const char* prefix;
    bool found;
  } cases[] = {
      {R"({"model_type": "llama"})", "model.", true},
      {R"({"model_type": "llama"})", "", true},
      {R"({"model_type": "bert"})", "bert.encoder.", false},
      {R"({"model_type": "llama4", "text_config": {}})",
       "language_model.model.", false},
      {R"({"model_type": "llama4_text"})", "model.", true},
      {R"({"model_type": "qwen2_5_vl", "text_config": {"model_type": "qwen2"}})",
       "model.", true},
  };
  for (const auto& c : cases) {
    INFO(c.config << " " << c.prefix);
    PlanRequest request = RequestWith("W4A16-gptq", Engine::kTransformers);
    request.spec.format = OutputFormat::kGptq;
    request.config_json = c.config;
    const std::string layers = std::string(c.prefix) + "layers.0.";
    if (std::string(c.prefix) == "bert.encoder.") {
      AddTensor(&request, "bert.encoder.layer.0.attention.self.query.weight",
                {256, 256});
    } else {
      AddTensor(&request, layers + "self_attn.q_proj.weight", {256, 256});
      AddTensor(&request, layers + "self_attn.k_proj.weight", {256, 256});
      AddTensor(&request, layers + "self_attn.v_proj.weight", {256, 256});
    }
    const Plan plan = PlanOf(request);
    CHECK(FindingsOf(plan, "GPTQ_BLOCKS").size() == (c.found ? 0 : 1));
    CHECK(Names(plan, "transformers") == c.found);
  }
}

TEST_CASE("What a version control or a download keeps is left out") {
  PlanRequest request = SmallLlama("W4A16", Engine::kNone);
  request.files = {{".git/config", 10},
                   {".cache/huggingface/download/config.json.metadata", 10},
                   {"a/.hidden/b.txt", 10},
                   {".gitattributes", 10},
                   {"a/.dot", 10},
                   {"a.b/c", 10}};
  const Plan plan = PlanOf(request);
  for (size_t i = 0; i < plan.files.size(); ++i) {
    INFO(plan.files[i].path);
    CHECK((plan.files[i].action == FileAction::kSkip) == (i < 3));
    CHECK(plan.files[i].reason.empty() == (i >= 3));
  }
}

}  // namespace
}  // namespace qs

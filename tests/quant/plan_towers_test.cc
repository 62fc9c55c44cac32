// What quantization_config says of multimodal models, whose modules engines
// name otherwise than the checkpoint.

// gcc 12 takes a member of std::regex for uninitialized once a sanitizer has
// changed how it inlines; from here on, as its headers are where it warns.
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <algorithm>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "tests/quant/plan_request.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using Json = nlohmann::json;
using Strings = std::vector<std::string>;

// The names of a model's modules in a checkpoint, or in an engine.
struct Tree {
  std::string language;  // before "layers.0"
  std::string head;
  Strings towers;  // linears of towers
};

struct Family {
  std::string name;
  std::string config;
  Tree checkpoint;
  Tree transformers;
  Tree vllm;  // as its loaders translate the checkpoint's names
};

constexpr char kTowers[] =
    R"({"model_type": "some_vl", "text_config": {"model_type": "llama"},)"
    R"("vision_config": {}, "tie_word_embeddings": false})";

Strings ClipTower(const std::string& tower, const std::string& projector) {
  return {tower + "encoder.layers.0.self_attn.q_proj",
          tower + "encoder.layers.0.self_attn.k_proj",
          tower + "encoder.layers.0.self_attn.v_proj",
          tower + "encoder.layers.0.mlp.fc1", projector + "linear_1"};
}

// From transformers 5.23.0 and vLLM 0.32.0.
std::vector<Family> Families() {
  const Tree llava = {
      "model.language_model.", "lm_head",
      ClipTower("model.vision_tower.", "model.multi_modal_projector.")};
  const Tree llava_vllm = {
      "language_model.model.", "language_model.lm_head",
      ClipTower("vision_tower.vision_model.", "multi_modal_projector.")};
  return {
      {"llava, as published", kTowers, llava_vllm, llava, llava_vllm},
      {"llava, saved anew", kTowers, llava, llava, llava_vllm},
      {"qwen2_5_vl",
       kTowers,
       {"model.",
        "lm_head",
        {"visual.blocks.0.attn.qkv", "visual.merger.mlp.0"}},
       {"model.language_model.",
        "lm_head",
        {"model.visual.blocks.0.attn.qkv", "model.visual.merger.mlp.0"}},
       {"language_model.model.",
        "language_model.lm_head",
        {"visual.blocks.0.attn.qkv", "visual.merger.mlp.0"}}},
      {"qwen2_audio",
       kTowers,
       {"language_model.model.",
        "language_model.lm_head",
        {"audio_tower.layers.0.self_attn.q_proj",
         "multi_modal_projector.linear"}},
       {"model.language_model.",
        "lm_head",
        {"model.audio_tower.layers.0.self_attn.q_proj",
         "model.multi_modal_projector.linear"}},
       {"language_model.model.",
        "language_model.lm_head",
        {"audio_tower.layers.0.self_attn.q_proj",
         "multi_modal_projector.linear"}}},
  };
}

const char* const kLinears[] = {"self_attn.q_proj", "self_attn.k_proj",
                                "self_attn.v_proj", "self_attn.o_proj",
                                "mlp.gate_proj",    "mlp.up_proj",
                                "mlp.down_proj"};

Strings Blocks(const Tree& tree, int layers = 2) {
  Strings names;
  for (int layer = 0; layer < layers; ++layer) {
    for (const char* linear : kLinears) {
      names.push_back(tree.language + "layers." + std::to_string(layer) + "." +
                      linear);
    }
  }
  return names;
}

void AddLinears(PlanRequest* request, const Strings& modules) {
  for (const std::string& name : modules) {
    AddTensor(request, name + ".weight", {256, 256});
  }
}

PlanRequest RequestFor(const Family& family, const std::string& preset,
                       Engine engine) {
  PlanRequest request = RequestWith(preset, engine);
  request.config_json = family.config;
  AddTensor(&request, family.checkpoint.language + "embed_tokens.weight",
            {512, 256});
  AddLinears(&request, Blocks(family.checkpoint));
  AddLinears(&request, family.checkpoint.towers);
  AddTensor(&request, family.checkpoint.head + ".weight", {512, 256});
  return request;
}

Json ConfigOf(const Plan& plan) {
  return Json::parse(plan.quantization_config_json);
}

// Python's re.match.
bool ReMatch(const std::string& expression, const std::string& name) {
  return std::regex_search(name, std::regex(expression),
                           std::regex_constants::match_continuous);
}

// As compressed-tensors reads an entry of ignore or targets.
bool Means(const std::string& entry, const std::string& name) {
  return entry.rfind("re:", 0) == 0 ? ReMatch(entry.substr(3), name)
                                    : entry == name;
}

bool AnyMeans(const Strings& entries, const std::string& name) {
  for (const std::string& entry : entries) {
    if (Means(entry, name)) return true;
  }
  return false;
}

// As transformers reads an entry of llm_int8_skip_modules: the end of a name,
// or an expression whose match ends at a dot or with the name.
bool Skips(const Strings& entries, const std::string& name) {
  for (const std::string& entry : entries) {
    if (name.size() >= entry.size() &&
        name.compare(name.size() - entry.size(), entry.size(), entry) == 0) {
      return true;
    }
    std::smatch match;
    if (std::regex_search(name, match, std::regex(entry),
                          std::regex_constants::match_continuous)) {
      const auto end = static_cast<size_t>(match.length());
      if (end == name.size() || name[end] == '.' || name[end - 1] == '.') {
        return true;
      }
    }
  }
  return false;
}

void CheckIgnore(const Strings& ignore, const Tree& tree) {
  for (const std::string& name : tree.towers) {
    INFO(name);
    CHECK(AnyMeans(ignore, name));
  }
  CHECK(AnyMeans(ignore, tree.head));
  for (const std::string& name : Blocks(tree)) {
    INFO(name);
    CHECK_FALSE(AnyMeans(ignore, name));
  }
}

TEST_CASE("ignore holds in the tree of every engine") {
  for (const Family& family : Families()) {
    INFO(family.name);
    for (const Engine engine : {Engine::kVllm, Engine::kTransformers}) {
      const Plan plan = PlanOf(RequestFor(family, "W4A16", engine));
      CHECK(plan.tensors_quantized == 14);
      const Strings ignore = ConfigOf(plan).at("ignore");
      for (const std::string& name : family.checkpoint.towers) {
        CHECK(std::count(ignore.begin(), ignore.end(), name) == 1);
      }
      CheckIgnore(ignore, family.checkpoint);
      CheckIgnore(ignore, family.transformers);
      CheckIgnore(ignore, family.vllm);
    }
  }
}

// A module beside the family's first linear of a tower.
std::string InTower(const Family& family) {
  const std::string linear = family.checkpoint.towers.front();
  return linear.substr(0, linear.rfind('.')) + ".stem";
}

TEST_CASE("What a tower has is carried, whatever its shape") {
  const std::vector<int64_t> shapes[] = {
      {256, 256}, {256, 256, 3}, {256, 3, 14, 14}, {1280, 3, 2, 14, 14}};
  for (const char* preset : {"NF4", "HQQ-4", "W4A16"}) {
    for (const Family& family : Families()) {
      for (const std::vector<int64_t>& shape : shapes) {
        INFO(preset << ", " << family.name << ", dimensions " << shape.size());
        const std::string name = InTower(family) + ".weight";
        PlanRequest request = RequestFor(family, preset, Engine::kNone);
        AddTensor(&request, name, shape);
        const Plan plan = PlanOf(request);
        CHECK(plan.tensors_quantized == 14);
        CHECK(EntryOf(plan, name).reason ==
              "vision or audio part of a multimodal model");
        // No glob reaches into a tower.
        request.include = {"*.stem.*", "*.o_proj.*"};
        CHECK(PlanOf(request).tensors_quantized == 2);
      }
    }
  }
}

TEST_CASE("No expression for a tower matches a quantized convolution") {
  PlanRequest request = RequestFor(Families()[2], "NF4", Engine::kNone);
  AddTensor(&request, "visual.patch_embed.proj.weight", {1280, 3, 2, 14, 14});
  AddTensor(&request, "model.layers.0.short_conv.weight", {256, 1, 4});
  const Plan plan = PlanOf(request);
  CHECK(EntryOf(plan, "model.layers.0.short_conv.weight").action ==
        TensorAction::kQuantize);
  const Strings skip = ConfigOf(plan).at("llm_int8_skip_modules");
  CHECK(Skips(skip, "model.visual.blocks.0.attn.qkv"));
  for (const PlanEntry& entry : plan.entries) {
    if (entry.action != TensorAction::kQuantize) continue;
    INFO(entry.name);
    CHECK_FALSE(Skips(skip, entry.name.substr(0, entry.name.rfind('.'))));
  }
}

TEST_CASE("A layer of the language model that is skipped is, in every tree") {
  for (const Family& family : Families()) {
    INFO(family.name);
    PlanRequest request = RequestFor(family, "W4A16", Engine::kTransformers);
    request.exclude = {"*layers.1.mlp.*"};
    const Strings ignore = ConfigOf(PlanOf(request)).at("ignore");
    request.spec = FindPreset("NF4")->spec;
    const Strings skip = ConfigOf(PlanOf(request)).at("llm_int8_skip_modules");
    for (const Tree& tree : {family.transformers, family.vllm}) {
      const std::string layers = tree.language + "layers.";
      CHECK(AnyMeans(ignore, layers + "1.mlp.up_proj"));
      CHECK_FALSE(AnyMeans(ignore, layers + "0.mlp.up_proj"));
      CHECK_FALSE(AnyMeans(ignore, layers + "1.self_attn.o_proj"));
      CHECK_FALSE(AnyMeans(ignore, layers + "11.mlp.up_proj"));
      CHECK(Skips(skip, layers + "1.mlp.up_proj"));
      CHECK_FALSE(Skips(skip, layers + "0.mlp.up_proj"));
      CHECK(Skips(skip, tree.towers.front()));
    }
  }
}

TEST_CASE("An expression matches no linear of the same end elsewhere") {
  PlanRequest request = RequestWith("W4A16", Engine::kVllm);
  request.config_json = kTowers;
  AddLinears(&request, {"model.language_model.layers.0.mlp.up_proj",
                        "mtp.layers.0.mlp.up_proj", "adapter.up_proj",
                        "layers.0.mlp.up_proj"});
  request.exclude = {"mtp.*", "layers.0.*"};
  const Strings ignore = ConfigOf(PlanOf(request)).at("ignore");
  CHECK(ignore == Strings{"mtp.layers.0.mlp.up_proj", "adapter.up_proj",
                          "layers.0.mlp.up_proj", "lm_head",
                          "re:(.*\\.)?mtp\\.layers\\.0\\.mlp\\.up_proj$",
                          "re:(.*\\.)?adapter\\.up_proj$",
                          "re:(.*\\.)?lm_head$"});
}

TEST_CASE("Stacks of experts that are carried, in every tree") {
  PlanRequest request = RequestWith("W4A16", Engine::kVllm);
  request.config_json =
      R"({"model_type": "qwen3_vl_moe", "vision_config": {},)"
      R"("text_config": {"model_type": "qwen3_vl_moe_text"}})";
  for (const std::string layer : {"0", "1"}) {
    const std::string block = "model.language_model.layers." + layer + ".";
    AddLinears(&request, {block + "self_attn.o_proj"});
    AddTensor(&request, block + "mlp.experts.gate_up_proj", {4, 256, 512});
    AddTensor(&request, block + "mlp.experts.down_proj", {4, 256, 256});
  }
  request.exclude = {"*layers.1.mlp.experts*"};
  const Strings ignore = ConfigOf(PlanOf(request)).at("ignore");
  const std::string vllm = "language_model.model.layers.";
  CHECK(AnyMeans(ignore, vllm + "1.mlp.experts"));
  CHECK(AnyMeans(ignore, vllm + "1.mlp.experts.0.gate_proj"));
  CHECK_FALSE(AnyMeans(ignore, vllm + "0.mlp.experts.0.gate_proj"));
  request.exclude = {"*mlp.experts*"};
  const Strings all = ConfigOf(PlanOf(request)).at("ignore");
  CHECK(std::count(all.begin(), all.end(),
                   "re:(.*\\.)?layers\\.\\d+\\.mlp\\.experts(\\.|$)") == 1);
}

TEST_CASE("GPTQ files name the modules for each loader") {
  for (const Family& family : Families()) {
    INFO(family.name);
    PlanRequest request =
        RequestFor(family, "W4A16-gptq", Engine::kTransformers);
    request.spec.format = OutputFormat::kGptq;
    const Json config = ConfigOf(PlanOf(request));
    Strings dynamic;
    for (const auto& [expression, unused] : config.at("dynamic").items()) {
      REQUIRE(expression.rfind("-:", 0) == 0);
      dynamic.push_back("re:" + expression.substr(2));
    }
    CheckIgnore(dynamic, family.transformers);
    CheckIgnore(dynamic, family.vllm);
    // optimum looks for the end of transformers' names; vLLM translates.
    const Strings named = config.at("modules_in_block_to_quantize").at(0);
    for (const Tree& tree : {family.checkpoint, family.transformers}) {
      for (const std::string& name : Blocks(tree)) {
        CHECK(std::count(named.begin(), named.end(), name) == 1);
      }
    }
  }
}

TEST_CASE("Blocks that optimum does not find are not claimed for GPTQ") {
  Family family = Families().front();
  for (const std::string language : {"model.text_model.", "model."}) {
    const bool found = language == "model.";
    family.checkpoint.language = language;
    PlanRequest request =
        RequestFor(family, "W4A16-gptq", Engine::kTransformers);
    request.spec.format = OutputFormat::kGptq;
    const Plan plan = PlanOf(request);
    CHECK(plan.refused != found);
    int errors = 0;
    for (const Finding& finding : plan.findings) {
      errors += finding.rule == "GPTQ_BLOCKS" ? 1 : 0;
    }
    CHECK(errors == (found ? 0 : 1));
    // In its own format compressed-tensors looks at names alone.
    request.spec = FindPreset("W4A16")->spec;
    CHECK_FALSE(PlanOf(request).refused);
  }
}

TEST_CASE("AWQ files skip towers in transformers, too") {
  const Family family = Families().front();
  PlanRequest request = RequestFor(family, "W4A16-awq", Engine::kTransformers);
  request.spec.format = OutputFormat::kAwqGemm;
  const Strings skip = ConfigOf(PlanOf(request)).at("modules_to_not_convert");
  for (const std::string& name : family.transformers.towers) {
    CHECK(Skips(skip, name));
  }
  CHECK_FALSE(Skips(skip, Blocks(family.transformers).front()));
}

// The group whose first target matches.
int GroupOf(const Json& config, const std::string& name) {
  for (int g = 0;
       config.at("config_groups").contains("group_" + std::to_string(g)); ++g) {
    const Strings targets =
        config["config_groups"]["group_" + std::to_string(g)]["targets"];
    if (AnyMeans(targets, name)) return g;
  }
  return -1;
}

TEST_CASE("Targets of a mixed scheme hold in the tree of every engine") {
  for (const Family& family : Families()) {
    INFO(family.name);
    PlanRequest request = RequestFor(family, "W4A16", Engine::kTransformers);
    request.overrides = {
        {"*layers.1.mlp.down_proj*", FindPreset("W8A16")->spec}};
    const Json config = ConfigOf(PlanOf(request));
    for (const Tree& tree : {family.transformers, family.vllm}) {
      const std::string layers = tree.language + "layers.";
      CHECK(GroupOf(config, layers + "1.mlp.down_proj") == 0);
      CHECK(GroupOf(config, layers + "0.mlp.down_proj") == 1);
      CHECK(GroupOf(config, layers + "1.mlp.up_proj") == 1);
    }
  }
}

}  // namespace
}  // namespace qs

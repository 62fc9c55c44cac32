// Tested by tests/quant/plan_rules_test.cc.
#include "quant/plan/config_facts.h"

#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"

namespace qs {
namespace {

using Json = nlohmann::ordered_json;

// What config.json of a multimodal model calls its parts.
constexpr const char* kTextParts[] = {"text_config", "llm_config",
                                      "language_config"};
constexpr const char* kTowerParts[] = {"vision_config", "audio_config",
                                       "img_processor"};

const Json* Find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string StringAt(const Json& object, const char* key) {
  const Json* value = Find(object, key);
  return value != nullptr && value->is_string() ? value->get<std::string>()
                                                : "";
}

std::optional<DType> DTypeNamed(const std::string& name) {
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float16") return DType::kF16;
  if (name == "float32") return DType::kF32;
  return std::nullopt;
}

int64_t SizeAt(const Json& object, const char* key) {
  const Json* value = Find(object, key);
  return value != nullptr && value->is_number_unsigned() ? value->get<int64_t>()
                                                         : 0;
}

void ReadHeads(const Json& object, ConfigFacts* facts) {
  const int64_t heads = SizeAt(object, "num_attention_heads");
  if (facts->attention_heads == 0) {
    facts->attention_heads = heads;
    facts->key_value_heads = SizeAt(object, "num_key_value_heads");
  }
  if (facts->head_dim == 0) facts->head_dim = SizeAt(object, "head_dim");
  const int64_t hidden = SizeAt(object, "hidden_size");
  if (facts->head_dim == 0 && heads > 0 && hidden % heads == 0) {
    facts->head_dim = hidden / heads;
  }
}

// `facts` keeps what the outer object said already.
void ReadSizes(const Json& object, ConfigFacts* facts) {
  const Json* tie = Find(object, "tie_word_embeddings");
  if (tie != nullptr && tie->is_boolean()) {
    facts->tie_word_embeddings = facts->tie_word_embeddings || tie->get<bool>();
  }
  if (facts->vocab_size == 0) facts->vocab_size = SizeAt(object, "vocab_size");
  ReadHeads(object, facts);
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!facts->dtype) facts->dtype = DTypeNamed(StringAt(object, key));
  }
  for (const char* key : {"quantization_config", "compression_config"}) {
    const Json* quantized = Find(object, key);
    if (facts->quantized_by || quantized == nullptr) continue;
    const std::string method =
        quantized->is_object() ? StringAt(*quantized, "quant_method") : "";
    facts->quantized_by = method.empty() ? "a method without a name" : method;
  }
}

}  // namespace

absl::StatusOr<ConfigFacts> ReadConfigFacts(std::string_view text) {
  ConfigFacts facts;
  if (text.empty()) return facts;
  QS_ASSIGN_OR_RETURN(const Json config, ParseConfigJson(text, "config.json"));
  facts.model_type = StringAt(config, "model_type");
  facts.class_name = StringAt(config, "_class_name");
  ReadSizes(config, &facts);
  // What the outer object says wins: a loader reads the tie there first.
  const bool tie_stated = Find(config, "tie_word_embeddings") != nullptr;
  const bool tie = facts.tie_word_embeddings;
  bool text_has_heads = false;
  for (const char* key : kTextParts) {
    const Json* part = Find(config, key);
    if (part == nullptr || !part->is_object()) continue;
    facts.has_towers = true;
    if (facts.text_model_type.empty()) {
      facts.text_model_type = StringAt(*part, "model_type");
    }
    if (!text_has_heads && SizeAt(*part, "num_attention_heads") > 0) {
      text_has_heads = true;  // engines split these
      facts.attention_heads = facts.key_value_heads = facts.head_dim = 0;
    }
    ReadSizes(*part, &facts);
  }
  for (const char* key : kTowerParts) {
    const Json* part = Find(config, key);
    if (part != nullptr && part->is_object()) facts.has_towers = true;
  }
  if (tie_stated) facts.tie_word_embeddings = tie;
  return facts;
}

}  // namespace qs

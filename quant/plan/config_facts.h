// What the plan needs from a checkpoint's config.json.
#ifndef QS_QUANT_PLAN_CONFIG_FACTS_H_
#define QS_QUANT_PLAN_CONFIG_FACTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"

namespace qs {

struct ConfigFacts {
  std::string model_type;       // "" when the file has none
  std::string text_model_type;  // of text_config
  std::string class_name;       // _class_name, diffusion models
  bool has_towers = false;      // vision_config, audio_config or text_config
  bool tie_word_embeddings = false;
  int64_t vocab_size = 0;  // 0: unknown
  int64_t attention_heads = 0;
  int64_t key_value_heads = 0;
  int64_t head_dim = 0;  // stated, or hidden_size over the heads
  std::optional<DType> dtype;
  // What a quantization_config calls its method; set when there is one.
  std::optional<std::string> quantized_by;
};

// `text` may be empty: no facts. Errors: INVALID_ARGUMENT — no JSON object; the
// text begins with "config.json".
absl::StatusOr<ConfigFacts> ReadConfigFacts(std::string_view text);

}  // namespace qs

#endif  // QS_QUANT_PLAN_CONFIG_FACTS_H_

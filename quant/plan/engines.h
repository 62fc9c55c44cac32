// engines.json as structures: what the lint and the classification ask of an
// engine. EngineMatrix() in plan.h is the part for people.
#ifndef QS_QUANT_PLAN_ENGINES_H_
#define QS_QUANT_PLAN_ENGINES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "quant/plan/catalogue.h"
#include "quant/plan/plan.h"

namespace qs {

// One format as one engine loads it.
struct FormatRules {
  OutputFormat format = OutputFormat::kBitsandbytes;
  bool fused_layers = false;  // q/k/v must agree
  bool symmetric_only = false;
  bool linear_modules_only = false;  // no convolutions
  bool merges_experts = false;       // a layer's experts are one parameter
  bool unpacks_experts = false;      // a stack becomes linears, where it can
  bool linear4bit = false;           // runs bitsandbytes' Linear4bit
  bool no_act_order = false;         // does not read the index of groups
  bool whole_groups = false;         // no shorter last group
  bool substring_skips = false;      // a skipped name is a part of a name
  // What is loaded at all; empty: no rule.
  std::vector<int> bits;
  std::vector<int64_t> group_sizes;
  // Fast kernels; empty: no rule.
  std::vector<int> marlin_bits;
  std::vector<int64_t> marlin_group_sizes;
  std::vector<std::pair<int64_t, int64_t>> marlin_tiles;  // K, N multiples
};

struct EngineRules {
  EngineFacts facts;
  std::vector<FormatRules> formats;

  // "vLLM 0.33.0"
  std::string Title() const;
  // Null: the engine does not load this format.
  const FormatRules* Find(OutputFormat format) const;
};

// "GPTQ files", as findings call what is in a format.
const char* FormatTitle(OutputFormat format);

// Why the engine cannot load packed experts of `architecture` as one linear
// each from this format; empty: it can.
std::string WhyNoExperts(const Architecture& architecture,
                         const EngineRules& engine, const FormatRules& rules);

const std::vector<EngineRules>& AllEngineRules();
// By the file's id ("vllm"); kNone: no such engine.
Engine EngineNamed(const std::string& id);
// Null for kNone.
const EngineRules* RulesOf(Engine engine);

}  // namespace qs

#endif  // QS_QUANT_PLAN_ENGINES_H_

// Tested by tests/quant/plan_config_test.cc.
#include <algorithm>
#include <iterator>

#include "quant/formats/awq_format.h"
#include "quant/formats/bitsandbytes.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/formats/gptq_format.h"
#include "quant/formats/hqq_format.h"
#include "quant/plan/any_tree.h"
#include "quant/plan/draft.h"
#include "quant/plan/scheme_targets.h"
#include "quant/plan/skip_names.h"

namespace qs {
namespace {

constexpr std::string_view kRegexSpecials = "\\^$.|?*+()[]{}";

std::string Reversed(std::string_view text) {
  return std::string(text.rbegin(), text.rend());
}

bool SomeBeginsWith(const std::vector<std::string>& sorted,
                    const std::string& start) {
  const auto found = std::lower_bound(sorted.begin(), sorted.end(), start);
  return found != sorted.end() && found->starts_with(start);
}

// transformers takes an entry of llm_int8_skip_modules as a regular expression
// that matches a module or its parent, and as the end of any module's name. A
// name that would so catch a quantized module is written as a regular
// expression that ends.
class SkipPatterns {
 public:
  explicit SkipPatterns(const Draft& draft) {
    forwards_ = QuantizedModules(draft).names();
    for (const std::string& name : forwards_) {
      backwards_.push_back(Reversed(name));
    }
    std::sort(forwards_.begin(), forwards_.end());
    std::sort(backwards_.begin(), backwards_.end());
  }

  std::string For(const std::string& name) const {
    std::string_view special = kRegexSpecials;
    const bool plain = std::none_of(name.begin(), name.end(), [&](char c) {
      return c != '.' && special.find(c) != special.npos;
    });
    if (plain && !SomeBeginsWith(forwards_, name + ".") &&
        !SomeBeginsWith(backwards_, Reversed(name))) {
      return name;
    }
    return RegexEscape(name) + "$";
  }

 private:
  std::vector<std::string> forwards_;
  std::vector<std::string> backwards_;
};

void Append(std::vector<std::string> more, const char* before,
            std::vector<std::string>* out) {
  for (std::string& text : more) out->push_back(before + std::move(text));
}

DType ComputeDType(const Draft& draft) {
  if (draft.config.dtype) return *draft.config.dtype;
  for (size_t i = 0; i < draft.tensors.size(); ++i) {
    if (draft.Quantizes(i)) return draft.tensors[i].tensor->dtype;
  }
  return DType::kF32;
}

std::vector<std::string> SkipModules(const Draft& draft) {
  const SkipPatterns patterns(draft);
  std::vector<std::string> skip;
  const NameList list = NotQuantized(draft);
  for (const std::string& name : list.names()) {
    skip.push_back(patterns.For(name));
  }
  Append(ExpressionsOf(draft, list.names()), "", &skip);
  return skip;
}

// vLLM asks for a stack's experts by the names that single ones would have.
std::vector<std::string> StackModules(const Draft& draft) {
  NameList list(*draft.architecture);
  for (const DraftTensor& item : draft.tensors) {
    if (!item.is_stack) continue;
    list.AddOne(ExpertsOf(item));
  }
  return list.names();
}

std::string CompressedTensorsJson(const Draft& draft) {
  const NameList list = NotQuantized(draft);
  const std::vector<std::string> stacks = StackModules(draft);
  std::vector<std::string> ignore = list.names();
  for (const std::string& name : stacks) {
    ignore.push_back("re:^" + RegexEscape(name) + "(\\.|$)");
  }
  Append(ExpressionsOf(draft, list.names()), "re:", &ignore);
  Append(StackExpressions(draft, stacks), "re:", &ignore);
  return CompressedTensorsConfigJson(SchemeGroups(draft), ignore);
}

bool QuantizesExperts(const Draft& draft) {
  for (size_t i = 0; i < draft.tensors.size(); ++i) {
    const LinearRule* rule = draft.tensors[i].rule;
    if (draft.Quantizes(i) && rule != nullptr && rule->expert) return true;
  }
  return false;
}

// optimum, which transformers calls, wants the ends of transformers' names.
std::vector<std::string> BlockModules(const Draft& draft) {
  NameList list = QuantizedModules(draft);
  if (HasOtherTrees(draft)) {
    const std::vector<std::string> names = list.names();
    for (const std::string& name : names) {
      list.AddOne(LanguageModelName(name));
    }
  }
  return list.names();
}

std::string GptqJson(const Draft& draft) {
  const QuantSpec& spec = draft.request.spec;
  GptqConfig config = GptqConfigOf(*spec.gptq());
  config.skip_modules = NotQuantizedOrFused(draft).names();
  config.skip_expressions = ExpressionsOf(draft, config.skip_modules);
  // The head stands outside the blocks. Loaders that need the list of what is
  // quantized take no experts, whose names would fill megabytes.
  if (config.skip_modules != std::vector{draft.architecture->head} &&
      !QuantizesExperts(draft)) {
    config.quantized_modules = BlockModules(draft);
  }
  return GptqConfigJson(
      SpecGrid(spec),
      spec.format == OutputFormat::kGptq ? GptqVersion::kV1 : GptqVersion::kV2,
      config);
}

// vLLM takes an entry as a part of a name, as which no expression is found.
std::string AwqJson(const Draft& draft) {
  std::vector<std::string> skip = NotQuantizedOrFused(draft).names();
  Append(ExpressionsOf(draft, skip), "", &skip);
  return AwqConfigJson(SpecGrid(draft.request.spec), skip);
}

}  // namespace

std::string OutputConfigJson(const Draft& draft) {
  if (draft.plan.tensors_quantized == 0) return "";
  const QuantSpec& spec = draft.request.spec;
  switch (spec.format) {
    case OutputFormat::kBitsandbytes:
      return BitsandbytesConfigJson(*spec.nf4(), ComputeDType(draft),
                                    SkipModules(draft));
    case OutputFormat::kCompressedTensors:
      return CompressedTensorsJson(draft);
    case OutputFormat::kGptq:
    case OutputFormat::kGptqV2:
      return GptqJson(draft);
    case OutputFormat::kAwqGemm:
      return AwqJson(draft);
    case OutputFormat::kHqq:
      return HqqConfigJson(*spec.hqq(), NotQuantized(draft).names());
  }
  return "";
}

}  // namespace qs

// Tested by tests/quant/plan_config_test.cc.
#include <algorithm>
#include <iterator>
#include <unordered_set>

#include "quant/formats/bitsandbytes.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/plan/draft.h"

namespace qs {
namespace {

constexpr std::string_view kRegexSpecials = "\\^$.|?*+()[]{}";

// Names in order, each once; as transformers calls them too, where that
// differs.
class NameList {
 public:
  explicit NameList(const Architecture& architecture)
      : architecture_(architecture) {}
  void Add(std::string_view module) {
    AddOne(std::string(module));
    AddOne(TransformersName(architecture_, module));
  }
  void AddOne(std::string name) {
    if (seen_.insert(name).second) names_.push_back(std::move(name));
  }
  const std::vector<std::string>& names() const { return names_; }

 private:
  const Architecture& architecture_;
  std::vector<std::string> names_;
  std::unordered_set<std::string> seen_;
};

std::string RegexEscape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (kRegexSpecials.find(c) != kRegexSpecials.npos) out += '\\';
    out += c;
  }
  return out;
}

// Linears that are not quantized, the output head always among them: it may be
// tied and so in no file.
NameList NotQuantized(const Draft& draft) {
  NameList list(*draft.architecture);
  for (size_t i = 0; i < draft.tensors.size(); ++i) {
    const DraftTensor& item = draft.tensors[i];
    if (item.is_linear && !draft.Quantizes(i)) list.Add(item.module);
  }
  if (!draft.architecture->head.empty()) list.Add(draft.architecture->head);
  return list;
}

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
    NameList quantized(*draft.architecture);
    for (size_t i = 0; i < draft.tensors.size(); ++i) {
      if (draft.Quantizes(i)) quantized.Add(draft.tensors[i].module);
    }
    forwards_ = quantized.names();
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
  return skip;
}

// vLLM asks for a stack's experts by the names that single ones would have.
void AddStacks(const Draft& draft, NameList* ignore) {
  for (const DraftTensor& item : draft.tensors) {
    if (!item.is_stack) continue;
    const std::string_view name = item.tensor->name;
    const size_t end = name.find("experts") + std::size("experts") - 1;
    ignore->AddOne("re:^" + RegexEscape(name.substr(0, end)) + "(\\.|$)");
  }
}

}  // namespace

std::string OutputConfigJson(const Draft& draft) {
  if (draft.plan.tensors_quantized == 0) return "";
  if (const Nf4Spec* nf4 = draft.request.spec.nf4()) {
    return BitsandbytesConfigJson(*nf4, ComputeDType(draft),
                                  SkipModules(draft));
  }
  NameList ignore = NotQuantized(draft);
  AddStacks(draft, &ignore);
  return CompressedTensorsConfigJson(*draft.request.spec.rtn(), ignore.names());
}

}  // namespace qs

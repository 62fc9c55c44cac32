// The modules that config.json names as not quantized, and how a list of names
// must be written for the loader that reads it.
#ifndef QS_QUANT_PLAN_SKIP_NAMES_H_
#define QS_QUANT_PLAN_SKIP_NAMES_H_

#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "quant/plan/draft.h"

namespace qs {

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

NameList QuantizedModules(const Draft& draft);

// Linears that are not quantized, the output head always among them: it may be
// tied and so in no file.
NameList NotQuantized(const Draft& draft);

// What engines call the layer of experts that an expert or a stack of them is
// of: "model.layers.0.mlp.experts".
std::string ExpertsOf(const DraftTensor& item);

// The same, with the module of a layer's experts where these are not quantized:
// engines that fuse them ask for that name.
NameList NotQuantizedOrFused(const Draft& draft);

}  // namespace qs

#endif  // QS_QUANT_PLAN_SKIP_NAMES_H_

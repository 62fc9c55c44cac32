// Tested by tests/quant/plan_config_test.cc.
#include "quant/plan/skip_names.h"

namespace qs {

NameList QuantizedModules(const Draft& draft) {
  NameList list(*draft.architecture);
  for (size_t i = 0; i < draft.tensors.size(); ++i) {
    if (draft.Quantizes(i)) list.Add(draft.tensors[i].module);
  }
  return list;
}

NameList NotQuantized(const Draft& draft) {
  NameList list(*draft.architecture);
  for (size_t i = 0; i < draft.tensors.size(); ++i) {
    const DraftTensor& item = draft.tensors[i];
    if (item.is_linear && !draft.Quantizes(i)) list.Add(item.module);
  }
  if (!draft.architecture->head.empty()) list.Add(draft.architecture->head);
  return list;
}

std::string ExpertsOf(const DraftTensor& item) {
  constexpr std::string_view kExperts = "experts";
  const std::string_view name = item.tensor->name;
  const size_t found = name.find(kExperts);
  if (found != name.npos) {
    return std::string(name.substr(0, found + kExperts.size()));
  }
  const size_t dot = item.module.rfind('.');
  return std::string(item.module.substr(0, dot + 1)) + std::string(kExperts);
}

NameList NotQuantizedOrFused(const Draft& draft) {
  NameList list = NotQuantized(draft);
  for (size_t i = 0; i < draft.tensors.size(); ++i) {
    const DraftTensor& item = draft.tensors[i];
    const bool expert = item.rule != nullptr && item.rule->expert;
    if (draft.Quantizes(i) || (!expert && !item.is_stack)) continue;
    list.Add(ExpertsOf(item));
  }
  return list;
}

}  // namespace qs

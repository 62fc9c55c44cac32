// Tested by tests/checkpoint/work_batch_test.cc.
#include "service/checkpoint/plan_schemes.h"

#include <algorithm>

namespace qs {

namespace v1 = quant::v1;

PlanSchemes::PlanSchemes(const v1::PlanSummary& plan)
    : all_{&plan.resolved()}, of_rule_{0} {
  std::vector<std::string> texts = {plan.resolved().SerializeAsString()};
  for (const v1::Override& rule : plan.overrides()) {
    if (!rule.has_config()) {
      of_rule_.push_back(0);
      continue;
    }
    const std::string text = rule.config().SerializeAsString();
    const auto found = std::find(texts.begin(), texts.end(), text);
    of_rule_.push_back(static_cast<size_t>(found - texts.begin()));
    if (found != texts.end()) continue;
    texts.push_back(text);
    all_.push_back(&rule.config());
  }
}

size_t PlanSchemes::Of(const v1::PlanEntry& entry) const {
  const auto rule = static_cast<size_t>(entry.rule());
  return rule < of_rule_.size() ? of_rule_[rule] : 0;
}

bool PlanSchemes::NeedsMoments(size_t scheme) const {
  return all_[scheme]->has_gptq() || all_[scheme]->has_awq();
}

std::string CalibratedMethod(const v1::PlanSummary& plan) {
  const PlanSchemes schemes(plan);
  for (size_t i = 0; i < schemes.all().size(); ++i) {
    if (schemes.NeedsMoments(i)) {
      return schemes.all()[i]->has_gptq() ? "gptq" : "awq";
    }
  }
  return "";
}

}  // namespace qs

// FindingList: findings in order of appearance, equal ones merged, so that a
// rule that all experts break is one line and not thousands.
#ifndef QS_QUANT_PLAN_FINDINGS_H_
#define QS_QUANT_PLAN_FINDINGS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "quant/plan/plan.h"

namespace qs {

class FindingList {
 public:
  // `tensor` is "" for the whole checkpoint.
  void Add(Severity severity, std::string_view rule, std::string_view tensor,
           std::string text);
  // Those of `other` that no list appended before had, made warnings when
  // `as_warnings`: two engines may say the same.
  void Append(const FindingList& other, bool as_warnings);
  bool HasError() const;
  // A merged finding names its first tensor and counts the others.
  std::vector<Finding> Findings() const;

 private:
  struct Item {
    Finding finding;
    std::string last;  // tensor; one that comes again at once counts once
    int64_t others = 0;
  };
  std::vector<Item> items_;
  std::unordered_map<std::string, size_t> by_text_;
  std::unordered_set<std::string> appended_;
};

}  // namespace qs

#endif  // QS_QUANT_PLAN_FINDINGS_H_

// Tested by tests/quant/plan_lint_test.cc.
#include "quant/plan/findings.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace qs {

void FindingList::Add(Severity severity, std::string_view rule,
                      std::string_view tensor, std::string text) {
  std::string key(rule);
  key += '\n';
  key += text;
  const auto [found, is_new] = by_text_.emplace(std::move(key), items_.size());
  if (!is_new) {
    Item& item = items_[found->second];
    if (item.last != tensor) ++item.others;
    item.last = tensor;
    if (severity == Severity::kError) item.finding.severity = severity;
    return;
  }
  const std::string name(tensor);
  items_.push_back(
      {{severity, name, std::string(rule), std::move(text)}, name, 0});
}

void FindingList::Append(const FindingList& other, bool as_warnings) {
  for (Item item : other.items_) {
    if (as_warnings) item.finding.severity = Severity::kWarning;
    std::string key = absl::StrCat(item.finding.rule, "\n", item.finding.tensor,
                                   "\n", item.finding.text);
    if (!appended_.insert(std::move(key)).second) continue;
    items_.push_back(std::move(item));
  }
}

bool FindingList::HasError() const {
  for (const Item& item : items_) {
    if (item.finding.severity == Severity::kError) return true;
  }
  return false;
}

std::vector<Finding> FindingList::Findings() const {
  std::vector<Finding> findings;
  for (const Item& item : items_) {
    findings.push_back(item.finding);
    if (item.others == 0) continue;
    absl::StrAppend(&findings.back().text, " (and ", item.others, " more ",
                    item.others == 1 ? "tensor)" : "tensors)");
  }
  return findings;
}

}  // namespace qs

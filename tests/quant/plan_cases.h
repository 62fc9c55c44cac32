// Plan test cases: headers of a model and the plan that they must get. The text
// format is described in tests/data/plan/make_headers.py.
#ifndef QS_TESTS_QUANT_PLAN_CASES_H_
#define QS_TESTS_QUANT_PLAN_CASES_H_

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/plan/plan.h"

namespace qs {

struct PlanScenario {
  std::string name;  // "w4"
  QuantSpec spec;
  Engine engine;
};
const std::vector<PlanScenario>& PlanScenarios();

struct PlanCase {
  std::string name;
  PlanRequest request;  // tensors, one file and config only
  // By scenario. A line per tensor: "NAME|quantize SITE GROUP", ...
  std::map<std::string, std::vector<std::string>> entries;
  std::map<std::string, std::vector<std::string>> unquantized;
  std::map<std::string, std::vector<std::string>> findings;
  std::map<std::string, std::string> engines;
  std::map<std::string, std::string> errors;
};

// Every case of tests/data/plan. Throws on a line that it cannot read.
std::vector<PlanCase> ReadPlanCases();
PlanCase ReadPlanCase(const std::string& name);

PlanRequest RequestFor(const PlanCase& test, const PlanScenario& scenario);
// As in PlanCase::entries and PlanCase::findings.
std::string EntryLine(const PlanEntry& entry);
std::string FindingLine(const Finding& finding);

// Every name that `{a-b}` ranges in `pattern` make, with the numbers in order.
std::vector<std::pair<std::string, std::vector<int>>> ExpandRanges(
    std::string_view pattern);

}  // namespace qs

#endif  // QS_TESTS_QUANT_PLAN_CASES_H_

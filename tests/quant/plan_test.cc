// The plan of published models, tensor by tensor, against tests/data/plan.
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "absl/strings/str_join.h"
#include "tests/quant/plan_cases.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using Lines = std::vector<std::string>;

Lines EntryLines(const Plan& plan) {
  Lines lines;
  for (const PlanEntry& entry : plan.entries) lines.push_back(EntryLine(entry));
  return lines;
}

Lines FindingLines(const Plan& plan) {
  Lines lines;
  for (const Finding& finding : plan.findings) {
    lines.push_back(FindingLine(finding));
  }
  return lines;
}

Lines Sorted(Lines lines) {
  std::sort(lines.begin(), lines.end());
  return lines;
}

// ignore or llm_int8_skip_modules, whichever is there.
Lines UnquantizedOf(const Plan& plan) {
  const auto config = nlohmann::json::parse(plan.quantization_config_json);
  return config.contains("ignore")
             ? config.at("ignore").get<Lines>()
             : config.at("llm_int8_skip_modules").get<Lines>();
}

template <typename Map>
typename Map::mapped_type At(const Map& map, const std::string& key) {
  const auto found = map.find(key);
  return found == map.end() ? typename Map::mapped_type() : found->second;
}

// Line by line: a difference shows its line, not two whole models.
void CheckLines(const Lines& got, const Lines& expected) {
  for (size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
    if (got[i] == expected[i]) continue;
    CHECK(got[i] == expected[i]);
  }
  CHECK(got.size() == expected.size());
}

// Sums and sizes that hold for every plan.
void CheckTotals(const Plan& plan) {
  int64_t in = 0;
  int64_t out = 0;
  int64_t quantized = 0;
  for (const PlanEntry& entry : plan.entries) {
    in += entry.bytes_in;
    out += entry.bytes_out;
    if (entry.action == TensorAction::kQuantize) {
      ++quantized;
      CHECK(entry.reason.empty());
      CHECK(entry.bytes_out < entry.bytes_in);
    } else {
      CHECK_FALSE(entry.reason.empty());
      CHECK(entry.site.empty());
    }
    if (entry.action == TensorAction::kCarry) {
      CHECK(entry.bytes_out == entry.bytes_in);
    }
  }
  CHECK(plan.bytes_in == in);
  CHECK(plan.bytes_out == out);
  CHECK(plan.tensors_quantized == quantized);
  CHECK(plan.quantization_config_json.empty() == (quantized == 0));
}

void CheckCase(const PlanCase& test, const PlanScenario& scenario) {
  const absl::StatusOr<Plan> plan = MakePlan(RequestFor(test, scenario));
  const std::string error = At(test.errors, scenario.name);
  if (!error.empty()) {
    CHECK(plan.status().code() == absl::StatusCode::kFailedPrecondition);
    CHECK_THAT(std::string(plan.status().message()),
               Catch::Matchers::Contains(error));
    return;
  }
  INFO(plan.status());
  REQUIRE(plan.ok());
  CheckLines(EntryLines(*plan), At(test.entries, scenario.name));
  CheckLines(Sorted(FindingLines(*plan)),
             Sorted(At(test.findings, scenario.name)));
  CHECK(absl::StrJoin(plan->engines, ", ") == At(test.engines, scenario.name));
  CheckTotals(*plan);
  if (plan->tensors_quantized > 0) {
    CheckLines(UnquantizedOf(*plan), At(test.unquantized, scenario.name));
  }
}

TEST_CASE("Published models get the plan that their case states") {
  const std::vector<PlanCase> cases = ReadPlanCases();
  REQUIRE(cases.size() >= 20);
  for (const PlanCase& test : cases) {
    for (const PlanScenario& scenario : PlanScenarios()) {
      INFO(test.name << ", " << scenario.name);
      CheckCase(test, scenario);
    }
  }
}

TEST_CASE("Ranges of a case expand in order") {
  const auto names = ExpandRanges("a.{0-1}.b.{8-9}");
  REQUIRE(names.size() == 4);
  CHECK(names[1].first == "a.0.b.9");
  CHECK(names[2].second == std::vector<int>{1, 8});
}

// Figures for the reader; nothing here depends on the machine's speed.
TEST_CASE("A plan of 45,000 tensors is one pass") {
  const PlanCase test = ReadPlanCase("deepseek_v3");
  for (const PlanScenario& scenario : PlanScenarios()) {
    const PlanRequest request = RequestFor(test, scenario);
    const auto start = std::chrono::steady_clock::now();
    const absl::StatusOr<Plan> plan = MakePlan(request);
    const std::chrono::duration<double, std::milli> elapsed =
        std::chrono::steady_clock::now() - start;
    REQUIRE(plan.ok());
    CHECK(plan->entries.size() > 45000);
    WARN(plan->entries.size()
         << " tensors, " << scenario.name << ": " << elapsed.count() << " ms");
  }
}

}  // namespace
}  // namespace qs

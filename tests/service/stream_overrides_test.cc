// A Quantize stream with overrides: each tensor and group is quantized by the
// rule that it names.
#include <string>
#include <vector>

#include "service/server/error.h"
#include "tests/service/group_messages.h"
#include "tests/service/session_driver.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

// W4A16; rule 1: W8A16, rule 2: skipped, rule 3: GPTQ.
v1::QuantizeRequest MixedConfig() {
  v1::QuantizeRequest request = Config("W4A16");
  v1::QuantizeConfig* const config = request.mutable_config();
  for (const char* preset : {"W8A16", "", "W4A16-gptq"}) {
    v1::Override* const rule = config->add_overrides();
    rule->set_tensors("*");
    if (*preset == 0) {
      rule->set_skip(true);
    } else {
      rule->mutable_config()->set_preset(preset);
    }
  }
  return request;
}

v1::QuantizeRequest WithRule(v1::QuantizeRequest request, int rule) {
  if (request.has_group()) {
    request.mutable_group()->set_rule(rule);
  } else {
    request.mutable_tensor()->set_rule(rule);
  }
  return request;
}

TEST_CASE("each tensor is quantized by the rule that it names",
          "[stream_overrides]") {
  QuantizeContext context(TestContextOptions(2));
  const TestWeight four(1, "four.weight", 700, 256, 1);
  const TestWeight eight(2, "eight.weight", 900, 256, 2);
  {
    Requests requests = {MixedConfig()};
    four.AppendTo(&requests, 100000);
    eight.AppendTo(&requests, 100000);
    for (v1::QuantizeRequest& request : requests) {
      if (request.has_tensor() && request.tensor().handle() == 2) {
        request = WithRule(request, 1);
      }
    }
    SessionDriver stream(context);
    const Answers& answers = stream.Run(requests);
    INFO(answers.status << " " << answers.problem);
    REQUIRE(answers.status.ok());
    REQUIRE(answers.problem.empty());
    // The profile that the rules leave out is the config's.
    RequireSameAsDirect(answers, PresetSpec("W4A16", Profile::kReference),
                        four);
    RequireSameAsDirect(answers, PresetSpec("W8A16", Profile::kReference),
                        eight);
    for (const v1::TensorReport& report : answers.reports) {
      CHECK(report.rule() == (report.handle() == 2 ? 1 : 0));
    }
    REQUIRE(answers.accepted->overrides_size() == 3);
    CHECK(answers.accepted->overrides(0).config().rtn().bits() == 8);
    CHECK(answers.accepted->overrides(1).skip());
    CHECK(answers.accepted->overrides(2).config().profile() == v1::REFERENCE);
  }
  RequireClean(context);
}

TEST_CASE("floats are read back by each tensor's own rule",
          "[stream_overrides]") {
  QuantizeContext context(TestContextOptions(2));
  const TestWeight weight(2, "w.weight", 300, 256, 3);
  v1::QuantizeRequest config = MixedConfig();
  config.mutable_config()->set_view(v1::QuantizeConfig::DEQUANTIZED);
  Requests requests = {config};
  weight.AppendTo(&requests, 100000);
  requests[1] = WithRule(requests[1], 1);
  SessionDriver stream(context);
  const Answers& answers = stream.Run(requests);
  INFO(answers.status);
  REQUIRE(answers.status.ok());
  const Answers::Part& part = answers.parts.at(2).at("w.weight");
  const double mse = MseByHand(weight.bytes, DType::kBF16, part.bytes.data());
  REQUIRE(answers.reports.size() == 1);
  CHECK(mse ==
        Approx(answers.reports[0].error().mean_squared_error()).epsilon(1e-5));
}

TEST_CASE("a group has a rule for all of its tensors", "[stream_overrides]") {
  QuantizeContext context(TestContextOptions(2));
  const TestSite site("block/in", 128, 300, 5);
  const std::vector<TestWeight> weights = {
      TestWeight(11, "q.weight", 96, 128, 1),
      TestWeight(12, "k.weight", 200, 128, 2)};
  Requests requests = {MixedConfig(), WithRule(Group(1, site, weights), 3)};
  AppendSite(&requests, 2, 1, site, v1::SiteBegin::SECOND_MOMENT, 100000);
  for (const TestWeight& weight : weights) {
    AppendTensor(&requests, 1, weight, 100000);
  }
  SessionDriver stream(context);
  const Answers& answers = stream.Run(requests);
  INFO(answers.status << " " << answers.problem);
  REQUIRE(answers.status.ok());
  REQUIRE(answers.reports.size() == 2);
  for (const v1::TensorReport& report : answers.reports) {
    CHECK(report.rule() == 3);
    CHECK(report.algorithm().rfind("gptq", 0) == 0);
    CHECK(report.has_output_error());
  }
}

TEST_CASE("rules that cannot be are refused", "[stream_overrides]") {
  const TestWeight weight(1, "w.weight", 300, 256, 3);
  const int rule = GENERATE(-1, 2, 4);
  QuantizeContext context(TestContextOptions(1));
  {
    Requests requests = {MixedConfig()};
    weight.AppendTo(&requests, 100000);
    requests[1] = WithRule(requests[1], rule);
    SessionDriver stream(context);
    const Answers& answers = stream.Run(requests);
    INFO(answers.status);
    CHECK(ErrorReason(answers.status) == "BAD_FIELD");
    CHECK(std::string(answers.status.message()).find("tensor.rule: got ") !=
          std::string::npos);
  }
  RequireClean(context);
}

// Rule 3 needs moments, whatever the config's own method does.
TEST_CASE("a rule's method needs its group", "[stream_overrides]") {
  const TestWeight weight(1, "w.weight", 300, 256, 3);
  QuantizeContext context(TestContextOptions(1));
  Requests requests = {MixedConfig()};
  weight.AppendTo(&requests, 100000);
  requests[1] = WithRule(requests[1], 3);
  SessionDriver stream(context);
  CHECK(ErrorReason(stream.Run(requests).status) == "CALIBRATION_MISSING");
}

}  // namespace
}  // namespace qs::testing

// A stream's site of activations where all workers want much at once: several
// runs of tokens in a call, and the same moments.
#include "service/stream/site_job.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "service/server/error.h"
#include "service/stream/group_job.h"
#include "tests/service/group_messages.h"
#include "tests/service/session_driver.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/large_backend.h"

namespace qs::testing {
namespace {

constexpr int64_t kInputs = 512;  // two runs of BF16 a call
constexpr int64_t kTokens = 5 * kGramRunTokens + 57;

constexpr int64_t kAmple = int64_t{1} << 40;
constexpr WorkerKinds kLarge = {.prefer_large = true};

const TestSite& ASite() {
  static const TestSite& site = *new TestSite("in", kInputs, 1, 5);
  return site;
}

std::vector<TestWeight> Reader() {
  return {TestWeight(11, "q.weight", 8, kInputs, 1)};
}

v1::QuantizeRequest BeginSite() {
  v1::QuantizeRequest begin =
      SiteBegin(2, 1, ASite(), v1::SiteBegin::ACTIVATIONS);
  begin.mutable_site()->set_dtype(v1::BF16);
  return begin;
}

const std::string& Rows() {
  static const std::string& rows = *[] {
    const auto bytes = Gaussian(kTokens * kInputs, DType::kBF16, 5);
    return new std::string(bytes.begin(), bytes.end());
  }();
  return rows;
}

std::shared_ptr<GroupJob> NewGroup(ByteBudget& budget, int64_t held = 0) {
  const QuantSpec spec = PresetSpec("W4A16", Profile::kReference);
  return *GroupJob::Create(
      1, spec, *GroupFromProto(spec, Group(1, ASite(), Reader()).group()), {},
      *budget.TryReserve(held));
}

Answers Run(QuantizeContextOptions options, const Requests& requests) {
  QuantizeContext context(std::move(options));
  SessionDriver stream(context);
  Answers answers = stream.Run(requests);
  INFO(answers.status << " " << answers.problem);
  REQUIRE(answers.status.ok());
  REQUIRE(answers.problem.empty());
  return answers;
}

Answers Run(QuantizeContextOptions options) {
  Requests requests = {Config("W4A16"), Group(1, ASite(), Reader()),
                       BeginSite()};
  AppendBytes(&requests, 2, Rows(), 1'000'000);
  AppendTensor(&requests, 1, Reader()[0]);
  return Run(std::move(options), requests);
}

// Of two workers that want much. `calls` outlives what it makes.
QuantizeContextOptions LargeOptions(GramCalls& calls, int64_t budget) {
  QuantizeContextOptions options = TestContextOptions(2, budget);
  options.make_backends = [&calls] {
    std::vector<std::unique_ptr<Backend>> backends;
    for (int i = 0; i < 2; ++i) {
      backends.push_back(std::make_unique<LargeBackend>(calls));
    }
    return backends;
  };
  return options;
}

TEST_CASE("a site's runs are summed together by workers that want much",
          "[group]") {
  GramCalls calls;
  const Answers one = Run(TestContextOptions(2));
  const Answers several = Run(LargeOptions(calls, int64_t{256} << 20));
  CHECK(calls.tokens() == std::vector<int64_t>{2 * kGramRunTokens,
                                               2 * kGramRunTokens,
                                               kGramRunTokens + 57});
  const v1::TensorReport* report = several.ReportOf(11);
  REQUIRE(report != nullptr);
  CHECK(report->tokens() == kTokens);
  CHECK(report->output_error() > 0);
  CHECK(report->output_error() == one.ReportOf(11)->output_error());
}

TEST_CASE("a site takes room for several runs where half is left to others",
          "[group]") {
  const v1::SiteBegin begin = BeginSite().site();
  REQUIRE(SiteJob::LargeRuns(begin, kInputs) == 2);
  const int64_t one = SiteJob::RoomFor(begin, kInputs, 1, false);
  const int64_t two = SiteJob::RoomFor(begin, kInputs, 2, false);
  CHECK(two - one == kGramRunTokens * kInputs * 2);
  for (const bool large : {false, true}) {
    for (const int64_t capacity : {one, 2 * two - 2, 2 * two}) {
      INFO("large " << large << ", of " << capacity);
      ByteBudget budget(capacity);
      const auto group = NewGroup(budget);
      const auto site =
          group->BeginSite(begin, budget, {.prefer_large = large});
      REQUIRE(site.ok());
      CHECK(budget.reserved() == (large && capacity == 2 * two ? two : one));
    }
  }
  ByteBudget budget(one - 1);
  const auto group = NewGroup(budget);
  CHECK(ErrorReason(group->BeginSite(begin, budget, kLarge).status()) ==
        "MEMORY_BUDGET");
}

TEST_CASE("a site that can never fit is not tried again", "[group]") {
  const v1::SiteBegin begin = BeginSite().site();
  const int64_t one = SiteJob::RoomFor(begin, kInputs, 1, false);
  constexpr int64_t kHeld = 1000;
  const auto refused = [&](int64_t capacity, int64_t others) {
    ByteBudget budget(capacity);
    const auto group = NewGroup(budget, kHeld);
    const auto other = budget.TryReserve(others);
    REQUIRE(other);
    const absl::Status status = group->BeginSite(begin, budget, {}).status();
    CHECK(ErrorReason(status) == "MEMORY_BUDGET");
    CHECK(ErrorMetadataValue(status, "capacity") == absl::StrCat(capacity));
    return status;
  };
  // Others give back what they have.
  const absl::Status later = refused(one + kHeld, 1);
  CHECK(HasRetryDelay(later));
  CHECK(ErrorMetadataValue(later, "needed") == absl::StrCat(one));
  // The site's own group does not.
  const absl::Status never = refused(one + kHeld - 1, 0);
  CHECK_FALSE(HasRetryDelay(never));
  CHECK(ErrorMetadataValue(never, "needed") == absl::StrCat(one + kHeld));
  CHECK(never.message() ==
        absl::StrCat("site \"in\": got a need of ", one,
                     " bytes and 1000 of its group, allowed ",
                     one + kHeld - 1));
}

TEST_CASE("a site that a GPU may sum takes room for its sums twice",
          "[group]") {
  const v1::SiteBegin begin = BeginSite().site();
  const int64_t sums = 8 * kInputs * (kInputs + 1);
  for (const int64_t runs : {1, 2}) {
    CHECK(SiteJob::RoomFor(begin, kInputs, runs, true) ==
          SiteJob::RoomFor(begin, kInputs, runs, false) + sums);
  }
  const int64_t one = SiteJob::RoomFor(begin, kInputs, 1, true);
  ByteBudget budget(one);
  const auto site =
      NewGroup(budget)->BeginSite(begin, budget, {.any_gpu = true});
  REQUIRE(site.ok());
  CHECK(budget.reserved() == one);
  ByteBudget less(one - 1);
  CHECK(
      ErrorReason(
          NewGroup(less)->BeginSite(begin, less, {.any_gpu = true}).status()) ==
      "MEMORY_BUDGET");
}

TEST_CASE("what a site takes of a GPU is that of its runs", "[group]") {
  const v1::SiteBegin begin = BeginSite().site();
  ByteBudget budget(int64_t{1} << 40);
  const auto small = *NewGroup(budget)->BeginSite(begin, budget, {});
  const auto large = *NewGroup(budget)->BeginSite(begin, budget, kLarge);
  CHECK(small->device_bytes().total() ==
        DeviceMemoryFor(SiteDeviceBytes(kInputs, DType::kBF16, 1)));
  CHECK(large->device_bytes().total() ==
        DeviceMemoryFor(SiteDeviceBytes(kInputs, DType::kBF16, 2)));
}

TEST_CASE("a group is solved in whole tensors where half is left to others",
          "[group]") {
  // Three tiles of a CPU, and a short one of another.
  const TestSite site("in", 256, 300, 5);
  const std::vector<TestWeight> weights = {
      TestWeight(11, "q.weight", 6000, 256, 1),
      TestWeight(12, "k.weight", 70, 256, 2)};
  for (const std::string preset : {"W4A16-gptq", "W4A16-awq"}) {
    INFO(preset);
    Requests requests = {Config(preset, false, v1::BEST),
                         Group(1, site, weights)};
    AppendSite(&requests, 2, 1, site, v1::SiteBegin::SECOND_MOMENT, 100'000);
    for (const TestWeight& weight : weights) {
      AppendTensor(&requests, 1, weight);
    }
    const QuantSpec spec = PresetSpec(preset, Profile::kBest);
    const GroupInfo info =
        *GroupFromProto(spec, Group(1, site, weights).group());
    QuantizeOptions small;
    small.tiled_input = true;
    small.streamed_output = true;
    QuantizeOptions large = small;
    large.large_tiles = true;
    const int64_t need = *GroupRoom(spec, info, kAmple, kAmple, &small);
    const int64_t most = *GroupRoom(spec, info, kAmple, kAmple, &large);
    CHECK(large.large_tiles);
    CHECK(most > need);

    GramCalls calls;
    const Answers expected = Run(TestContextOptions(2), requests);
    const int64_t least = std::max(2 * most, most + SiteJob::MostRoom(256));
    for (const int64_t budget : {least - 1, least}) {
      INFO("budget " << budget << ", in large tiles " << most);
      const Answers answers = Run(LargeOptions(calls, budget), requests);
      for (const TestWeight& weight : weights) {
        CHECK(answers.ReportOf(weight.handle)->memory_bytes() ==
              (budget == least ? most : need));
        const auto& parts = answers.parts.at(weight.handle);
        REQUIRE(parts.size() == expected.parts.at(weight.handle).size());
        for (const auto& [name, part] : expected.parts.at(weight.handle)) {
          CHECK((parts.at(name).bytes == part.bytes));
        }
      }
    }
  }
}

TEST_CASE("large tiles leave half of the budget, and room for activations",
          "[group]") {
  const QuantSpec spec = PresetSpec("W4A16-gptq", Profile::kBest);
  // Sums in F64, twice, are more than the weights of a few outputs.
  for (const auto& [outputs, inputs] :
       {std::pair<int64_t, int64_t>{8192, 8192}, {1024, 16384}}) {
    INFO(inputs << " inputs");
    GroupInfo info;
    info.sites.push_back({"in", inputs, Fold(), ""});
    info.tensors.push_back({{"w.weight", DType::kBF16, {outputs, inputs}}, 0});
    const auto large = [&](int64_t capacity, int64_t held = 0) {
      QuantizeOptions options;
      options.tiled_input = options.streamed_output = true;
      options.large_tiles = true;
      REQUIRE(
          GroupRoom(spec, info, capacity, capacity / 2 - held, &options).ok());
      return options.large_tiles;
    };
    QuantizeOptions options;
    options.tiled_input = options.streamed_output = true;
    options.large_tiles = true;
    const int64_t most = *GroupRoom(spec, info, kAmple, kAmple, &options);
    const int64_t beside = SiteJob::MostRoom(inputs);
    CHECK((beside > most) == (inputs == 16384));
    const int64_t least = most + std::max(most, beside);
    CHECK(large(least));
    CHECK_FALSE(large(least - 1));
    CHECK(large(3 * least, 3 * least / 2 - most));
    CHECK_FALSE(large(3 * least, 3 * least / 2 - most + 1));
  }
}

}  // namespace
}  // namespace qs::testing

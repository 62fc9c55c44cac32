// Where a tensor's time goes: the clock, and what every method tells it.
#include "quant/phase_times.h"

#include <chrono>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "quant/site.h"
#include "quant/solve_group.h"
#include "tests/quant/awq_cases.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

using Clock = std::chrono::steady_clock;
using Phases = std::set<Phase>;

constexpr int64_t kRows = 256;
constexpr int64_t kInputs = 128;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void Spin(double seconds) {
  const Clock::time_point start = Clock::now();
  while (SecondsSince(start) < seconds) {
  }
}

Phases Filled(const PhaseTimes& times) {
  Phases filled;
  for (size_t i = 0; i < kPhases; ++i) {
    CHECK(times.seconds[i] >= 0);
    if (times.seconds[i] > 0) filled.insert(static_cast<Phase>(i));
  }
  return filled;
}

std::shared_ptr<Site> FilledSite(const std::string& name = "in") {
  auto site = std::make_shared<Site>(name, kInputs);
  site->Fill(MomentsOf(name, Tokens(400, kInputs, 3), kInputs));
  return site;
}

TEST_CASE("a clock gives every moment to one phase") {
  PhaseClock clock;
  CHECK(clock.times().Total() == 0);
  Spin(1e-3);
  const Clock::time_point start = Clock::now();
  clock.Enter(Phase::kEncode);
  Spin(2e-3);
  clock.Enter(Phase::kPack);
  Spin(1e-3);
  clock.Enter(Phase::kEncode);
  Spin(2e-3);
  clock.Stop();
  const double wall = SecondsSince(start);
  Spin(1e-3);
  clock.Stop();  // nothing runs
  CHECK(Filled(clock.times()) == Phases{Phase::kEncode, Phase::kPack});
  CHECK(clock.times()[Phase::kEncode] >= 4e-3);
  CHECK(clock.times()[Phase::kPack] >= 1e-3);
  CHECK(clock.times().Total() <= wall);

  PhaseTimes sum = clock.times();
  sum.Add(clock.times());
  CHECK(sum[Phase::kPack] == 2 * clock.times()[Phase::kPack]);
}

// That of a preset, with what its profile does unless told otherwise.
QuantSpec SpecOf(const std::string& preset, Profile profile) {
  QuantSpec spec = PresetSpec(preset, profile);
  if (spec.gptq() != nullptr) spec.method = DefaultGptqSpec(profile);
  if (spec.awq() != nullptr) spec.method = DefaultAwqSpec(profile);
  return spec;
}

struct Case {
  std::string preset;
  Profile profile;
  bool site;
  Phases phases;
};

// Every method has its phases and no other.
const std::vector<Case>& Cases() {
  using enum Phase;
  static const auto* const cases = new std::vector<Case>{
      {"NF4",
       Profile::kBest,
       false,
       {kPrepare, kEncode, kPack, kVerify, kReport}},
      {"NF4-dq",
       Profile::kReference,
       false,
       {kPrepare, kEncode, kPack, kVerify, kReport}},
      {"NF4-dq",
       Profile::kBest,
       false,
       {kPrepare, kEncode, kRefine, kPack, kVerify, kReport}},
      {"W4A16",
       Profile::kBest,
       false,
       {kPrepare, kEncode, kPack, kVerify, kReport}},
      {"W4A16-hqq",
       Profile::kBest,
       false,
       {kPrepare, kEncode, kPack, kVerify, kReport}},
      {"HQQ-3",
       Profile::kReference,
       false,
       {kPrepare, kEncode, kPack, kVerify, kReport}},
      // Measured against a site.
      {"W4A16",
       Profile::kBest,
       true,
       {kWait, kPrepare, kEncode, kPack, kVerify, kReport}},
      {"W4A16-gptq",
       Profile::kReference,
       true,
       {kWait, kPrepare, kFactor, kEncode, kPack, kVerify, kReport}},
      {"W4A16-gptq",
       Profile::kBest,
       true,
       {kWait, kPrepare, kFactor, kEncode, kRefine, kPack, kVerify, kReport}},
  };
  return *cases;
}

TEST_CASE("every method fills its phases, and they are its time") {
  const auto backend = NewCpuBackend(1);
  const TensorInfo info = {"a.weight", DType::kBF16, {kRows, kInputs}};
  const auto bytes = Gaussian(kRows * kInputs, info.dtype, 5);
  for (const Case& c : Cases()) {
    INFO(c.preset << (c.profile == Profile::kBest ? " BEST" : " REFERENCE"));
    // Whoever else runs here may take the processor between two tasks.
    double share = 0;
    for (int attempt = 0; attempt < 10 && share < 0.7; ++attempt) {
      QuantizeOptions options;
      if (c.site) options.site = FilledSite();
      const auto quantizer =
          MakeQuantizer(SpecOf(c.preset, c.profile), info, bytes, options);
      const Clock::time_point start = Clock::now();
      const TensorReport report = FinishAll(*quantizer, *backend).report;
      const double wall = SecondsSince(start);
      CHECK(Filled(report.phases) == c.phases);
      CHECK(report.phases.Total() <= wall);
      share = report.phases.Total() / wall;
    }
    CHECK(share >= 0.7);
  }
}

TEST_CASE("a factor counts for the reader that makes it") {
  const auto backend = NewCpuBackend(1);
  const auto bytes = Gaussian(kRows * kInputs, DType::kBF16, 5);
  QuantizeOptions options;
  options.site = FilledSite();
  std::vector<PhaseTimes> times;
  for (const char* name : {"q.weight", "k.weight"}) {
    const TensorInfo info = {name, DType::kBF16, {kRows, kInputs}};
    times.push_back(Quantize(PresetSpec("W4A16-gptq", Profile::kBest), info,
                             bytes, *backend, options)
                        .report.phases);
  }
  CHECK(times[0][Phase::kFactor] > 0);
  CHECK(times[1][Phase::kFactor] == 0);
  CHECK(times[1][Phase::kWait] < times[0][Phase::kFactor]);
}

// A norm, and two linears that read what it gives.
GroupInfo NormGroup() {
  GroupInfo group;
  group.name = "layer";
  group.sites = {{"in", kInputs, {}, ""}};
  group.sites[0].fold.kind = FoldKind::kNorm;
  group.sites[0].fold.producer = "norm.weight";
  group.tensors = {
      {{"norm.weight", DType::kBF16, {kInputs}}, -1, GroupRole::kFoldOnly},
      {{"q.weight", DType::kBF16, {kRows, kInputs}}, 0, GroupRole::kQuantize},
      {{"k.weight", DType::kBF16, {kRows, kInputs}}, 0, GroupRole::kQuantize}};
  return group;
}

TEST_CASE("what a group does for a site counts for its first reader") {
  const auto backend = NewCpuBackend(1);
  Weights weights;
  weights["norm.weight"] = Gaussian(kInputs, DType::kBF16, 1, 1);
  weights["q.weight"] = Gaussian(kRows * kInputs, DType::kBF16, 2);
  weights["k.weight"] = Gaussian(kRows * kInputs, DType::kBF16, 3);
  using enum Phase;
  const Phases solved = {kPrepare, kEncode, kRefine, kPack, kVerify, kReport};
  const Phases clipped = {kPrepare, kSearch, kEncode, kPack, kVerify, kReport};
  QuantSpec scaled = PresetSpec("W4A16-gptq", Profile::kBest);
  std::get<GptqSpec>(scaled.method).awq_scaling = true;
  for (const auto& [spec, own] : std::vector<std::pair<QuantSpec, Phases>>{
           {SpecOf("W4A16-awq", Profile::kBest), solved},
           {SpecOf("W4A16-awq", Profile::kReference), clipped},
           {scaled, solved}}) {
    Moments moments;
    moments.emplace("in", MomentsOf("in", Tokens(400, kInputs, 3), kInputs));
    const Clock::time_point start = Clock::now();
    const SolvedGroup group =
        Solve(spec, NormGroup(), weights, std::move(moments), *backend);
    const double wall = SecondsSince(start);
    INFO(SpecAlgorithm(spec));
    Phases first = own;
    first.insert({kWait, kFactor, kSearch});
    Phases second = own;
    if (spec.gptq() != nullptr) second.insert(kWait);  // its own lock
    CHECK(Filled(group.report("q.weight").phases) == first);
    CHECK(Filled(group.report("k.weight").phases) == second);
    double sum = 0;
    for (const auto& [name, tensor] : group.tensors) {
      sum += tensor.report.phases.Total();
    }
    CHECK(sum <= wall);
    CHECK(group.report("q.weight").phases[kSearch] +
              group.report("q.weight").phases[kFactor] >
          0.1 * sum);
  }
}

}  // namespace
}  // namespace qs::testing

// What a solve group may be, and that its tensors share its sites.
#include "quant/solve_group.h"

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "quant/group_parts.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

GroupInfo Valid() {
  GroupInfo info;
  info.name = "block";
  info.sites = {{"in", 64, {}, ""}, {"out", 32, {}, ""}};
  info.tensors = {
      {{"q.weight", DType::kBF16, {16, 64}}, 0, GroupRole::kQuantize},
      {{"o.weight", DType::kBF16, {16, 32}}, 1, GroupRole::kQuantize}};
  return info;
}

QuantSpec GptqReference() {
  QuantSpec spec = PresetSpec("W4A16-gptq", Profile::kReference);
  GptqSpec gptq = DefaultGptqSpec(Profile::kReference);
  gptq.group_size = 32;
  spec.method = gptq;
  return spec;
}

SiteMoments Identity(const std::string& name, int64_t inputs) {
  SiteMoments moments = *SiteMoments::Create(name, inputs);
  for (int64_t i = 0; i < inputs; ++i) {
    moments.second_moment()[i * inputs + i] = 2;
    moments.abs_sum()[i] = 1;
  }
  moments.set_tokens(8);
  return moments;
}

TEST_CASE("a group that cannot be solved is refused by name") {
  struct Case {
    const char* text;
    std::function<void(GroupInfo*)> spoil;
  };
  const Case cases[] = {
      {"at least one each", [](GroupInfo* g) { g->sites.clear(); }},
      {"at least one each", [](GroupInfo* g) { g->tensors.clear(); }},
      {"tensor \"q.weight\": got it twice",
       [](GroupInfo* g) { g->tensors[1] = g->tensors[0]; }},
      {"site \"in\": got it twice",
       [](GroupInfo* g) { g->sites[1].name = "in"; }},
      {"inputs: got 0", [](GroupInfo* g) { g->sites[1].inputs = 0; }},
      {"inputs: got 99999", [](GroupInfo* g) { g->sites[1].inputs = 99999; }},
      {"got 64 columns, allowed 48",
       [](GroupInfo* g) { g->sites[0].inputs = 48; }},
      {"site: got none", [](GroupInfo* g) { g->tensors[0].site = -1; }},
      {"pool: got \"x\"", [](GroupInfo* g) { g->sites[0].pool = "x"; }},
      {"pool: got \"out\"", [](GroupInfo* g) { g->sites[0].pool = "out"; }},
      {"got tensor \"norm\"",
       [](GroupInfo* g) {
         g->sites[0].fold.kind = FoldKind::kNorm;
         g->sites[0].fold.producer = "norm";
       }},
      {"role: got FOLD_ONLY",
       [](GroupInfo* g) { g->tensors[0].role = GroupRole::kFoldOnly; }},
      {"got 4097 sites and 2 tensors, allowed at most 4096 and 16384",
       [](GroupInfo* g) { g->sites.resize(4097, g->sites[0]); }},
      {"got 2 sites and 16385 tensors, allowed at most 4096 and 16384",
       [](GroupInfo* g) { g->tensors.resize(16'385, g->tensors[0]); }},
  };
  CHECK(ValidateGroup(GptqReference(), Valid()).ok());
  for (const Case& c : cases) {
    GroupInfo info = Valid();
    c.spoil(&info);
    const absl::Status status = ValidateGroup(GptqReference(), info);
    INFO(c.text << " in " << status);
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(std::string(status.message()).find(c.text) != std::string::npos);
    CHECK_FALSE(SolveGroup::Create(GptqReference(), info, {}).ok());
  }
}

TEST_CASE("tensors read their group's sites, which go with the last") {
  std::vector<double> told;
  QuantizeOptions options;
  options.on_shared = [&](double done) { told.push_back(done); };
  auto group = SolveGroup::Create(GptqReference(), Valid(), options);
  REQUIRE(group.ok());
  CHECK_FALSE((*group)->solves_whole());
  (*group)->site(0)->Fill(Identity("in", 64));
  (*group)->site(1)->Fill(Identity("out", 32));
  const std::weak_ptr<Site> site = (*group)->site(0);
  const auto backend = NewCpuBackend(1);
  for (size_t i = 0; i < 2; ++i) {
    auto quantizer = (*group)->TakeTensor(i);
    REQUIRE(quantizer.ok());
    const TensorInfo& info = (*quantizer)->info();
    const auto bytes = Gaussian(info.shape[0] * info.shape[1], info.dtype, 3);
    std::memcpy((*quantizer)->input(), bytes.data(), bytes.size());
    const QuantizedTensor result = FinishAll(**quantizer, *backend);
    CHECK(result.report.has_output_error);
    CHECK(result.report.tokens == 8);
    CHECK(site.expired() == (i == 1));
    // Of both factors.
    REQUIRE_FALSE(told.empty());
    CHECK((told.back() == 1) == (i == 1));
  }
  CHECK(std::is_sorted(told.begin(), told.end()));
}

TEST_CASE("sites that are solved side by side make one figure") {
  GroupInfo info = Valid();
  info.sites.push_back({"pool", 4096, {}, ""});  // nothing reads it
  std::vector<double> told;
  SiteParts parts(info, [&](double done) { told.push_back(done); });
  // In proportion to inputs^2 (inputs + rows): 64^2 * 80 and 32^2 * 48.
  parts.Set(1, 0.5);
  parts.Set(0, 1);
  parts.Set(1, 0.25);  // tried again
  parts.Set(1, 1);
  REQUIRE(told.size() == 3);
  const double first = 64.0 * 64 * 80 / (64.0 * 64 * 80 + 32.0 * 32 * 48);
  CHECK(told[0] == Approx((1 - first) / 2));
  CHECK(told[1] == Approx((1 + first) / 2));
  CHECK(told[2] == 1);
  CHECK(SiteEnds(info).back() == 1);
}

TEST_CASE("the estimate counts moments, factor and transport") {
  const QuantSpec spec = GptqReference();
  GroupInfo info = Valid();
  info.sites[0].inputs = 4096;
  info.tensors[0].info.shape = {16, 4096};
  const int64_t one = *EstimateGroupBytes(spec, info, {}, 4);
  // A factorisation in F64 may take some 4 inputs^2 for a while.
  CHECK(one > 12 * 4096 * 4096);
  CHECK(one < 12 * 4096 * 4096 + (32 << 20));
  // Another reader of the same site adds what it holds itself.
  info.tensors.push_back(info.tensors[0]);
  info.tensors.back().info.name = "k.weight";
  CHECK(*EstimateGroupBytes(spec, info, {}, 4) < one + (32 << 20));
}

// Nothing of it is allocated.
TEST_CASE("the widest inputs are planned for in 64 bits") {
  const int64_t n = GENERATE(int64_t{53248}, kMaxSiteInputs);
  const std::string preset = GENERATE("W4A16-gptq", "W4A16-awq", "W4A16");
  INFO(n << " " << preset);
  const QuantSpec spec = PresetSpec(preset, Profile::kBest);
  GroupInfo info = Valid();
  info.sites.pop_back();
  info.tensors.pop_back();
  info.sites[0].inputs = n;
  info.tensors[0].info.shape = {16384, n};
  CHECK(ValidateGroup(spec, info).ok());
  const auto bytes = EstimateGroupBytes(spec, info, {}, 4);
  INFO(bytes.status());
  REQUIRE(bytes.ok());
  // Moments, factor and its F64, or moments and what they come in; and the
  // weights.
  const bool solves = NeedsCalibration(spec);
  const int64_t pairs = (solves ? 12 : 6) * n * n;
  CHECK(*bytes > pairs);
  CHECK(*bytes < pairs + 12 * 16384 * n + (int64_t{1} << 30));
}

TEST_CASE("an input beyond the limit is refused with the limit") {
  GroupInfo info = Valid();
  info.sites[0].inputs = kMaxSiteInputs + 1;
  info.tensors[0].info.shape = {16, kMaxSiteInputs + 1};
  const absl::Status status = ValidateGroup(GptqReference(), info);
  CHECK(status.message() ==
        "group \"block\": site \"in\": inputs: got 65537, allowed 1 to 65536");
}

}  // namespace
}  // namespace qs::testing

// Which sites of a file serve those of a plan: by modules, in pools of experts.
#include "quant/calibration/calibration_index.h"

#include "absl/strings/str_cat.h"
#include "quant/formats/checkpoint.h"
#include "tests/quant/calibration_data.h"
#include "tests/quant/plan_request.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using Catch::Matchers::Contains;

constexpr char kBlock[] = "model.layers.0.";

Plan LlamaPlan() {
  PlanRequest request = SmallLlama("W4A16", Engine::kNone, 64, 96);
  request.spec.method = RtnSpec{.group_size = 32};
  request.list_sites = true;
  return PlanOf(request);
}

std::vector<RandomSite> LlamaSites() {
  const std::string b = kBlock;
  return {
      {"first",
       64,
       80,
       {b + "self_attn.q_proj", b + "self_attn.k_proj", b + "self_attn.v_proj"},
       1},
      {"second", 64, 80, {b + "self_attn.o_proj"}, 2},
      {"third", 64, 80, {b + "mlp.up_proj", b + "mlp.gate_proj"}, 3},
      {"fourth", 96, 80, {b + "mlp.down_proj"}, 4}};
}

CalibrationIndex IndexOf(const CalibrationFolder& folder,
                         const std::vector<RandomSite>& sites) {
  auto index =
      CalibrationIndex::Open(WriteRandom(folder / "c.safetensors", sites));
  INFO(index.status());
  REQUIRE(index.ok());
  return *std::move(index);
}

CalibrationMatch MatchOf(const CalibrationIndex& index, const Plan& plan) {
  auto match = index.Match(plan);
  INFO(match.status());
  REQUIRE(match.ok());
  return *std::move(match);
}

const SiteMatch& Named(const CalibrationMatch& match, const std::string& name) {
  for (const SiteMatch& site : match.sites) {
    if (site.name == name) return site;
  }
  FAIL("no match for " << name);
  return match.sites.front();
}

SiteMoments Loaded(const CalibrationIndex& index, const SiteMatch& match) {
  auto moments = index.Load(match);
  INFO(moments.status());
  REQUIRE(moments.ok());
  return *std::move(moments);
}

TEST_CASE("Sites are found by the modules that read them") {
  const CalibrationFolder folder;
  std::vector<RandomSite> sites = LlamaSites();
  sites.push_back({"extra", 8, 10, {"model.layers.9.self_attn.o_proj"}, 5});
  const CalibrationIndex index = IndexOf(folder, sites);
  const Plan plan = LlamaPlan();
  const CalibrationMatch match = MatchOf(index, plan);
  CHECK(match.missing.empty());
  CHECK(index.RequireComplete(match).ok());
  CHECK(match.unused == std::vector<std::string>{"extra"});
  REQUIRE(match.sites.size() == plan.sites.size());
  for (size_t i = 0; i < 4; ++i) {
    CHECK(match.sites[i].name == plan.sites[i].name);
    const SiteMoments moments = Loaded(index, match.sites[i]);
    CHECK(moments.site() == plan.sites[i].name);
    CHECK(moments.tokens() == 80);
    CHECK(SquareOf(moments) == SquareOf(MomentsOf(sites[i])));
  }
}

TEST_CASE("The small model's own calibration serves all of its plan") {
  const std::string data = QS_TEST_DATA;
  const auto checkpoint = Checkpoint::Open(data + "/tiny-llama");
  REQUIRE(checkpoint.ok());
  PlanRequest request;
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    PlanTensor& added = request.tensors.emplace_back();
    added.name = tensor.entry.name;
    added.dtype = tensor.entry.dtype;
    added.shape = tensor.entry.shape;
  }
  request.config_json = checkpoint->config_json();
  request.spec = FindPreset("W4A16")->spec;
  request.list_sites = true;
  const Plan plan = PlanOf(request);
  const auto index =
      CalibrationIndex::Open(data + "/tiny-llama-calibration.safetensors");
  INFO(index.status());
  REQUIRE(index.ok());
  const CalibrationMatch match = MatchOf(*index, plan);
  CHECK(match.missing.empty());
  CHECK(match.unused.empty());
  REQUIRE(match.sites.size() == 16);
  for (const SiteMatch& site : match.sites) {
    CHECK(Loaded(*index, site).tokens() == 120);
  }
  for (const PlanSite& site : plan.sites) {
    CHECK(site.fold.kind != FoldKind::kNone);
  }
}

TEST_CASE("Tensors without moments are named") {
  const CalibrationFolder folder;
  std::vector<RandomSite> sites = LlamaSites();
  sites.erase(sites.begin() + 2);
  const CalibrationIndex index = IndexOf(folder, sites);
  const CalibrationMatch match = MatchOf(index, LlamaPlan());
  CHECK(match.missing ==
        std::vector<std::string>{"model.layers.0.mlp.gate_proj.weight",
                                 "model.layers.0.mlp.up_proj.weight"});
  CHECK(match.sites.size() == 3);
  const absl::Status status = index.RequireComplete(match);
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK_THAT(std::string(status.message()),
             Contains("c.safetensors") &&
                 Contains("model.layers.0.mlp.gate_proj.weight"));
}

TEST_CASE("One module of a site is enough") {
  const CalibrationFolder folder;
  std::vector<RandomSite> sites = LlamaSites();
  sites[0].modules = {absl::StrCat(kBlock, "self_attn.k_proj")};
  CHECK(MatchOf(IndexOf(folder, sites), LlamaPlan()).missing.empty());
}

TEST_CASE("A site recorded once a reader must be the same input") {
  const CalibrationFolder folder;
  const std::string b = kBlock;
  std::vector<RandomSite> sites = LlamaSites();
  sites[0].modules = {b + "self_attn.q_proj"};
  sites.push_back(sites[0]);
  sites.back().name = "again";
  sites.back().modules = {b + "self_attn.k_proj", b + "self_attn.v_proj"};
  SECTION("it is") {
    const CalibrationIndex index = IndexOf(folder, sites);
    const CalibrationMatch match = MatchOf(index, LlamaPlan());
    const SiteMatch& qkv = Named(match, "model.layers.0/self_attn.qkv");
    CHECK(qkv.tokens == 80);
    CHECK(SquareOf(Loaded(index, qkv)) == SquareOf(MomentsOf(sites[0])));
    CHECK(match.unused == std::vector<std::string>{"again"});
  }
  SECTION("it is not") {
    sites.back().seed = 77;
    const auto match = IndexOf(folder, sites).Match(LlamaPlan());
    CHECK_THAT(std::string(match.status().message()),
               Contains("\"first\"") && Contains("\"again\"") &&
                   Contains("different sums"));
  }
}

// Sites of which some are open, as a store's; counts what is read.
class OpenSource final : public CalibrationSource {
 public:
  OpenSource(std::vector<RandomSite> sites, const std::string& open, int* reads)
      : random_(std::move(sites)), reads_(*reads) {
    for (const RandomSite& site : random_) {
      sites_.push_back(
          {site.name, site.inputs, site.tokens, true, site.modules});
      sites_.back().open = site.name == open;
    }
  }
  const std::vector<CalibrationSite>& sites() const override { return sites_; }
  absl::StatusOr<SiteMoments> Read(size_t site) const override {
    ++reads_;
    return MomentsOf(random_[site]);
  }
  absl::Status Error(const std::string& text) const override {
    return absl::InvalidArgumentError(text);
  }

 private:
  const std::vector<RandomSite> random_;
  int& reads_;
  std::vector<CalibrationSite> sites_;
};

TEST_CASE("What was found equal is not read again when more is sealed") {
  const std::string b = kBlock;
  std::vector<RandomSite> sites = LlamaSites();
  sites[0].modules = {b + "self_attn.q_proj"};
  sites.insert(sites.begin() + 1, sites[0]);
  sites[1].name = "first again";
  sites[1].modules = {b + "self_attn.k_proj", b + "self_attn.v_proj"};
  int reads = 0;
  const auto source = [&](const std::string& open) {
    return std::make_shared<const OpenSource>(sites, open, &reads);
  };
  // Not all is known of the one input.
  const CalibrationIndex first(source("first again"));
  const auto sources = [](const CalibrationMatch& match) {
    return Named(match, "model.layers.0/self_attn.qkv").sources;
  };
  CHECK(sources(MatchOf(first, LlamaPlan())) == std::vector<size_t>{0, 1});
  CHECK(reads == 0);
  const CalibrationIndex second = first.Renewed(source("fourth"));
  CHECK(sources(MatchOf(second, LlamaPlan())) == std::vector<size_t>{0});
  CHECK(reads == 2);
  const CalibrationIndex third = second.Renewed(source(""));
  CHECK(sources(MatchOf(third, LlamaPlan())) == std::vector<size_t>{0});
  CHECK(reads == 2);
}

TEST_CASE("Another number of inputs is refused by tensor") {
  const CalibrationFolder folder;
  std::vector<RandomSite> sites = LlamaSites();
  sites[3].inputs = 64;
  const auto match = IndexOf(folder, sites).Match(LlamaPlan());
  CHECK(match.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK_THAT(std::string(match.status().message()),
             Contains("\"fourth\": got 64 inputs, allowed 96") &&
                 Contains("mlp.down_proj.weight"));
}

// Three experts with 32 inputs each way.
Plan MixtralPlan() {
  PlanRequest request = RequestWith("W4A16", Engine::kNone);
  request.config_json = R"({"model_type": "mixtral"})";
  request.spec.method = RtnSpec{.group_size = 32};
  request.list_sites = true;
  for (int e = 0; e < 3; ++e) {
    for (const char* w : {"w1", "w2", "w3"}) {
      AddTensor(&request,
                absl::StrCat(kBlock, "block_sparse_moe.experts.", e, ".", w,
                             ".weight"),
                {32, 32});
    }
  }
  return PlanOf(request);
}

std::string Expert(int e, const char* w) {
  return absl::StrCat(kBlock, "block_sparse_moe.experts.", e, ".", w);
}

std::vector<RandomSite> MixtralSites(std::vector<int64_t> tokens) {
  std::vector<RandomSite> sites;
  for (int e = 0; e < 3; ++e) {
    const uint32_t seed = static_cast<uint32_t>(e);
    sites.push_back({absl::StrCat("in", e),
                     32,
                     tokens[e],
                     {Expert(e, "w1"), Expert(e, "w3")},
                     10 + seed});
    sites.push_back(
        {absl::StrCat("mid", e), 32, tokens[e], {Expert(e, "w2")}, 20 + seed});
  }
  return sites;
}

std::vector<float> SumOf(const std::vector<RandomSite>& sites,
                         std::vector<size_t> which) {
  SiteMoments sum = MomentsOf(sites[which[0]]);
  for (size_t i = 1; i < which.size(); ++i) {
    REQUIRE(sum.Merge(MomentsOf(sites[which[i]])).ok());
  }
  return SquareOf(sum);
}

TEST_CASE("Experts' own sites add up to the pooled one") {
  const CalibrationFolder folder;
  const std::vector<RandomSite> sites = MixtralSites({200, 5, 0});
  const CalibrationIndex index = IndexOf(folder, sites);
  const CalibrationMatch match = MatchOf(index, MixtralPlan());
  CHECK(match.missing.empty());
  const SiteMatch& pooled =
      Named(match, "model.layers.0/block_sparse_moe.experts.gate_up");
  CHECK(pooled.tokens == 205);
  CHECK(pooled.pool.empty());
  CHECK(SquareOf(Loaded(index, pooled)) == SumOf(sites, {0, 2, 4}));
}

TEST_CASE("An expert that saw few tokens gets a share of its layer's pool") {
  const CalibrationFolder folder;
  const std::vector<RandomSite> sites = MixtralSites({200, 5, 0});
  const CalibrationIndex index = IndexOf(folder, sites);
  const CalibrationMatch match = MatchOf(index, MixtralPlan());
  const std::string site = "model.layers.0/block_sparse_moe.experts.";
  const std::string pool = site + "w2";
  const SiteMatch& rich = Named(match, site + "0.w2");
  CHECK(rich.tokens == 200);
  CHECK(rich.pool.empty());
  CHECK(rich.pool_weight == 0);
  const SiteMatch& poor = Named(match, site + "1.w2");
  CHECK(poor.tokens == 5);
  CHECK(poor.pool == pool);
  CHECK(poor.pool_weight == PoolWeight(5, 205, 32));
  const SiteMatch& none = Named(match, site + "2.w2");
  CHECK(none.tokens == 0);
  CHECK(none.pool_weight == PoolWeight(0, 205, 32));
  REQUIRE(match.pools.size() == 1);
  const SiteMatch& sum = match.pools.at(pool);
  CHECK(sum.tokens == 205);
  CHECK(SquareOf(Loaded(index, sum)) == SumOf(sites, {1, 3, 5}));
  SiteMoments blended = Loaded(index, none);
  REQUIRE(blended.BlendIn(Loaded(index, sum), none.pool_weight).ok());
  CHECK(blended.Check().ok());
}

TEST_CASE("Experts without any token anywhere are missing") {
  const CalibrationFolder folder;
  const CalibrationIndex index = IndexOf(folder, MixtralSites({0, 0, 0}));
  const CalibrationMatch match = MatchOf(index, MixtralPlan());
  CHECK(match.sites.empty());
  CHECK(match.missing.size() == 9);
}

TEST_CASE("An expert that is left out of a file by expert is missing") {
  const CalibrationFolder folder;
  std::vector<RandomSite> sites = MixtralSites({200, 200, 200});
  sites.erase(sites.begin() + 2, sites.begin() + 4);
  const CalibrationIndex index = IndexOf(folder, sites);
  CHECK(MatchOf(index, MixtralPlan()).missing ==
        std::vector<std::string>{Expert(1, "w1") + ".weight",
                                 Expert(1, "w3") + ".weight",
                                 Expert(1, "w2") + ".weight"});
}

TEST_CASE("Module names as transformers has them are found, too") {
  const CalibrationFolder folder;
  std::vector<RandomSite> sites = MixtralSites({200, 200, 200});
  for (RandomSite& site : sites) {
    for (std::string& module : site.modules) {
      const size_t at = module.find("block_sparse_moe");
      module.replace(at, std::string("block_sparse_moe").size(), "mlp");
    }
  }
  CHECK(MatchOf(IndexOf(folder, sites), MixtralPlan()).missing.empty());
}

// Three experts with 32 inputs each way, as single linears or of a stack.
Plan QwenPlan() {
  PlanRequest request = RequestWith("W4A16", Engine::kNone);
  request.config_json = R"({"model_type": "qwen3_moe"})";
  request.spec.method = RtnSpec{.group_size = 32};
  request.list_sites = true;
  const std::string experts = absl::StrCat(kBlock, "mlp.experts.");
  if (GENERATE(false, true)) {
    AddTensor(&request, experts + "gate_up_proj", {3, 64, 32});
    AddTensor(&request, experts + "down_proj", {3, 32, 32});
    return PlanOf(request);
  }
  for (int e = 0; e < 3; ++e) {
    for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
      AddTensor(&request, absl::StrCat(experts, e, ".", part, ".weight"),
                {32, 32});
    }
  }
  return PlanOf(request);
}

TEST_CASE("A stack's moments serve its experts") {
  const CalibrationFolder folder;
  const std::string experts = absl::StrCat(kBlock, "mlp.experts");
  const std::string up = experts + GENERATE("", ".gate_up_proj");
  const std::vector<RandomSite> sites = {
      {"a", 32, 80, {up}, 1}, {"b", 32, 100, {experts + ".down_proj"}, 2}};
  const CalibrationIndex index = IndexOf(folder, sites);
  const CalibrationMatch match = MatchOf(index, QwenPlan());
  CHECK(match.missing.empty());
  CHECK(match.unused.empty());
  CHECK(match.used == std::vector<size_t>{0, 1});
  const SiteMatch& pooled = Named(match, "model.layers.0/mlp.experts.gate_up");
  CHECK(pooled.tokens == 80);
  CHECK(SquareOf(Loaded(index, pooled)) == SquareOf(MomentsOf(sites[0])));
  // Nothing is known of one expert's down, the sum of all serves each.
  REQUIRE(match.pools.size() == 1);
  const SiteMatch& pool =
      match.pools.at("model.layers.0/mlp.experts.down_proj");
  CHECK(pool.tokens == 100);
  CHECK(SquareOf(Loaded(index, pool)) == SquareOf(MomentsOf(sites[1])));
  for (int e = 0; e < 3; ++e) {
    const SiteMatch& own = Named(
        match, absl::StrCat("model.layers.0/mlp.experts.", e, ".down_proj"));
    CHECK(own.tokens == 0);
    CHECK(own.pool == pool.name);
    CHECK(own.pool_weight == PoolWeight(0, 100, 32));
    SiteMoments moments = Loaded(index, own);
    CHECK(moments.tokens() == 0);
    REQUIRE(moments.BlendIn(Loaded(index, pool), own.pool_weight).ok());
    CHECK(moments.Check().ok());
  }
}

TEST_CASE("An expert with moments of its own keeps them beside a stack's") {
  const CalibrationFolder folder;
  const std::string experts = absl::StrCat(kBlock, "mlp.experts");
  const std::vector<RandomSite> sites = {
      {"a", 32, 80, {experts}, 1},
      {"b", 32, 100, {experts + ".down_proj"}, 2},
      {"c", 32, 40, {experts + ".1.down_proj"}, 3}};
  const CalibrationIndex index = IndexOf(folder, sites);
  const CalibrationMatch match = MatchOf(index, QwenPlan());
  CHECK(match.missing.empty());
  const SiteMatch& own = Named(match, "model.layers.0/mlp.experts.1.down_proj");
  CHECK(own.tokens == 40);
  CHECK(SquareOf(Loaded(index, own)) == SquareOf(MomentsOf(sites[2])));
  CHECK(Named(match, "model.layers.0/mlp.experts.2.down_proj").tokens == 0);
  REQUIRE(match.pools.size() == 1);
  CHECK(match.pools.begin()->second.tokens == 100);
}

TEST_CASE("A stack of another size, or that saw no token, is no help") {
  const CalibrationFolder folder;
  const std::string experts = absl::StrCat(kBlock, "mlp.experts");
  std::vector<RandomSite> sites = {{"a", 32, 80, {experts}, 1},
                                   {"b", 64, 100, {experts + ".down_proj"}, 2}};
  const auto wide = IndexOf(folder, sites).Match(QwenPlan());
  CHECK_THAT(std::string(wide.status().message()),
             Contains("\"b\": got 64 inputs, allowed 32"));
  sites[1].inputs = 32;
  sites[1].tokens = 0;
  CHECK(MatchOf(IndexOf(folder, sites), QwenPlan()).missing.size() == 3);
  sites.pop_back();
  const auto missing = MatchOf(IndexOf(folder, sites), QwenPlan()).missing;
  REQUIRE(missing.size() == 3);
  CHECK(missing[0] == experts + ".0.down_proj.weight");
}

TEST_CASE("Mixtral's experts are found as the stacks of transformers") {
  const CalibrationFolder folder;
  const std::string experts = absl::StrCat(kBlock, "mlp.experts");
  const CalibrationMatch match =
      MatchOf(IndexOf(folder, {{"a", 32, 80, {experts + ".gate_up_proj"}, 1},
                               {"b", 32, 90, {experts + ".down_proj"}, 2}}),
              MixtralPlan());
  CHECK(match.missing.empty());
  CHECK(match.sites.size() == 4);
}

}  // namespace
}  // namespace qs

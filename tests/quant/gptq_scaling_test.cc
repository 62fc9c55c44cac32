// GPTQ with AWQ scaling first: a group's sites are scaled, its tensors solved
// as scaled, and what comes out computes what the model computed.
#include "quant/gptq_quantizer.h"
#include "tests/quant/awq_cases.h"

namespace qs::testing {
namespace {

constexpr int64_t kIn = 128;
constexpr int64_t kInner = 96;
constexpr int64_t kOut = 64;

GptqSpec Small(int bits = 4) {
  GptqSpec spec = DefaultGptqSpec(Profile::kBest);
  spec.bits = bits;
  spec.group_size = 32;
  return spec;
}

QuantSpec Gptq(const GptqSpec& gptq,
               OutputFormat format = OutputFormat::kCompressedTensors) {
  return {gptq, Profile::kBest, format};
}

std::vector<uint8_t> RandomWeight(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> gauss;
  std::vector<float> values;
  for (int64_t i = 0; i < rows * cols; ++i) {
    values.push_back((i % cols % 11 == 4 ? 0.2f : 0.05f) * gauss(random));
  }
  return Stored(values, DType::kBF16);
}

// y = down (up (norm * x)), nothing in between.
struct Model {
  GroupInfo info;
  Weights weights;
  Matrix x = Tokens(4 * kIn, kIn, 3);

  explicit Model(bool folds = true) {
    info.name = "block";
    info.sites = {{"in", kIn, {}, ""}, {"inner", kInner, {}, ""}};
    info.tensors = {{{"up.weight", DType::kBF16, {kInner, kIn}}, 0},
                    {{"down.weight", DType::kBF16, {kOut, kInner}}, 1}};
    weights["up.weight"] = RandomWeight(kInner, kIn, 5);
    weights["down.weight"] = RandomWeight(kOut, kInner, 6);
    if (!folds) return;
    info.sites[0].fold.kind = FoldKind::kNorm;
    info.sites[0].fold.producer = "norm.weight";
    info.sites[1].fold.kind = FoldKind::kLinear;
    info.sites[1].fold.producer = "up.weight";
    info.tensors.push_back(
        {{"norm.weight", DType::kBF16, {kIn}}, -1, GroupRole::kFoldOnly});
    weights["norm.weight"] =
        Stored(std::vector<float>(kIn, 1.0f), DType::kBF16);
  }

  Matrix At(const std::string& name) const {
    const auto& bytes = weights.at(name);
    return Loaded(bytes.data(), DType::kBF16,
                  static_cast<int64_t>(bytes.size()) / 2);
  }
  Matrix Inner() const { return Apply(x, At("up.weight"), kIn); }
  Moments AllMoments() const {
    Moments moments;
    moments.emplace("in", MomentsOf("in", x, kIn));
    moments.emplace("inner", MomentsOf("inner", Inner(), kInner));
    return moments;
  }
};

// Squared relative distance of the outputs of `up`, its rows put back.
double UpError(const Model& model, const SolvedGroup& solved,
               const QuantSpec& spec, const std::vector<float>& divisors) {
  const Matrix norm = solved.Folded("norm.weight");
  Matrix x = model.x;
  for (size_t i = 0; i < x.size(); ++i) x[i] *= norm[i % kIn];
  Matrix y = Apply(x, solved.Decoded(spec, "up.weight"), kIn);
  for (size_t i = 0; i < y.size(); ++i) y[i] *= divisors[i % kInner];
  const double distance = RelativeDistance(model.Inner(), y);
  return distance * distance;
}

// The scales of a site, found again.
std::vector<float> ScalesOf(const QuantSpec& spec, const Model& model,
                            size_t site, Backend& backend) {
  auto group = *SolveGroup::Create(spec, model.info, {});
  Moments moments = model.AllMoments();
  std::vector<std::unique_ptr<TensorQuantizer>> quantizers;
  for (size_t t = 0; t < model.info.tensors.size(); ++t) {
    quantizers.push_back(*group->TakeTensor(t));
    const auto& bytes = model.weights.at(model.info.tensors[t].info.name);
    std::memcpy(quantizers[t]->input(), bytes.data(), bytes.size());
  }
  for (size_t s = 0; s < 2; ++s) {
    group->site(s)->Fill(std::move(moments.at(model.info.sites[s].name)));
  }
  REQUIRE(group->Solve(backend).ok());
  return group->scales(site);
}

TEST_CASE("every order, format and width: the file is as reported") {
  const auto backend = NewCpuBackend(1);
  const Model model;
  for (OutputFormat format : {OutputFormat::kCompressedTensors,
                              OutputFormat::kGptq, OutputFormat::kGptqV2}) {
    for (ColumnOrder order :
         {ColumnOrder::kNone, ColumnOrder::kActOrder,
          ColumnOrder::kActOrderStatic, ColumnOrder::kGroupAware}) {
      for (int bits : {2, 3, 4, 8}) {
        GptqSpec gptq = Small(bits);
        gptq.order = order;
        gptq.symmetric = format != OutputFormat::kGptqV2;
        const QuantSpec spec = Gptq(gptq, format);
        if (!ValidateSpec(spec).ok()) continue;
        INFO("format " << static_cast<int>(format) << " order "
                       << static_cast<int>(order) << " bits " << bits);
        const SolvedGroup solved = Solve(spec, model.info, model.weights,
                                         model.AllMoments(), *backend);
        const TensorReport& up = solved.report("up.weight");
        // Sums of tokens in F64 against moments in F32; 8 bits leave little.
        CHECK(RelativeOutputError(up.output_error) ==
              Approx(UpError(model, solved, spec,
                             ScalesOf(spec, model, 1, *backend)))
                  .epsilon(bits == 8 ? 0.05 : 0.01));
        for (const char* name : {"up.weight", "down.weight"}) {
          const TensorReport& report = solved.report(name);
          REQUIRE(report.solver.has_value());
          CHECK(report.solver->damping > 0);
          CHECK(report.solver->codes_changed > 0);
          CHECK(report.warnings.empty());
          CHECK(report.algorithm == "gptq-best/2");
          CHECK(RelativeOutputError(report.output_error) <
                RelativeOutputError(report.rtn_output_error));
          // Eight bits may be better off without.
          CHECK((bits == 8 ||
                 report.solver->scale_max > report.solver->scale_min));
        }
      }
    }
  }
}

TEST_CASE("the folded model computes what the model computed") {
  const auto backend = NewCpuBackend(2);
  const Model model;
  const QuantSpec spec = Gptq(Small(8));
  const SolvedGroup solved =
      Solve(spec, model.info, model.weights, model.AllMoments(), *backend);
  Matrix x = model.x;
  const Matrix norm = solved.Folded("norm.weight");
  for (size_t i = 0; i < x.size(); ++i) x[i] *= norm[i % kIn];
  const Matrix inner = Apply(x, solved.Decoded(spec, "up.weight"), kIn);
  const Matrix got = Apply(inner, solved.Decoded(spec, "down.weight"), kInner);
  const Matrix want = Apply(model.Inner(), model.At("down.weight"), kInner);
  // Eight bits and bf16 twice; a scale lost on one side is a factor.
  CHECK(RelativeDistance(want, got) < 0.02);
}

TEST_CASE("scaling first lowers the error") {
  const auto backend = NewCpuBackend(1);
  for (int bits : {3, 4}) {
    GptqSpec plain = Small(bits);
    plain.awq_scaling = false;
    const Model bare(/*folds=*/false);
    const Model model;
    const auto error = [&](const SolvedGroup& solved) {
      double sum = 0;
      for (const char* name : {"up.weight", "down.weight"}) {
        sum += RelativeOutputError(solved.report(name).output_error);
      }
      return sum;
    };
    const double without = error(Solve(Gptq(plain), bare.info, bare.weights,
                                       bare.AllMoments(), *backend));
    const double with =
        error(Solve(Gptq(Small(bits)), model.info, model.weights,
                    model.AllMoments(), *backend));
    INFO(bits << " bits: " << without << " to " << with);
    CHECK(with < without);
  }
}

TEST_CASE("threads, tiles and pieces change no byte") {
  const Model model;
  const QuantSpec spec = Gptq(Small());
  const auto run = [&](int threads, bool tiled) {
    QuantizeOptions options;
    options.tiled_input = tiled;
    return Solve(spec, model.info, model.weights, model.AllMoments(),
                 *NewCpuBackend(threads), options)
        .AllParts();
  };
  const auto want = run(1, false);
  CHECK(run(2, false) == want);
  CHECK(run(2, true) == want);
}

TEST_CASE("without a fold nothing waits for the group") {
  const Model bare(/*folds=*/false);
  const auto group = SolveGroup::Create(Gptq(Small()), bare.info, {});
  REQUIRE(group.ok());
  CHECK_FALSE((*group)->solves_whole());
  const Model model;
  const auto whole = SolveGroup::Create(Gptq(Small()), model.info, {});
  REQUIRE(whole.ok());
  CHECK((*whole)->solves_whole());
  const auto quantizer = *(*whole)->TakeTensor(0);
  std::memcpy(quantizer->input(), model.weights.at("up.weight").data(),
              model.weights.at("up.weight").size());
  CHECK(quantizer->RunTile(0, *NewCpuBackend(1)).code() ==
        absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("groups of columns that end short are not scaled") {
  Model model;
  GptqSpec gptq = Small();
  gptq.group_size = 64;  // 128 is two, 96 is one and a half
  const QuantSpec spec = Gptq(gptq, OutputFormat::kGptqV2);
  const SolvedGroup solved = Solve(spec, model.info, model.weights,
                                   model.AllMoments(), *NewCpuBackend(1));
  CHECK(solved.report("up.weight").solver->scale_max > 1);
  CHECK(solved.report("down.weight").solver->scale_max == 1);
}

TEST_CASE("what cannot be is refused by name") {
  const auto text = [](const absl::Status& status) {
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  QuantSpec spec = Gptq(Small());
  spec.profile = Profile::kReference;
  CHECK(text(ValidateSpec(spec)) ==
        "gptq.awq_scaling: got true, allowed false with the profile REFERENCE");
  GptqSpec plain = Small();
  plain.awq_scaling = false;
  CHECK(text(ValidateGroup(Gptq(plain), Model().info)) ==
        "group \"block\": tensor \"norm.weight\": role: got FOLD_ONLY, allowed "
        "QUANTIZE for gptq without awq_scaling");
  Model model;
  for (GroupSite& site : model.info.sites) site.fold = {};
  CHECK(text(ValidateGroup(Gptq(Small()), model.info)) ==
        "group \"block\": tensor \"norm.weight\": role: got FOLD_ONLY, allowed "
        "QUANTIZE for gptq without a fold");
  // Weights that are not finite, in a scaled site and in one that is not.
  model = Model();
  StoreFromFloat(model.weights["down.weight"].data(), DType::kBF16, 7, NAN);
  CHECK(text(TrySolve(Gptq(Small()), model.info, model.weights,
                      model.AllMoments(), *NewCpuBackend(1))
                 .status()) == "tensor \"down.weight\": NaN at index 7");
}

TEST_CASE("the estimate counts what scaling keeps") {
  Model model;
  model.info.sites[0].inputs = 4096;
  model.info.tensors[0].info.shape = {kInner, 4096};
  model.info.tensors[2].info.shape = {4096};
  const int64_t scaled = *EstimateGroupBytes(Gptq(Small()), model.info, {}, 4);
  const int64_t square = 4096 * 4096;
  CHECK(scaled > 12 * square);  // a moment, a factor, and that in F64
  CHECK(scaled < 12 * square + (64 << 20));
}

}  // namespace
}  // namespace qs::testing

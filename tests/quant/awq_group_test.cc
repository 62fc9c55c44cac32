// AWQ groups as a whole: the model computes the same before and after folding,
// results are the same however they are made, and bad input is refused.
#include "quant/awq_group.h"

#include <atomic>
#include <cmath>
#include <functional>

#include "quant/awq_fold.h"
#include "quant/awq_transform.h"
#include "tests/quant/awq_cases.h"
#include "tests/testing/generators.h"

namespace qs::testing {
namespace {

constexpr int64_t kHidden = 64;
constexpr int64_t kHeads = 4;
constexpr int64_t kKeyHeads = 2;
constexpr int64_t kHeadDim = 16;
constexpr int64_t kInner = 96;
constexpr int64_t kExperts = 4;

// A decoder block without its softmax: what AWQ folds through is linear.
//   a = n1 * x;  v = Wv a + bv;  o = Wo repeat(v)
//   m = n2 * x;  h = act(Wg m) * (Wu m);  d = Wd h;  r = Wr m
struct Block {
  DType dtype = DType::kBF16;
  Weights weights;
  Matrix x;  // [tokens, hidden]

  explicit Block(DType type, uint32_t seed = 1) : dtype(type) {
    x = Tokens(4 * kHidden, kHidden, seed);
    Add("n1.weight", kHidden, 1, 2, 0.5);
    Add("n2.weight", kHidden, 1, 3, 0.5);
    Add("q.weight", kHeads * kHeadDim, kHidden, 4);
    Add("k.weight", kKeyHeads * kHeadDim, kHidden, 5);
    Add("v.weight", kKeyHeads * kHeadDim, kHidden, 6);
    Add("v.bias", kKeyHeads * kHeadDim, 1, 7);
    Add("o.weight", kHidden, kHeads * kHeadDim, 8);
    Add("gate.weight", kInner, kHidden, 9);
    Add("up.weight", kInner, kHidden, 10);
    Add("down.weight", kHidden, kInner, 11);
    Add("router.weight", kExperts, kHidden, 12);
  }

  void Add(const std::string& name, int64_t rows, int64_t cols, uint32_t seed,
           double middle = 0) {
    std::mt19937 random(seed);
    std::normal_distribution<double> gauss;
    std::vector<float> values;
    for (int64_t i = 0; i < rows * cols; ++i) {
      const double wide = i % cols % 11 == 4 ? 0.2 : 0.05;
      values.push_back(static_cast<float>(middle + wide * gauss(random)));
    }
    weights[name] = Stored(values, dtype);
  }

  Matrix At(const std::string& name) const {
    const auto& bytes = weights.at(name);
    return Loaded(bytes.data(), dtype,
                  static_cast<int64_t>(bytes.size()) / DTypeBytes(dtype));
  }
};

struct Outputs {
  Matrix attention, mlp, router;
  Matrix o_input, down_input, attention_input, mlp_input;
};

using Values = std::function<Matrix(const std::string&)>;

Matrix Scaled(const Matrix& x, const Matrix& norm, bool plus_one) {
  Matrix y = x;
  for (size_t i = 0; i < y.size(); ++i) {
    y[i] *= (plus_one ? 1 : 0) + norm[i % norm.size()];
  }
  return y;
}

Outputs Run(const Matrix& x, const Values& at, bool plus_one) {
  Outputs out;
  out.attention_input = Scaled(x, at("n1.weight"), plus_one);
  Matrix v = Apply(out.attention_input, at("v.weight"), kHidden);
  const Matrix bias = at("v.bias");
  for (size_t i = 0; i < v.size(); ++i) v[i] += bias[i % bias.size()];
  const size_t tokens = x.size() / kHidden;
  for (size_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < kHeads * kHeadDim; ++i) {
      const int64_t head = i / kHeadDim / (kHeads / kKeyHeads);
      out.o_input.push_back(
          v[t * bias.size() +
            static_cast<size_t>(head * kHeadDim + i % kHeadDim)]);
    }
  }
  out.attention = Apply(out.o_input, at("o.weight"), kHeads * kHeadDim);
  out.mlp_input = Scaled(x, at("n2.weight"), plus_one);
  const Matrix gate = Apply(out.mlp_input, at("gate.weight"), kHidden);
  out.down_input = Apply(out.mlp_input, at("up.weight"), kHidden);
  for (size_t i = 0; i < gate.size(); ++i) {
    out.down_input[i] *= gate[i] / (1 + std::exp(-gate[i]));
  }
  out.mlp = Apply(out.down_input, at("down.weight"), kInner);
  out.router = Apply(out.mlp_input, at("router.weight"), kHidden);
  return out;
}

GroupInfo BlockGroup(DType dtype, FoldKind norm) {
  GroupInfo info;
  info.name = "block";
  info.sites = {{"attention", kHidden, {}, ""},
                {"mixed", kHeads * kHeadDim, {}, ""},
                {"mlp", kHidden, {}, ""},
                {"inner", kInner, {}, ""}};
  info.sites[0].fold = {norm, "n1.weight", "", 0, 0, 0, {}};
  info.sites[1].fold = {FoldKind::kLinear, "v.weight",         "v.bias", 0,
                        kHeadDim,          kHeads / kKeyHeads, {}};
  info.sites[2].fold = {norm, "n2.weight", "", 0, 0, 0, {"router.weight"}};
  info.sites[3].fold = {FoldKind::kLinear, "up.weight", "", 0, 0, 0, {}};
  const auto add = [&](const std::string& name, int64_t rows, int64_t cols,
                       int site, GroupRole role) {
    std::vector<int64_t> shape = {rows};
    if (cols > 0) shape.push_back(cols);
    info.tensors.push_back({{name, dtype, shape}, site, role});
  };
  const GroupRole fold = GroupRole::kFoldOnly;
  const GroupRole quantize = GroupRole::kQuantize;
  add("n1.weight", kHidden, 0, -1, fold);
  add("q.weight", kHeads * kHeadDim, kHidden, 0, quantize);
  add("k.weight", kKeyHeads * kHeadDim, kHidden, 0, quantize);
  add("v.weight", kKeyHeads * kHeadDim, kHidden, 0, quantize);
  add("v.bias", kKeyHeads * kHeadDim, 0, -1, fold);
  add("o.weight", kHidden, kHeads * kHeadDim, 1, quantize);
  add("n2.weight", kHidden, 0, -1, fold);
  add("router.weight", kExperts, kHidden, 2, fold);
  add("gate.weight", kInner, kHidden, 2, quantize);
  add("up.weight", kInner, kHidden, 2, quantize);
  add("down.weight", kHidden, kInner, 3, quantize);
  return info;
}

Moments BlockMoments(const Block& block, bool plus_one = false) {
  const Outputs out = Run(
      block.x, [&](const std::string& name) { return block.At(name); },
      plus_one);
  Moments moments;
  moments.emplace("attention",
                  MomentsOf("attention", out.attention_input, kHidden));
  moments.emplace("mixed", MomentsOf("mixed", out.o_input, kHidden));
  moments.emplace("mlp", MomentsOf("mlp", out.mlp_input, kHidden));
  moments.emplace("inner", MomentsOf("inner", out.down_input, kInner));
  return moments;
}

AwqSpec SmallSpec(Profile profile, int bits = 4) {
  AwqSpec spec = DefaultAwqSpec(profile);
  spec.bits = bits;
  spec.group_size = 32;
  spec.symmetric = false;
  return spec;
}

// With eight bits what is left is the fold: outputs of the changed model equal
// those of the original as far as eight bits go, and any scale that went
// missing on one side would show as a difference of its own size.
TEST_CASE("the folded block computes what the block computed") {
  const auto backend = NewCpuBackend(2);
  for (DType dtype : kWeightTypes) {
    for (FoldKind norm : {FoldKind::kNorm, FoldKind::kNormPlusOne}) {
      for (Profile profile : {Profile::kBest, Profile::kReference}) {
        const bool plus_one = norm == FoldKind::kNormPlusOne;
        INFO(DTypeName(dtype)
             << (plus_one ? " 1 + w" : "")
             << (profile == Profile::kBest ? " BEST" : " REFERENCE"));
        const Block block(dtype);
        const QuantSpec spec = Awq(SmallSpec(profile, 8), profile);
        const GroupInfo info = BlockGroup(dtype, norm);
        const SolvedGroup solved = Solve(
            spec, info, block.weights, BlockMoments(block, plus_one), *backend);
        const Values after = [&](const std::string& name) {
          return solved.tensors.at(name).tensors.size() == 1
                     ? solved.Folded(name)
                     : solved.Decoded(spec, name);
        };
        const Outputs got = Run(block.x, after, plus_one);
        const Outputs want = Run(
            block.x, [&](const std::string& name) { return block.At(name); },
            plus_one);
        // Norms, routers and decoded weights are in the model's dtype.
        const double step = dtype == DType::kBF16 ? 8e-3 : 4e-3;
        CHECK(RelativeDistance(want.attention, got.attention) <= 2 * step);
        CHECK(RelativeDistance(want.mlp, got.mlp) <= 2 * step);
        // BEST scales by powers of two here: the router's values are exact.
        CHECK(RelativeDistance(want.router, got.router) <=
              (profile == Profile::kBest && !plus_one ? 1e-12 : step));
        const SolverFacts facts = *solved.report("o.weight").solver;
        const bool scaled = facts.scale_max > 1.01 * facts.scale_min;
        CHECK(scaled == (profile == Profile::kBest));  // grouped attention
        CHECK(solved.report("down.weight").solver->scale_max >
              solved.report("down.weight").solver->scale_min);
      }
    }
  }
}

// The same with nothing quantized: scales by hand, to 1e-4 and beyond.
TEST_CASE("folding alone changes no output") {
  const DType dtype = DType::kF32;
  const Block block(dtype);
  const GroupInfo info = BlockGroup(dtype, FoldKind::kNorm);
  std::vector<AwqTransform> transforms(info.tensors.size());
  const auto values = [&](size_t t) {
    const Matrix m = block.At(info.tensors[t].info.name);
    return std::vector<float>(m.begin(), m.end());
  };
  std::mt19937 random(9);
  std::normal_distribution<float> gauss;
  for (size_t s = 0; s < info.sites.size(); ++s) {
    const AwqFold fold(info, s, Profile::kBest, values);
    std::vector<float> scales;
    for (int64_t k = 0; k < info.sites[s].inputs; ++k) {
      scales.push_back(std::exp(2 * gauss(random)));
    }
    fold.Tie(scales);
    fold.Adjust(scales);
    fold.Apply(scales, &transforms);
  }
  const Values after = [&](const std::string& name) {
    size_t t = 0;
    while (info.tensors[t].info.name != name) ++t;
    const MatrixShape shape = AsMatrix(info.tensors[t].info.shape);
    std::vector<float> out(static_cast<size_t>(shape.rows * shape.cols));
    TransformRows(
        transforms[t],
        {block.weights.at(name).data(), dtype, shape.rows, shape.cols}, 0,
        false, {out.data(), DType::kF32, shape.rows, shape.cols});
    return Matrix(out.begin(), out.end());
  };
  const Outputs got = Run(block.x, after, false);
  const Outputs want = Run(
      block.x, [&](const std::string& name) { return block.At(name); }, false);
  CHECK(RelativeDistance(want.attention, got.attention) <= 1e-6);
  CHECK(RelativeDistance(want.mlp, got.mlp) <= 1e-6);
  CHECK(RelativeDistance(want.router, got.router) <= 1e-6);
}

TEST_CASE("a group is the same on any number of threads and way of filling") {
  const Block block(DType::kBF16);
  const GroupInfo info = BlockGroup(DType::kBF16, FoldKind::kNorm);
  for (Profile profile : {Profile::kBest, Profile::kReference}) {
    const QuantSpec spec = Awq(SmallSpec(profile), profile);
    const auto want =
        Solve(spec, info, block.weights, BlockMoments(block), *NewCpuBackend(1))
            .AllParts();
    for (int threads : {2, 5}) {
      for (bool tiled : {false, true}) {
        QuantizeOptions options;
        options.tiled_input = tiled;
        CHECK(Solve(spec, info, block.weights, BlockMoments(block),
                    *NewCpuBackend(threads), options)
                  .AllParts() == want);
      }
    }
    QuantizeOptions silent;
    silent.error_report = false;
    CHECK(Solve(spec, info, block.weights, BlockMoments(block),
                *NewCpuBackend(1), silent)
              .AllParts() == want);
  }
}

TEST_CASE("how far Solve is moves on in small steps") {
  const Block block(DType::kBF16);
  const GroupInfo info = BlockGroup(DType::kBF16, FoldKind::kNorm);
  GptqSpec gptq = DefaultGptqSpec(Profile::kBest);
  gptq.group_size = 32;
  for (const QuantSpec& spec :
       {Awq(SmallSpec(Profile::kBest), Profile::kBest),
        Awq(SmallSpec(Profile::kReference), Profile::kReference),
        QuantSpec{gptq, Profile::kBest, OutputFormat::kCompressedTensors}}) {
    INFO(SpecAlgorithm(spec));
    std::vector<double> told;
    QuantizeOptions options;
    options.on_shared = [&](double done) { told.push_back(done); };
    Solve(spec, info, block.weights, BlockMoments(block), *NewCpuBackend(1),
          options);
    REQUIRE(told.size() > 50);
    CHECK(told.front() == 0);
    CHECK(told.back() == 1);
    for (size_t i = 1; i < told.size(); ++i) {
      CHECK(told[i] >= told[i - 1]);
      // A site that is not scaled is one step.
      CHECK(told[i] - told[i - 1] < 0.2);
    }
  }
}

TEST_CASE("output errors are those of the decoded weights, and below RTN's") {
  const Block block(DType::kBF16);
  const GroupInfo info = BlockGroup(DType::kBF16, FoldKind::kNorm);
  const auto backend = NewCpuBackend(2);
  for (bool solve : {true, false}) {
    AwqSpec awq = SmallSpec(Profile::kBest);
    awq.solve_codes = solve;
    const QuantSpec spec = Awq(awq, Profile::kBest);
    const SolvedGroup solved =
        Solve(spec, info, block.weights, BlockMoments(block), *backend);
    for (const GroupTensor& tensor : info.tensors) {
      if (tensor.role == GroupRole::kFoldOnly) continue;
      const TensorReport& report = solved.report(tensor.info.name);
      INFO(tensor.info.name << (solve ? " solved" : " rounded"));
      CHECK(report.has_output_error);
      CHECK(report.tokens == 4 * kHidden);
      CHECK(report.output_error.signal > 0);
      CHECK(report.output_error.error <= report.rtn_output_error.error);
      CHECK(RelativeOutputError(report.output_error) < 0.05);
      CHECK(report.error.count == AsMatrix(tensor.info.shape).rows *
                                      AsMatrix(tensor.info.shape).cols);
      int64_t groups = 0;
      for (int64_t n : report.solver->clip_histogram) groups += n;
      CHECK(groups == report.error.count / 32);
      if (solve) {
        CHECK(report.solver->codes_changed > 0);
        CHECK(report.solver->damping >= 0.0099);
      }
    }
    // Through the original input, from the file: q's columns were multiplied.
    const Matrix q = block.At("q.weight");
    const Matrix norm_before = block.At("n1.weight");
    const Matrix norm_after = solved.Folded("n1.weight");
    Matrix decoded = solved.Decoded(spec, "q.weight");
    for (size_t i = 0; i < decoded.size(); ++i) {
      decoded[i] *= norm_after[i % kHidden] / norm_before[i % kHidden];
    }
    const Outputs out = Run(
        block.x, [&](const std::string& name) { return block.At(name); },
        false);
    const double distance =
        RelativeDistance(Apply(out.attention_input, q, kHidden),
                         Apply(out.attention_input, decoded, kHidden));
    CHECK(distance * distance ==
          Approx(RelativeOutputError(solved.report("q.weight").output_error))
              .epsilon(0.02));
  }
}

// One site, one linear, no fold.
GroupInfo Single(int64_t rows, int64_t cols, DType dtype = DType::kBF16) {
  GroupInfo info;
  info.name = "single";
  info.sites = {{"in", cols, {}, ""}};
  info.tensors = {{{"w.weight", dtype, {rows, cols}}, 0, GroupRole::kQuantize}};
  return info;
}

TEST_CASE("zero, constant and one-signed groups, and inputs that are dead") {
  const int64_t cols = 128;
  const auto backend = NewCpuBackend(1);
  Matrix x = Tokens(200, cols, 5);
  for (size_t i = 0; i < x.size(); ++i) {
    if (i % cols >= 96) x[i] = 0;  // a whole group
  }
  std::vector<float> w;
  std::mt19937 random(2);
  std::normal_distribution<float> gauss;
  for (int64_t r = 0; r < 64; ++r) {
    for (int64_t k = 0; k < cols; ++k) {
      const float g = 0.02f * gauss(random);
      w.push_back(r == 0   ? 0.0f
                  : r == 1 ? 0.37f
                  : r == 2 ? -std::fabs(g)
                  : r == 3 ? 1e-30f
                           : g);
    }
  }
  for (Profile profile : {Profile::kBest, Profile::kReference}) {
    for (bool symmetric : {true, false}) {
      for (OutputFormat format :
           {OutputFormat::kCompressedTensors, OutputFormat::kAwqGemm}) {
        AwqSpec awq = SmallSpec(profile);
        awq.symmetric = symmetric;
        const QuantSpec spec = Awq(awq, profile, format);
        Moments moments;
        moments.emplace("in", MomentsOf("in", x, cols));
        const SolvedGroup solved = Solve(
            spec, Single(64, cols), {{"w.weight", Stored(w, DType::kBF16)}},
            std::move(moments), *backend);
        for (double v : solved.Decoded(spec, "w.weight")) {
          REQUIRE(std::isfinite(v));
        }
        const TensorReport& report = solved.report("w.weight");
        CHECK(report.solver->scale_min == 1);
        CHECK(report.solver->scale_max == 1);
        if (profile == Profile::kBest) {
          CHECK(report.output_error.error <= report.rtn_output_error.error);
          CHECK(solved.Decoded(spec, "w.weight")[5] == 0);
        }
      }
    }
  }
}

TEST_CASE("fewer tokens than inputs, and one that drowns all others") {
  const int64_t cols = 128;
  const auto backend = NewCpuBackend(1);
  const auto bytes = Gaussian(64 * cols, DType::kBF16, 4);
  for (int64_t tokens : {1, 20, 300}) {
    Matrix x = Tokens(tokens, cols, 5);
    if (tokens == 300) {
      for (size_t i = 0; i < x.size(); ++i) x[i] += 1000;
    }
    Moments moments;
    moments.emplace("in", MomentsOf("in", x, cols));
    const QuantSpec spec = Awq(SmallSpec(Profile::kBest), Profile::kBest);
    const SolvedGroup solved =
        Solve(spec, Single(64, cols), {{"w.weight", bytes}}, std::move(moments),
              *backend);
    const TensorReport& report = solved.report("w.weight");
    INFO(tokens << " tokens");
    CHECK(report.output_error.error <= report.rtn_output_error.error);
    CHECK(report.tokens == tokens);
  }
}

TEST_CASE("a calibration that changes nothing is a warning") {
  const int64_t cols = 128;
  const auto backend = NewCpuBackend(1);
  const auto bytes = Gaussian(64 * cols, DType::kBF16, 4);
  for (bool clip : {false, true}) {
    for (bool symmetric : {false, true}) {
      // Alone, the linear has nothing to fold scales into.
      AwqSpec awq = SmallSpec(Profile::kReference);
      awq.clip = clip;
      awq.symmetric = symmetric;
      Moments moments;
      moments.emplace("in", MomentsOf("in", Tokens(300, cols, 5), cols));
      const SolvedGroup solved =
          Solve(Awq(awq, Profile::kReference), Single(64, cols),
                {{"w.weight", bytes}}, std::move(moments), *backend);
      const auto& warnings = solved.report("w.weight").warnings;
      INFO("clip " << clip << ", symmetric " << symmetric);
      if (clip) {
        CHECK(warnings.empty());
      } else {
        REQUIRE(warnings.size() == 1);
        CHECK(warnings[0].find("NO_CHANGE: ") == 0);
      }
    }
  }
}

TEST_CASE("one group a row, and rows that fill no tile") {
  const auto backend = NewCpuBackend(1);
  const auto bytes = Gaussian(45 * 96, DType::kF16, 4);
  for (Profile profile : {Profile::kBest, Profile::kReference}) {
    AwqSpec awq = SmallSpec(profile, 3);
    awq.group_size = -1;
    const QuantSpec spec = Awq(awq, profile);
    Moments moments;
    moments.emplace("in", MomentsOf("in", Tokens(400, 96, 5), 96));
    const SolvedGroup solved =
        Solve(spec, Single(45, 96, DType::kF16), {{"w.weight", bytes}},
              std::move(moments), *backend);
    const TensorReport& report = solved.report("w.weight");
    CHECK(solved.Decoded(spec, "w.weight").size() == 45 * 96);
    CHECK(report.output_error.error < report.rtn_output_error.error);
    const TensorInfo info = {report.name, report.dtype, report.shape};
    CHECK(report.bytes_out == *OutputBytes(spec, info));
  }
}

TEST_CASE("what cannot be solved is refused by name") {
  const auto backend = NewCpuBackend(1);
  const int64_t cols = 64;
  const Matrix x = Tokens(100, cols, 5);
  const auto solve = [&](const GroupInfo& info, const std::vector<float>& w,
                         SiteMoments moments, const QuantSpec& spec,
                         const QuantizeOptions& options = {}) {
    Moments all;
    all.emplace("in", std::move(moments));
    return TrySolve(spec, info, {{"w.weight", Stored(w, DType::kBF16)}},
                    std::move(all), *backend, options)
        .status();
  };
  const QuantSpec spec = Awq(SmallSpec(Profile::kBest), Profile::kBest);
  std::vector<float> w(32 * 64, 0.5f);
  const auto text = [](const absl::Status& status) {
    return std::string(status.message());
  };
  w[100] = NAN;
  w[700] = INFINITY;
  absl::Status status =
      solve(Single(32, cols), w, MomentsOf("in", x, cols), spec);
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(text(status) == "tensor \"w.weight\": NaN at index 100");
  w[100] = 0;
  status = solve(Single(32, cols), w, MomentsOf("in", x, cols), spec);
  CHECK(text(status) == "tensor \"w.weight\": Inf at index 700");
  w[700] = 0;
  // No tokens.
  status = solve(Single(32, cols), w, *SiteMoments::Create("in", cols), spec);
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(text(status).find("\"in\"") != std::string::npos);
  // A group size that does not divide.
  AwqSpec odd = SmallSpec(Profile::kBest);
  odd.group_size = 48;
  status = solve(Single(32, cols), w, MomentsOf("in", x, cols),
                 Awq(odd, Profile::kBest));
  CHECK(text(status).find("awq.group_size: got 48") != std::string::npos);
  // Stopped by its owner.
  const std::atomic<bool> cancelled{true};
  QuantizeOptions options;
  options.cancelled = &cancelled;
  status = solve(Single(32, cols), w, MomentsOf("in", x, cols), spec, options);
  CHECK(status.code() == absl::StatusCode::kCancelled);
  // Without a group.
  CHECK(text(TensorQuantizer::Create(spec, {"w.weight", DType::kBF16, {32, 64}},
                                     {})
                 .status())
            .find("got no group") != std::string::npos);
}

TEST_CASE("tiles before Solve, and Solve before all tensors, are refused") {
  const QuantSpec spec = Awq(SmallSpec(Profile::kBest), Profile::kBest);
  const auto backend = NewCpuBackend(1);
  auto group = *SolveGroup::Create(spec, Single(32, 64), {});
  group->site(0)->Fill(MomentsOf("in", Tokens(100, 64, 5), 64));
  CHECK(group->Solve(*backend).code() == absl::StatusCode::kFailedPrecondition);
  auto quantizer = *group->TakeTensor(0);
  CHECK(quantizer->RunTile(0, *backend).code() ==
        absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("the estimate covers sites and all input") {
  GroupInfo info = Single(512, 2048);
  const QuantSpec spec = Awq(SmallSpec(Profile::kBest), Profile::kBest);
  const int64_t bytes = *EstimateGroupBytes(spec, info, {}, 4);
  CHECK(bytes >= 12 * 2048 * 2048 + 2 * 512 * 2048);
  CHECK(bytes <= 12 * 2048 * 2048 + (64 << 20));
}

TEST_CASE("the estimate of many experts counts the tiles that run at once") {
  // A layer of 128 experts, 2048 by 768.
  GroupInfo info;
  info.name = "experts";
  info.sites = {{"in", 2048, {}, ""}};
  for (int e = 0; e < 128; ++e) {
    const std::string name = std::to_string(e);
    info.sites.push_back({"mid" + name, 768, {}, ""});
    for (const char* part : {"gate", "up"}) {
      info.tensors.push_back(
          {{part + name + ".weight", DType::kBF16, {768, 2048}},
           0,
           GroupRole::kQuantize});
    }
    info.tensors.push_back(
        {{"down" + name + ".weight", DType::kBF16, {2048, 768}},
         e + 1,
         GroupRole::kQuantize});
  }
  const QuantSpec spec = Awq(SmallSpec(Profile::kBest), Profile::kBest);
  const int64_t weights = int64_t{2} * 3 * 128 * 768 * 2048;
  const int64_t moments = 8 * (int64_t{2048} * 2048 + 128 * 768 * 768);
  const int64_t few = *EstimateGroupBytes(spec, info, {}, 2);
  const int64_t many = *EstimateGroupBytes(spec, info, {}, 40);
  CHECK(few > weights + moments);
  CHECK(few < 3 * (weights + moments));
  CHECK(many > few);
  CHECK(many < 4 * (weights + moments));
}

}  // namespace
}  // namespace qs::testing

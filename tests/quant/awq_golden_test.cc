// The scale search and a whole REFERENCE group against AutoAWQ 0.2.9.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "quant/awq_scales.h"
#include "tests/quant/awq_cases.h"
#include "tests/testing/golden_file.h"

namespace qs::testing {
namespace {

struct Case {
  explicit Case(const std::string& path) : file(ReadGolden(path)) {
    const std::string text = file.metadata.at("params");
    params = nlohmann::json::parse(text);
    rows = at("weight").shape[0];
    cols = at("weight").shape[1];
    dtype = *ParseDType(at("weight").dtype);
  }
  bool IsSearch() const { return file.metadata.at("role") == "case"; }
  const GoldenTensor& at(const std::string& name) const {
    return file.tensors.at(name);
  }
  std::vector<float> Floats(const std::string& name) const {
    std::vector<float> values;
    for (int64_t i = 0; i < at(name).count(); ++i) {
      values.push_back(
          LoadAsFloat(at(name).bytes.data(), *ParseDType(at(name).dtype), i));
    }
    return values;
  }
  int BestIndex() const {
    const std::string text = file.metadata.at("best_index");
    return std::stoi(text);
  }
  bool ZeroPoint() const { return params.at("zero_point"); }
  SiteMoments MakeMoments() const {
    const std::vector<float> x = Floats("x");
    return MomentsOf("in", {x.begin(), x.end()}, cols);
  }
  AwqSpec Spec() const {
    AwqSpec spec = DefaultAwqSpec(Profile::kReference);
    spec.group_size = params.at("group_size");
    spec.symmetric = !ZeroPoint();
    spec.duo_scaling = params.at("duo_scaling");
    return spec;
  }

  GoldenFile file;
  nlohmann::json params;
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kF32;
};

struct Tolerance {
  double loss;
  double scale;
};
Tolerance ToleranceOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {2e-6, 1e-5};
    case DType::kF16:
      return {5e-4, 0x1p-10};
    default:
      return {5e-3, 0x1p-7};
  }
}

void CheckSearch(const Case& c, Backend& backend) {
  const std::vector<float> x_mean = c.Floats("x_mean");
  const std::vector<float> w_mean = c.Floats("w_mean");
  std::vector<float> scales;
  for (int i = 0; i < 20; ++i) {
    const std::vector<float> s = AwqCandidate(
        x_mean, w_mean, i / 20.0, c.params.at("duo_scaling"), c.dtype);
    scales.insert(scales.end(), s.begin(), s.end());
  }
  const SiteMoments moments = c.MakeMoments();
  const TensorView weight = {c.at("weight").bytes.data(), c.dtype, c.rows,
                             c.cols};
  std::vector<double> losses(20);
  AwqScaleLossArgs args;
  args.weights = {&weight, 1};
  args.grid = {4, c.params.at("group_size"), !c.ZeroPoint(), AwqRule::kAutoAwq,
               c.dtype};
  args.scales = scales.data();
  args.candidates = 20;
  args.second_moment = moments.second_moment();
  args.losses = losses.data();
  REQUIRE(backend.awq().ScaleLosses(args, backend.stream()).ok());

  const Tolerance tolerance = ToleranceOf(c.dtype);
  const double outputs = static_cast<double>(moments.tokens() * c.rows);
  const auto* want = c.at("loss_by_ratio").As<double>();
  for (size_t i = 0; i < 20; ++i) {
    INFO("ratio " << i << " / 20");
    CHECK(std::fabs(losses[i] / outputs - want[i]) <= tolerance.loss * want[i]);
  }
  const auto best =
      std::min_element(losses.begin(), losses.end()) - losses.begin();
  CHECK(best == c.BestIndex());
  const std::vector<float> chosen = c.Floats("scales_awq");
  for (int64_t k = 0; k < c.cols; ++k) {
    const float got = scales[static_cast<size_t>(best * c.cols + k)];
    const float expected = chosen[static_cast<size_t>(k)];
    INFO("column " << k);
    REQUIRE(std::fabs(got - expected) <= tolerance.scale * expected);
  }
}

TEST_CASE("AutoAWQ's losses, best ratio and scales") {
  int cases = 0;
  for (const std::string& path : GoldenPaths("golden/awq")) {
    const Case c(path);
    if (!c.IsSearch()) continue;
    ++cases;
    INFO(path);
    CheckSearch(c, *NewReferenceBackend());
  }
  CHECK(cases == 10);
}

GroupInfo Group(const Case& c) {
  GroupInfo info;
  info.name = "golden";
  info.sites = {{"in", c.cols, {}, ""}};
  info.sites[0].fold.kind = FoldKind::kNorm;
  info.sites[0].fold.producer = "norm.weight";
  info.tensors = {
      {{"norm.weight", c.dtype, {c.cols}}, -1, GroupRole::kFoldOnly},
      {{"linear.weight", c.dtype, {c.rows, c.cols}}, 0, GroupRole::kQuantize}};
  return info;
}

TEST_CASE("a REFERENCE group gives AutoAWQ's norm, scales and codes") {
  const auto backend = NewCpuBackend(2);
  for (const std::string& path : GoldenPaths("golden/awq")) {
    const Case c(path);
    // BF16 models get BF16 scales, AutoAWQ's are F16.
    if (!c.IsSearch() || !c.ZeroPoint() || c.dtype == DType::kBF16) continue;
    INFO(path);
    const QuantSpec spec =
        Awq(c.Spec(), Profile::kReference, OutputFormat::kAwqGemm);
    Moments moments;
    moments.emplace("in", c.MakeMoments());
    const SolvedGroup solved =
        Solve(spec, Group(c),
              {{"norm.weight", c.at("norm_weight").bytes},
               {"linear.weight", c.at("weight").bytes}},
              std::move(moments), *backend);
    const Matrix norm = solved.Folded("norm.weight");
    const std::vector<float> want = c.Floats("norm_weight_scaled");
    for (size_t k = 0; k < norm.size(); ++k) {
      REQUIRE(std::fabs(norm[k] - want[k]) <=
              ToleranceOf(c.dtype).scale * std::fabs(want[k]));
    }
    // A scale one unit off moves a few weights across a rounding border, and
    // the zero point of a group clipped on both sides is a tie (7.5) that the
    // last bit decides: then the whole group's codes move.
    const auto parts = solved.AllParts();
    const std::vector<uint8_t>& codes = parts.at("linear.qweight");
    const std::vector<uint8_t>& golden = c.at("qweight").bytes;
    REQUIRE(codes.size() == golden.size());
    int64_t different = 0;
    for (size_t i = 0; i < codes.size(); ++i) {
      different += (codes[i] & 15) != (golden[i] & 15);
      different += codes[i] >> 4 != golden[i] >> 4;
    }
    const double share =
        static_cast<double>(different) / static_cast<double>(2 * codes.size());
    CHECK(share <= (c.dtype == DType::kF32 ? 5e-3 : 2e-2));
    const std::string error = c.file.metadata.at("output_error_rel");
    CHECK(RelativeOutputError(solved.report("linear.weight").output_error) <=
          1.01 * std::stod(error));
    CHECK(RelativeOutputError(solved.report("linear.weight").output_error) >=
          0.99 * std::stod(error));
  }
}

}  // namespace
}  // namespace qs::testing

// Every SIMD target and thread count against the reference: grids, codes and
// decoded values with ==, losses and clip errors within what F32 sums lose.
#include <cmath>
#include <vector>

#include "kernels/backend.h"
#include "tests/testing/awq_cases.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

using namespace awq_cases;

TEST_CASE("AWQ grids, codes and means are the reference's bytes") {
  const auto reference = NewReferenceBackend();
  const auto two = NewCpuBackend(2);
  ForCases([&](const Case& c) {
    INFO(c.Describe());
    const Codes want = RunElementwise(*reference, c);
    for (const std::string& target : SimdTargets()) {
      INFO("target " << target);
      REQUIRE(ForceSimdTargetForTest(target).ok());
      REQUIRE(RunElementwise(*two, c) == want);
      REQUIRE(ForceSimdTargetForTest("").ok());
    }
  });
}

TEST_CASE("AWQ losses are the reference's") {
  const auto reference = NewReferenceBackend();
  const auto one = NewCpuBackend(1);
  ForCases([&](const Case& c) {
    if (c.grid.bits == 8 || c.huge) return;
    INFO(c.Describe());
    for (int64_t stride : {1, 3}) {
      const std::vector<double> want = RunLosses(*reference, c, false, stride);
      const std::vector<double> factored =
          RunLosses(*reference, c, true, stride);
      const std::vector<double> through_h = RunLosses(*one, c, false, stride);
      const std::vector<double> through_r = RunLosses(*one, c, true, stride);
      for (size_t i = 0; i < want.size(); ++i) {
        INFO("stride " << stride << " candidate " << i);
        CHECK(std::fabs(factored[i] - want[i]) <=
              kAwqFactorTolerance * want[i]);
        CHECK(std::fabs(through_h[i] - want[i]) <= kAwqLossTolerance * want[i]);
        CHECK(std::fabs(through_r[i] - factored[i]) <=
              kAwqLossTolerance * want[i]);
      }
    }
  });
}

TEST_CASE("what solved codes can be expected to leave is the reference's") {
  const auto reference = NewReferenceBackend();
  const auto two = NewCpuBackend(2);
  ForCases([&](const Case& c) {
    if (c.huge) return;
    INFO(c.Describe());
    const TensorView weight = c.weight.View(c.rows);
    std::vector<float> curvature;
    for (float s : c.input.scales) curvature.push_back(3 * s);
    double want = 0, got = 0;
    AwqScaleLossArgs args;
    args.weights = {&weight, 1};
    args.grid = c.grid;
    args.scales = c.input.scales.data();
    args.candidates = 1;
    args.curvature = curvature.data();
    args.row_stride = 2;
    args.losses = &want;
    REQUIRE(reference->awq().ScaleLosses(args, reference->stream()).ok());
    args.losses = &got;
    REQUIRE(two->awq().ScaleLosses(args, two->stream()).ok());
    CHECK(want > 0);
    CHECK(std::fabs(got - want) <= 1e-12 * want);  // all sums in double
  });
}

TEST_CASE("AWQ clip limits are as good as the reference's") {
  const auto reference = NewReferenceBackend();
  const auto one = NewCpuBackend(1);
  ForCases([&](const Case& c) {
    if (c.grid.bits == 8 || c.input.n == 96 || c.huge) return;
    INFO(c.Describe());
    const std::vector<double> want = ClipErrors(c, RunClip(*reference, c));
    const std::vector<double> got = ClipErrors(c, RunClip(*one, c));
    const std::vector<double> whole =
        ClipErrors(c, {std::vector<float>(c.groups(), -INFINITY),
                       std::vector<float>(c.groups(), INFINITY)});
    for (size_t g = 0; g < got.size(); ++g) {
      INFO("group " << g);
      // A near tie may go the other way, and then a later round starts from
      // another place.
      const double slack = c.grid.rule == AwqRule::kBest ? 0.05 : 1e-5;
      CHECK(got[g] <= want[g] * (1 + slack) + 1e-30);
      CHECK(got[g] <= whole[g] * (1 + 1e-5) + 1e-30);
    }
  });
}

TEST_CASE("AWQ results do not depend on the number of threads") {
  const Input input(256, 300, 3);
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 700 * 256, Kind::kGauss, 5);
  const auto one = NewCpuBackend(1);
  for (AwqRule rule : {AwqRule::kAutoAwq, AwqRule::kBest}) {
    const Case c{weight, input, 700, {4, 128, false, rule, DType::kBF16}};
    const auto losses = RunLosses(*one, c, true, 1);
    const auto through_h = RunLosses(*one, c, false, 2);
    const auto limits = RunClip(*one, c);
    for (int threads : {2, 3, 8}) {
      const auto many = NewCpuBackend(threads);
      CHECK(RunLosses(*many, c, true, 1) == losses);
      CHECK(RunLosses(*many, c, false, 2) == through_h);
      CHECK(RunClip(*many, c) == limits);
    }
  }
}

TEST_CASE("AWQ operations stop when a checkpoint says so") {
  const Input input(64, 80, 3);
  const TestTensor weight =
      TestTensor::Make(DType::kF32, 8 * 64, Kind::kGauss, 5);
  const TensorView view = weight.View(8);
  const auto stop = [](double) { return absl::CancelledError("stop"); };
  std::vector<float> low(16), high(16);
  double loss = 0;
  for (const auto& backend : AllBackends()) {
    AwqScaleLossArgs losses;
    losses.weights = {&view, 1};
    losses.grid = {4, 32, false, AwqRule::kBest, DType::kF32};
    losses.scales = input.scales.data();
    losses.candidates = 1;
    losses.second_moment = input.moment.data();
    losses.losses = &loss;
    losses.checkpoint = stop;
    CHECK(backend->awq().ScaleLosses(losses, backend->stream()).code() ==
          absl::StatusCode::kCancelled);
    AwqClipArgs clip;
    clip.weight = view;
    clip.grid = losses.grid;
    clip.second_moment = input.moment.data();
    clip.low = low.data();
    clip.high = high.data();
    clip.checkpoint = stop;
    CHECK(backend->awq().ClipSearch(clip, backend->stream()).code() ==
          absl::StatusCode::kCancelled);
  }
}

TEST_CASE("wrong AWQ arguments are refused") {
  const TestTensor weight =
      TestTensor::Make(DType::kF32, 8 * 64, Kind::kGauss, 5);
  const TensorView views[] = {weight.View(8), weight.View(4)};
  const auto message = [](const absl::Status& status) {
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  for (const auto& backend : AllBackends()) {
    AwqScaleLossArgs args;
    args.weights = {views, 1};
    args.grid = {4, 32, false, AwqRule::kBest, DType::kF32};
    CHECK(message(backend->awq().ScaleLosses(args, backend->stream()))
              .find("second_moment, factor, curvature: got 0") == 0);
    const float moment[1] = {};
    args.second_moment = moment;
    args.row_stride = 0;
    CHECK(message(backend->awq().ScaleLosses(args, backend->stream()))
              .find("row_stride: got 0") == 0);
    args.row_stride = 1;
    args.weights = {views, 2};
    CHECK(message(backend->awq().ScaleLosses(args, backend->stream()))
              .find("weights: got 128 columns beside 64") == 0);
    args.weights = {};
    CHECK(message(backend->awq().ScaleLosses(args, backend->stream()))
              .find("weights: got none") == 0);
    AwqQuantizeArgs quantize;
    quantize.weight = views[0];
    quantize.grid = {4, 48, false, AwqRule::kBest, DType::kF32};
    CHECK(message(backend->awq().Quantize(quantize, backend->stream()))
              .find("group_size: got 48") == 0);
    quantize.grid = {4, 32, false, AwqRule::kBest, DType::kI32};
    CHECK(message(backend->awq().Quantize(quantize, backend->stream()))
              .find("scale_dtype: got I32") == 0);
    quantize.grid = {9, 32, false, AwqRule::kBest, DType::kF32};
    CHECK(message(backend->awq().Quantize(quantize, backend->stream()))
              .find("bits: got 9") == 0);
  }
}

}  // namespace
}  // namespace qs

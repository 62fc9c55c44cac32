// Every SIMD target and thread count against the reference: grids, codes and
// decoded values with ==, losses and clip errors within what F32 sums lose.
#include <cmath>
#include <random>
#include <sstream>
#include <vector>

#include "kernels/backend.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

// What a site gives: H of random tokens with a few loud columns, its factor,
// and scales.
struct Input {
  Input(int64_t size, int64_t tokens, uint64_t seed) : n(size) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> gauss;
    std::vector<double> x(static_cast<size_t>(tokens * n));
    for (int64_t i = 0; i < tokens * n; ++i) {
      x[static_cast<size_t>(i)] = gauss(random) * (i % n % 13 == 0 ? 9 : 1);
    }
    moment.resize(static_cast<size_t>(n * n));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t t = 0; t < tokens; ++t) {
          sum += x[static_cast<size_t>(t * n + i)] *
                 x[static_cast<size_t>(t * n + j)];
        }
        moment[static_cast<size_t>(i * n + j)] = static_cast<float>(sum);
      }
      scales.push_back(static_cast<float>(std::exp(gauss(random))));
    }
    factor = ReversedCholesky();
  }

  // H = R R^T, R upper triangular.
  std::vector<float> ReversedCholesky() const {
    std::vector<double> r(moment.begin(), moment.end());
    const auto at = [&](int64_t i, int64_t j) -> double& {
      return r[static_cast<size_t>(i * n + j)];
    };
    for (int64_t j = n - 1; j >= 0; --j) {
      for (int64_t k = j + 1; k < n; ++k) at(j, j) -= at(j, k) * at(j, k);
      at(j, j) = std::sqrt(at(j, j));
      for (int64_t i = 0; i < j; ++i) {
        for (int64_t k = j + 1; k < n; ++k) at(i, j) -= at(i, k) * at(j, k);
        at(i, j) /= at(j, j);
      }
    }
    std::vector<float> out(r.begin(), r.end());
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) out[static_cast<size_t>(i * n + j)] = 0;
    }
    return out;
  }

  const int64_t n;
  std::vector<float> moment, factor, scales;
};

struct Case {
  const TestTensor& weight;
  const Input& input;
  int64_t rows;
  AwqGridSpec grid;
  bool huge = false;  // squares leave F32

  std::string Describe() const {
    std::ostringstream text;
    text << DTypeName(weight.View().dtype) << " [" << rows << ", " << input.n
         << "] group " << grid.group_size << " bits " << grid.bits
         << (grid.symmetric ? " symmetric" : " asymmetric") << " rule "
         << static_cast<int>(grid.rule) << " scales "
         << DTypeName(grid.scale_dtype);
    return text.str();
  }
  size_t groups() const {
    return static_cast<size_t>(rows * input.n / grid.group_size);
  }
};

struct Codes {
  std::vector<uint8_t> codes, scales, zero_points;
  std::vector<uint32_t> decoded;  // bits
  std::vector<float> w_mean;
  bool operator==(const Codes&) const = default;
};

Codes RunElementwise(Backend& backend, const Case& c) {
  Codes out;
  out.codes.resize(static_cast<size_t>(c.weight.count()));
  out.decoded.resize(out.codes.size());
  out.zero_points.resize(c.groups());
  out.scales.resize(c.groups() *
                    static_cast<size_t>(DTypeBytes(c.grid.scale_dtype)));
  out.w_mean.resize(static_cast<size_t>(c.input.n));
  const std::vector<float> high(c.groups(), 0.015f);
  const std::vector<float> low(c.groups(), -0.02f);
  AwqQuantizeArgs args;
  args.weight = c.weight.View(c.rows);
  args.grid = c.grid;
  args.scales = c.input.scales.data();
  args.low = c.grid.bits % 2 == 0 ? nullptr : low.data();
  args.high = c.grid.bits % 2 == 0 ? nullptr : high.data();
  args.codes = out.codes.data();
  args.group_scales = out.scales.data();
  args.zero_points = out.zero_points.data();
  args.decoded = reinterpret_cast<float*>(out.decoded.data());
  REQUIRE(backend.awq().Quantize(args, backend.stream()).ok());
  const TensorView weights[] = {args.weight, args.weight};
  REQUIRE(backend.awq()
              .Statistics({weights, c.grid.group_size, out.w_mean.data()},
                          backend.stream())
              .ok());
  return out;
}

std::vector<double> RunLosses(Backend& backend, const Case& c, bool factored,
                              int64_t stride) {
  std::vector<float> scales(c.input.scales);
  for (float s : c.input.scales) scales.push_back(std::sqrt(s));
  std::vector<double> losses(2);
  const TensorView weights[] = {c.weight.View(c.rows), c.weight.View(c.rows)};
  AwqScaleLossArgs args;
  args.weights = weights;
  args.grid = c.grid;
  args.scales = scales.data();
  args.candidates = 2;
  args.second_moment = factored ? nullptr : c.input.moment.data();
  args.factor = factored ? c.input.factor.data() : nullptr;
  args.row_stride = stride;
  args.losses = losses.data();
  REQUIRE(backend.awq().ScaleLosses(args, backend.stream()).ok());
  return losses;
}

struct Limits {
  std::vector<float> low, high;
  bool operator==(const Limits&) const = default;
};

Limits RunClip(Backend& backend, const Case& c) {
  Limits limits;
  limits.low.resize(c.groups());
  limits.high.resize(c.groups());
  AwqClipArgs args;
  args.weight = c.weight.View(c.rows);
  args.grid = c.grid;
  args.scales = c.input.scales.data();
  args.second_moment = c.input.moment.data();
  args.low = limits.low.data();
  args.high = limits.high.data();
  REQUIRE(backend.awq().ClipSearch(args, backend.stream()).ok());
  return limits;
}

// d H_gg d^T of every group for given limits, in double.
std::vector<double> ClipErrors(const Case& c, const Limits& limits) {
  const auto reference = NewReferenceBackend();
  std::vector<uint8_t> codes(static_cast<size_t>(c.weight.count()));
  std::vector<uint8_t> zero_points(c.groups());
  std::vector<float> scales(c.groups()), decoded(codes.size());
  AwqQuantizeArgs args;
  args.weight = c.weight.View(c.rows);
  args.grid = c.grid;
  args.scales = c.input.scales.data();
  args.low = limits.low.data();
  args.high = limits.high.data();
  args.codes = codes.data();
  args.group_scales = scales.data();
  args.zero_points = zero_points.data();
  args.decoded = decoded.data();
  REQUIRE(reference->awq().Quantize(args, reference->stream()).ok());
  std::vector<double> errors;
  const int64_t size = c.grid.group_size;
  const int64_t groups = c.input.n / size;
  uint8_t stored[4];
  for (int64_t g = 0; g < c.rows * groups; ++g) {
    const int64_t first = g % groups * size;
    std::vector<double> d;
    for (int64_t i = 0; i < size; ++i) {
      float w = c.weight.at(g * size + i) *
                c.input.scales[static_cast<size_t>(first + i)];
      if (c.grid.rule == AwqRule::kAutoAwq) {
        StoreFromFloat(stored, c.weight.View().dtype, 0, w);
        w = LoadAsFloat(stored, c.weight.View().dtype, 0);
      }
      d.push_back(
          (static_cast<double>(decoded[static_cast<size_t>(g * size + i)]) -
           static_cast<double>(w)) /
          c.input.scales[static_cast<size_t>(first + i)]);
    }
    double error = 0;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = 0; j < size; ++j) {
        error += d[static_cast<size_t>(i)] * d[static_cast<size_t>(j)] *
                 static_cast<double>(c.input.moment[static_cast<size_t>(
                     (first + i) * c.input.n + first + j)]);
      }
    }
    errors.push_back(error);
  }
  return errors;
}

void ForCases(const std::function<void(const Case&)>& body) {
  for (int64_t n : {48, 96, 160}) {
    const Input input(n, 2 * n, 7);
    for (DType dtype : kWeightTypes) {
      for (Kind kind : {Kind::kGauss, Kind::kBlocks, Kind::kOneSigned}) {
        const int64_t rows = n == 160 ? 37 : 5;
        const TestTensor weight =
            TestTensor::Make(dtype, rows * n, kind, 11, n == 96 ? 1 : 0);
        for (int bits : {2, 3, 4, 8}) {
          for (bool symmetric : {true, false}) {
            body(
                {weight,
                 input,
                 rows,
                 {bits, n == 48 ? 24 : 32, symmetric, AwqRule::kAutoAwq, dtype},
                 kind == Kind::kBlocks});
            for (DType scales : kWeightTypes) {
              body(
                  {weight,
                   input,
                   rows,
                   {bits, n == 48 ? 24 : 32, symmetric, AwqRule::kBest, scales},
                   kind == Kind::kBlocks});
            }
          }
        }
      }
    }
  }
}

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

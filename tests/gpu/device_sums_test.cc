// Reductions on the GPUs of this machine against the reference, with the
// tolerances of the tests on the emulation but where tensor cores add: second
// moments, error sums, AWQ's losses and limits, GPTQ's descent.
#include <cmath>
#include <random>
#include <vector>

#include "tests/gpu/device_testing.h"
#include "tests/testing/awq_cases.h"
#include "tests/testing/generators.h"
#include "tests/testing/gptq_problems.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

struct Moments {
  std::vector<double> sum, abs_sum;
  int64_t bad = -2;
};

Moments Accumulated(Backend& backend, const TensorView& x) {
  Moments m{std::vector<double>(static_cast<size_t>(x.cols * x.cols)),
            std::vector<double>(static_cast<size_t>(x.cols))};
  const absl::Status status = backend.gram().Accumulate(
      {x, m.sum.data(), m.abs_sum.data(), &m.bad}, backend.stream());
  INFO(status.ToString());
  REQUIRE(status.ok());
  return m;
}

void CheckMoments(Backend& gpu, Backend& reference, DType dtype, int64_t tokens,
                  int64_t inputs) {
  const TestTensor x =
      TestTensor::Make(dtype, tokens * inputs, Kind::kOutlier, 3);
  const TensorView view = {x.View().data, dtype, tokens, inputs};
  const Moments want = Accumulated(reference, view);
  const Moments got = Accumulated(gpu, view);
  INFO(gpu.name() << " " << DTypeName(dtype) << " [" << tokens << ", " << inputs
                  << "]");
  REQUIRE(got.bad == -1);
  double worst = 0;
  const auto at = [&](const Moments& m, int64_t i, int64_t j) {
    return m.sum[static_cast<size_t>(i * inputs + j)];
  };
  for (int64_t i = 0; i < inputs; ++i) {
    REQUIRE(got.abs_sum[static_cast<size_t>(i)] ==
            Approx(want.abs_sum[static_cast<size_t>(i)]).epsilon(1e-12));
    for (int64_t j = i; j < inputs; ++j) {
      const double size = std::sqrt(at(want, i, i) * at(want, j, j));
      if (size == 0) continue;
      worst = std::max(worst, std::fabs(at(got, i, j) - at(want, i, j)) / size);
    }
  }
  const bool tensor_cores = dtype != DType::kF32;
  REQUIRE(worst <=
          (tensor_cores ? kTensorCoreMomentTolerance : kMomentTolerance));
}

TEST_CASE("second moments", "[gpu]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    for (const DType dtype : kWeightTypes) {
      for (const int64_t inputs : {1, 7, 48, 130}) {
        for (const int64_t tokens : {1, 129, 2100}) {
          CheckMoments(*gpu, *reference, dtype, tokens, inputs);
        }
      }
    }
    // More than one block of columns.
    CheckMoments(*gpu, *reference, DType::kBF16, 300, 1100);
    RequireOnDevice(*gpu);
  }
}

bool Near(double got, double want, double magnitude) {
  return std::fabs(got - want) <= magnitude * kErrorSumTolerance;
}

void CheckNear(const ErrorSums& got, const ErrorSums& want) {
  CHECK(got.count == want.count);
  CHECK(got.histogram == want.histogram);
  CHECK(Near(got.squared_error, want.squared_error, want.squared_error));
  CHECK(Near(got.absolute_error, want.absolute_error, want.absolute_error));
  CHECK(got.max_absolute_error == want.max_absolute_error);
  CHECK(Near(got.weight_squared, want.weight_squared, want.weight_squared));
  CHECK(Near(got.decoded_squared, want.decoded_squared, want.decoded_squared));
  CHECK(Near(got.dot, want.dot,
             std::sqrt(want.weight_squared) * std::sqrt(want.decoded_squared)));
}

struct Errors {
  ErrorSums sums, rtn;
  std::vector<double> groups;
};

Errors Measured(Backend& backend, const TestTensor& weight,
                const TestTensor& decoded, int64_t group_size) {
  Errors r;
  const int64_t groups = CeilDiv(weight.count(), group_size);
  r.groups.assign(static_cast<size_t>(groups), -1);
  const std::vector<float> steps(static_cast<size_t>(groups), 0.05f);
  ErrorSumsArgs args;
  args.weight = weight.View();
  args.decoded = decoded.View();
  args.group_size = group_size;
  args.steps = steps.data();
  args.sums = &r.sums;
  args.group_squared_error = r.groups.data();
  args.rtn = &r.rtn;
  REQUIRE(backend.stats().Errors(args, backend.stream()).ok());
  return r;
}

TEST_CASE("error sums", "[gpu]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    for (const DType dtype : kWeightTypes) {
      for (const int64_t count : {1, 64, 1000, 4096, 90001}) {
        for (const int64_t group : {32, 64, 100, 4096}) {
          INFO(gpu->name() << " " << DTypeName(dtype) << " " << count
                           << " in groups of " << group);
          const TestTensor weight =
              TestTensor::Make(dtype, count, Kind::kGauss, 5);
          const TestTensor decoded =
              TestTensor::Make(dtype, count, Kind::kGauss, 6);
          const Errors want = Measured(*reference, weight, decoded, group);
          const Errors got = Measured(*gpu, weight, decoded, group);
          CheckNear(got.sums, want.sums);
          CheckNear(got.rtn, want.rtn);
          for (size_t g = 0; g < want.groups.size(); ++g) {
            REQUIRE(Near(got.groups[g], want.groups[g], want.groups[g]));
          }
        }
      }
    }
    RequireOnDevice(*gpu);
  }
}

// Every 37th case, so that all kinds, dtypes, widths and rules meet.
template <class Body>
void ForSomeAwq(const Body& body) {
  int number = 0;
  awq_cases::ForCases([&](const awq_cases::Case& c) {
    if (++number % 37 == 0 && c.grid.bits != 8 && !c.huge) body(c);
  });
}

TEST_CASE("AWQ losses", "[gpu]") {
  // What TF32 rounds, as in awq_cuda_test.cc.
  constexpr double kTf32 = 0x1p-10;
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    ForSomeAwq([&](const awq_cases::Case& c) {
      INFO(gpu->name() << " " << c.Describe());
      const auto want = RunLosses(*reference, c, false, 1);
      const auto through_h = RunLosses(*gpu, c, false, 1);
      const auto through_r = RunLosses(*gpu, c, true, 1);
      for (size_t i = 0; i < want.size(); ++i) {
        CHECK(std::fabs(through_h[i] - want[i]) <= kTf32 * want[i]);
        CHECK(std::fabs(through_r[i] - want[i]) <=
              (kTf32 + kAwqFactorTolerance) * want[i]);
      }
    });
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("AWQ clip limits", "[gpu]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    ForSomeAwq([&](const awq_cases::Case& c) {
      if (c.input.n == 96) return;
      INFO(gpu->name() << " " << c.Describe());
      const std::vector<double> want = ClipErrors(c, RunClip(*reference, c));
      const std::vector<double> got = ClipErrors(c, RunClip(*gpu, c));
      // A near tie may go the other way, and then a later round starts from
      // another place.
      const double slack = c.grid.rule == AwqRule::kBest ? 0.05 : 1e-5;
      for (size_t g = 0; g < got.size(); ++g) {
        CHECK(got[g] <= want[g] * (1 + slack) + 1e-30);
      }
    });
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("GPTQ: descent", "[gpu]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    for (const int64_t group : {32, 140, 160}) {
      GptqCase c =
          MakeGptqCase({.rows = 70, .cols = 160, .tokens = 500, .seed = 4});
      c.order = "desc_act_static";
      c.grid = {.bits = 3, .group_size = group, .scale_dtype = DType::kBF16};
      const GptqResult start = RunGptq(*reference, c);
      INFO(gpu->name() << " groups of " << group);
      // As in gptq_refine_cuda_test.cc.
      CHECK(ErrorOfDescent(*gpu, c, start) ==
            Approx(ErrorOfDescent(*reference, c, start)).epsilon(0.02));
    }
    RequireOnDevice(*gpu);
  }
}

}  // namespace
}  // namespace qs

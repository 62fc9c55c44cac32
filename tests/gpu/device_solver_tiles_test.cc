// What needs matrix products, on the GPUs of this machine, on problems of
// several of a device's tiles (kernels/device_tiles.h): rows of GPTQ, columns
// and rows of AWQ's losses and clip search, columns of second moments. The
// emulation's tiles are small, so that the families' cases have many there.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/device_tiles.h"
#include "tests/gpu/device_testing.h"
#include "tests/testing/awq_cases.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"
#include "tests/testing/gptq_problems.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

// As in device_test.cc and device_sums_test.cc.
constexpr double kSolvedErrorTolerance = 0.01;
constexpr double kTf32 = 0x1p-10;

GptqCase TallCase(int64_t rows = kGpuTiles.solve_rows + 77) {
  return MakeGptqCase({.rows = rows, .cols = 160, .seed = 4});
}

void CheckAsGood(const GptqResult& got, const GptqResult& want) {
  CHECK(std::fabs(got.relative_error() - want.relative_error()) <=
        want.relative_error() * kSolvedErrorTolerance);
}

void CheckSolved(const std::vector<std::unique_ptr<Backend>>& gpus,
                 Backend& definition, const GptqCase& c) {
  const GptqResult want = RunGptq(definition, c);
  for (const auto& gpu : gpus) {
    INFO(gpu->name() << " " << c.order << " " << static_cast<int>(c.range));
    CheckAsGood(RunGptq(*gpu, c), want);
  }
}

TEST_CASE("GPTQ: codes in several tiles of rows", "[gpu]") {
  const auto reference = NewReferenceBackend();
  const auto gpus = OpenAllGpus();
  for (const std::string order :
       {"none", "desc_act_static", "desc_act", "gar"}) {
    for (const GptqRange range :
         {GptqRange::kMinMax, GptqRange::kMse, GptqRange::kCurvature}) {
      // The others are found as the solver comes to them.
      if (range == GptqRange::kCurvature && order != "desc_act_static") {
        continue;
      }
      GptqCase c = TallCase();
      c.order = order;
      c.range = range;
      CheckSolved(gpus, *reference, c);
    }
  }
  RequireOnDevices(gpus);
}

// Of the ranges' grid, a warp a group, of the windows' and of decoding.
TEST_CASE("GPTQ: codes beyond a grid", "[gpu]") {
  const auto host = NewHostBackend();
  GptqCase c = TallCase(17 * kGpuTiles.solve_rows + 3);
  const auto gpus = OpenAllGpus();
  for (const char* order : {"desc_act_static", "desc_act"}) {
    c.order = order;
    CheckSolved(gpus, *host, c);
  }
  RequireOnDevices(gpus);
}

// Rounding to nearest without a factor is elementwise, and so are its bytes.
TEST_CASE("GPTQ: given ranges in several tiles of rows", "[gpu]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    GptqCase c = TallCase();
    c.order = "desc_act_static";
    const GptqResult start = RunGptq(*reference, c);
    const auto solve = [&](Backend& backend, const float* factor) {
      GptqResult result = start;
      int64_t bad = 0;
      GptqSolveArgs args = SolveArgs(c, &result, &bad);
      args.factor = factor;
      args.range = GptqRange::kGiven;
      REQUIRE(backend.gptq().Solve(args, backend.stream()).ok());
      REQUIRE(result.scales == start.scales);
      MeasureCase(backend, c, &result);
      return result;
    };
    INFO(gpu->name());
    CHECK(solve(*gpu, nullptr).codes == solve(*reference, nullptr).codes);
    CheckAsGood(solve(*gpu, start.factor.data()), start);
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("GPTQ: descent in several tiles of rows", "[gpu]") {
  const auto host = NewHostBackend();
  for (const auto& gpu : OpenAllGpus()) {
    for (const int64_t group : {32, 160}) {
      GptqCase c = TallCase();
      c.order = "desc_act_static";
      c.grid = {.bits = 3, .group_size = group, .scale_dtype = DType::kBF16};
      const GptqResult start = RunGptq(*host, c);
      INFO(gpu->name() << " groups of " << group);
      CHECK(ErrorOfDescent(*gpu, c, start) ==
            Approx(ErrorOfDescent(*host, c, start)).epsilon(0.02));
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("GPTQ: weights that are not finite are found", "[gpu]") {
  for (const auto& gpu : OpenAllGpus()) {
    GptqCase c = TallCase();
    GptqResult result;
    FactorCase(*gpu, c, &result);
    const int64_t at = (c.rows - 3) * c.cols + 70;
    StoreFromFloat(c.weight.data(), c.dtype, at, NAN);
    int64_t bad = 0;
    GptqSolveArgs args = SolveArgs(c, &result, &bad);
    INFO(gpu->name());
    CHECK(gpu->gptq().Solve(args, gpu->stream()).ok());
    CHECK(bad == at);
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("GPTQ: moments that are none are named as by the reference",
          "[gpu]") {
  const auto reference = NewReferenceBackend();
  const auto message = [](Backend& backend, const GptqCase& c) {
    std::vector<float> factor(c.hessian.size());
    GptqFactorFacts facts;
    GptqFactorArgs args;
    args.hessian = c.hessian.data();
    args.size = c.cols;
    args.factor = factor.data();
    args.facts = &facts;
    const absl::Status status = backend.gptq().Factor(args, backend.stream());
    CHECK(absl::IsInvalidArgument(status));
    return std::string(status.message());
  };
  for (const auto& gpu : OpenAllGpus()) {
    for (const float value : {NAN, INFINITY, -1.0f}) {
      GptqCase c = OnePairCase(300, 10, 200, 0.5f);
      c.hessian[200 * 301] = value;
      INFO(gpu->name() << " " << value);
      CHECK(message(*gpu, c) == message(*reference, c));
    }
    RequireOnDevice(*gpu);
  }
}

void CheckLosses(Backend& gpu, Backend& host, const awq_cases::Case& c,
                 int64_t stride) {
  INFO(gpu.name() << " " << c.Describe() << " every " << stride << " rows");
  const auto want = RunLosses(host, c, false, stride);
  const auto through_h = RunLosses(gpu, c, false, stride);
  const auto through_r = RunLosses(gpu, c, true, stride);
  for (size_t i = 0; i < want.size(); ++i) {
    CHECK(std::fabs(through_h[i] - want[i]) <= kTf32 * want[i]);
    CHECK(std::fabs(through_r[i] - want[i]) <=
          (kTf32 + kAwqFactorTolerance) * want[i]);
  }
  CHECK(RunExpectedLoss(gpu, c, stride) ==
        Approx(RunExpectedLoss(host, c, stride)).epsilon(1e-12));
}

TEST_CASE("AWQ in several tiles of columns", "[gpu]") {
  const auto reference = NewReferenceBackend();
  const awq_cases::Input input(kGpuTiles.loss_columns + 32, 1500, 7);
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 70 * input.n, Kind::kGauss, 5);
  for (const auto& gpu : OpenAllGpus()) {
    for (const AwqRule rule : {AwqRule::kAutoAwq, AwqRule::kBest}) {
      const awq_cases::Case c{
          weight, input, 70, {3, 32, false, rule, DType::kBF16}};
      REQUIRE(RunElementwise(*gpu, c) == RunElementwise(*reference, c));
      CheckLosses(*gpu, *reference, c, 1);
      CheckLosses(*gpu, *reference, c, 3);
    }
    RequireOnDevice(*gpu);
  }
}

// So many that all kernels go more than once over their grids, too.
TEST_CASE("AWQ in several tiles of rows", "[gpu]") {
  const auto host = NewHostBackend();
  const awq_cases::Input input(48, 96, 7);
  const int64_t rows = kGpuTiles.loss_elements / input.n + 5;
  const TestTensor weight = LargeTensor(DType::kBF16, rows * input.n, 5);
  const int64_t few = 3 * kGpuTiles.clip_rows + 5;
  const TestTensor part = LargeTensor(DType::kBF16, few * input.n, 6);
  for (const auto& gpu : OpenAllGpus()) {
    const AwqGridSpec grid = {3, 24, false, AwqRule::kBest, DType::kBF16};
    const awq_cases::Case c{weight, input, rows, grid};
    REQUIRE(RunElementwise(*gpu, c) == RunElementwise(*host, c));
    CheckLosses(*gpu, *host, c, 1);
    const awq_cases::Case clipped{part, input, few, grid};
    const auto want = ClipErrors(clipped, RunClip(*host, clipped));
    const auto got = ClipErrors(clipped, RunClip(*gpu, clipped));
    for (size_t g = 0; g < got.size(); ++g) {
      CHECK(got[g] <= want[g] * 1.05 + 1e-30);
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("second moments are finished beyond a grid", "[gpu]") {
  constexpr int64_t kInputs = 2900;
  std::vector<double> sum(kInputs * kInputs), abs_sum(kInputs, 3.0);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = std::sqrt(double(i));
  const auto finish = [&](Backend& backend) {
    std::vector<float> moment(sum.size());
    std::vector<float> abs_f32(abs_sum.size());
    REQUIRE(backend.gram()
                .Finish({sum.data(), abs_sum.data(), kInputs, moment.data(),
                         abs_f32.data()},
                        backend.stream())
                .ok());
    moment.insert(moment.end(), abs_f32.begin(), abs_f32.end());
    return moment;
  };
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    INFO(gpu->name());
    const bool same = finish(*gpu) == finish(*reference);
    CHECK(same);
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("activations that are not finite are found", "[gpu]") {
  for (const auto& gpu : OpenAllGpus()) {
    for (const DType dtype : kWeightTypes) {
      constexpr int64_t kTokens = 300;
      constexpr int64_t kInputs = 70;
      TestTensor x =
          TestTensor::Make(dtype, kTokens * kInputs, Kind::kGauss, 3);
      StoreFromFloat(x.data(), dtype, 200 * kInputs + 5, NAN);
      StoreFromFloat(x.data(), dtype, 280 * kInputs, INFINITY);
      std::vector<double> sum(kInputs * kInputs), abs_sum(kInputs);
      int64_t bad = -1;
      INFO(gpu->name() << " " << DTypeName(dtype));
      CHECK(gpu->gram()
                .Accumulate({x.View(kTokens), sum.data(), abs_sum.data(), &bad},
                            gpu->stream())
                .ok());
      CHECK(bad == 200 * kInputs + 5);
      // Nothing was added.
      CHECK(sum == std::vector<double>(sum.size()));
      CHECK(abs_sum == std::vector<double>(abs_sum.size()));
    }
    RequireOnDevice(*gpu);
  }
}

}  // namespace
}  // namespace qs

// Codes, scales and packed words of every family on the GPUs of this machine
// against the reference: what the host emulation proves of the kernels' logic,
// on real hardware. Elementwise results with ==, GPTQ's within a tolerance;
// sums are in device_sums_test.cc. Run by tests/gpu/run.sh; without a GPU it
// fails and says why there is none.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/device_tiles.h"
#include "tests/gpu/device_testing.h"
#include "tests/testing/affine_cases.h"
#include "tests/testing/awq_cases.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"
#include "tests/testing/gptq_cases.h"
#include "tests/testing/gptq_problems.h"
#include "tests/testing/hqq_cases.h"
#include "tests/testing/nf4_cases.h"
#include "tests/testing/pack_cases.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

// Relative, of the solved error: as many codes may differ as the golden files
// allow (2 in 1000), each by one step, which moves it by less.
constexpr double kSolvedErrorTolerance = 0.01;

TEST_CASE("NF4 and FP4", "[gpu]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    ForNf4Cases([&](const Nf4Case& c) {
      INFO(gpu->name() << " " << c.Describe());
      REQUIRE(RunNf4(gpu->nf4(), c) == RunNf4(reference->nf4(), c));
    });
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("integer grids and packing", "[gpu]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    ForAffineCases([&](const AffineCase& c) {
      INFO(gpu->name() << " " << c.Describe());
      REQUIRE(RunAffine(gpu->affine(), c) == RunAffine(reference->affine(), c));
    });
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("AWQ's and hqq's orders of codes", "[gpu]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    const auto awq = [&](const AwqPackCase& c) {
      INFO(gpu->name() << " " << c.Describe());
      REQUIRE(RunAwqPacking(gpu->affine(), c) ==
              RunAwqPacking(reference->affine(), c));
    };
    ForAwqPackCases(awq);
    awq({2056, 1100, 300});
    const auto parts = [&](const PartsCase& c) {
      INFO(gpu->name() << " " << c.Describe());
      REQUIRE(RunPartsPacking(gpu->affine(), c) ==
              RunPartsPacking(reference->affine(), c));
    };
    ForPartsCases(parts);
    for (const int bits : {8, 4, 3, 2, 1}) {
      parts({bits, 400000, 400000 * PackedParts(bits) - 48});
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("HQQ", "[gpu]") {
  const auto reference = NewReferenceBackend();
  const auto backends = OpenAllGpus();
  uint64_t seed = 0;
  for (const auto& gpu : backends) {
    for (const DType dtype : kWeightTypes) {
      for (const int bits : {8, 4, 3, 2, 1}) {
        for (const int64_t group : {32, 64, 128, 256, 48}) {
          const TestTensor weight =
              TestTensor::Make(dtype, 24 * group, Kind::kGauss, ++seed);
          for (const int axis : {0, 1}) {
            for (const HqqSolver solver :
                 {HqqSolver::kReference, HqqSolver::kBest}) {
              HqqCase c{weight, 8, group, bits, axis, solver};
              c.stored = dtype;
              c.seed = seed;
              INFO(gpu->name() << " " << c.Describe());
              REQUIRE(RunHqq(gpu->hqq(), c) == RunHqq(reference->hqq(), c));
            }
          }
        }
      }
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("AWQ: codes, scales and means", "[gpu]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    awq_cases::ForCases([&](const awq_cases::Case& c) {
      REQUIRE(awq_cases::RunElementwise(*gpu, c) ==
              awq_cases::RunElementwise(*reference, c));
    });
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("GPTQ: factor and codes", "[gpu]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    unsigned seed = 0;
    for (const int64_t cols : {64, 200, 512, 1024}) {
      GptqCase c = MakeGptqCase({.rows = 40, .cols = cols, .seed = ++seed});
      c.grid.group_size = 64;
      for (const char* order : {"none", "desc_act_static", "desc_act", "gar"}) {
        c.order = order;
        const GptqResult want = RunGptq(*reference, c);
        const GptqResult got = RunGptq(*gpu, c);
        INFO(gpu->name() << " " << cols << " columns, " << order);
        // A code may round the other way where F32 products end differently;
        // what then follows is as good.
        CHECK(got.relative_error() <=
              want.relative_error() * (1 + kSolvedErrorTolerance));
        CHECK(want.relative_error() <=
              got.relative_error() * (1 + kSolvedErrorTolerance));
      }
    }
    RequireOnDevice(*gpu);
  }
}

// Wider than what a library factors at once.
TEST_CASE("GPTQ: a factor of several blocks", "[gpu]") {
  GptqCase c;
  c.rows = 1;
  c.cols = 2 * kGpuTiles.factor_columns + 4;
  c.hessian.resize(static_cast<size_t>(c.cols * c.cols));
  for (int64_t i = 0; i < c.cols; ++i) {
    for (int64_t j = 0; j < c.cols; ++j) {
      const auto apart = static_cast<double>(std::abs(i - j));
      const auto loud = static_cast<double>((1 + i % 7) * (1 + j % 7));
      c.hessian[static_cast<size_t>(i * c.cols + j)] =
          static_cast<float>(loud * std::pow(0.9, apart));
    }
  }
  const auto cpu = NewCpuBackend(4);
  for (const auto& gpu : OpenAllGpus()) {
    for (const bool in_f64 : {false, true}) {
      c.in_f64 = in_f64;
      GptqResult want, got, again;
      FactorCase(*cpu, c, &want);
      FactorCase(*gpu, c, &got);
      FactorCase(*gpu, c, &again);
      INFO(gpu->name() << " in F64: " << in_f64);
      CHECK(got.factor == again.factor);
      CHECK(got.facts.in_f64 == want.facts.in_f64);
      // As in gptq_factor_cuda_test.cc.
      const double tolerance = in_f64 ? 0x1p-22 : 0x1p-13;
      double most = 0;
      for (size_t i = 0; i < want.factor.size(); ++i) {
        const auto column = static_cast<int64_t>(i) % c.cols;
        const double size =
            want.factor[static_cast<size_t>(column * (c.cols + 1))];
        most = std::max(
            most, std::abs(double{got.factor[i]} - want.factor[i]) / size);
      }
      CHECK(most <= tolerance);
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("the same bytes on a rerun", "[gpu]") {
  for (const auto& gpu : OpenAllGpus()) {
    GptqCase c = MakeGptqCase({.rows = 200, .cols = 768, .seed = 9});
    c.order = "desc_act_static";
    const GptqResult first = RunGptq(*gpu, c);
    const GptqResult second = RunGptq(*gpu, c);
    CHECK(first.factor == second.factor);
    CHECK(first.codes == second.codes);
    CHECK(first.scales == second.scales);
    CHECK(first.error == second.error);
    RequireOnDevice(*gpu);
  }
}

}  // namespace
}  // namespace qs

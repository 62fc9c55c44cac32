// Every kernel once or a few times (small_kernels_test.cc), on small problems:
// what compute-sanitizer, which slows kernels a hundredfold, is given, and what
// runs on the emulation in every build so that it does not rot. Cases have odd
// lengths and several blocks, since borders are where accesses go wrong.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/gpu/device_testing.h"
#include "tests/testing/affine_cases.h"
#include "tests/testing/awq_cases.h"
#include "tests/testing/generators.h"
#include "tests/testing/gptq_problems.h"
#include "tests/testing/hqq_cases.h"
#include "tests/testing/nested_cases.h"
#include "tests/testing/nf4_cases.h"
#include "tests/testing/nf4_nested_cases.h"
#include "tests/testing/pack_cases.h"

namespace qs {
namespace {

TEST_CASE("small: NF4 and FP4", "[small]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    for (const DType dtype : kWeightTypes) {
      const TestTensor weight =
          TestTensor::Make(dtype, 1027, Kind::kBlocks, 5, /*misalign=*/1);
      for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
        for (const Nf4Search search :
             {Nf4Search::kNone, Nf4Search::kBestScale}) {
          for (const int64_t block : {64, 512}) {
            const Nf4Case c{weight, block, codebook, Nf4Rule::kCuda, search, 5};
            INFO(gpu->name() << " " << c.Describe());
            REQUIRE(RunNf4(gpu->nf4(), c) == RunNf4(reference->nf4(), c));
          }
        }
      }
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("small: double quantization", "[small]") {
  using nf4_nested_cases::Case;
  const auto reference = NewReferenceBackend();
  // A group of the mean has 8192.
  const std::vector<float> absmax = AbsmaxValues(8192 + 77, 5);
  for (const auto& gpu : OpenAllGpus()) {
    REQUIRE(RunNested(gpu->nf4(), absmax, Nf4Rule::kCuda) ==
            RunNested(reference->nf4(), absmax, Nf4Rule::kCuda));
    for (const DType dtype : kWeightTypes) {
      for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
        const Case c{dtype,
                     32 * 300 + 5,
                     32,
                     Kind::kGauss,
                     nf4_nested_cases::Spread::kZeros,
                     codebook,
                     Nf4Rule::kCuda,
                     5};
        INFO(gpu->name() << " " << c.Describe());
        const TestTensor weight = MakeWeight(c);
        const auto none = EncodeNone(reference->nf4(), c, weight);
        REQUIRE(EncodeNone(gpu->nf4(), c, weight) == none);
        REQUIRE(RefineAll(gpu->nf4(), c, weight, none) ==
                RefineAll(reference->nf4(), c, weight, none));
      }
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("small: integer grids and packing", "[small]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    for (const int bits : {2, 3, 4, 8}) {
      for (const int64_t group : {65, 128}) {
        const TestTensor weight =
            TestTensor::Make(DType::kBF16, 5 * 2 * group, Kind::kGauss, 7);
        for (const AffineSearch search :
             {AffineSearch::kMinMax, AffineSearch::kBestRange}) {
          const AffineCase c{weight, 5, group, bits, bits == 3, search, 7};
          INFO(gpu->name() << " " << c.Describe());
          REQUIRE(RunAffine(gpu->affine(), c) ==
                  RunAffine(reference->affine(), c));
        }
      }
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("small: AWQ's and hqq's orders of codes", "[small]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    for (const AwqPackCase& c :
         {AwqPackCase{264, 132, 35}, AwqPackCase{24, 61, 3}}) {
      INFO(gpu->name() << " " << c.Describe());
      REQUIRE(RunAwqPacking(gpu->affine(), c) ==
              RunAwqPacking(reference->affine(), c));
    }
    for (const int bits : {8, 4, 3, 2, 1}) {
      for (const int64_t part : {65, 64}) {
        const PartsCase c{bits, part, part * PackedParts(bits) - 48};
        INFO(gpu->name() << " " << c.Describe());
        REQUIRE(RunPartsPacking(gpu->affine(), c) ==
                RunPartsPacking(reference->affine(), c));
      }
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("small: HQQ", "[small]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    for (const int64_t group : {32, 64, 128, 256, 48}) {
      const TestTensor weight =
          TestTensor::Make(DType::kBF16, 12 * group, Kind::kGauss, 9);
      for (const int axis : {0, 1}) {
        for (const HqqSolver solver :
             {HqqSolver::kReference, HqqSolver::kBest}) {
          HqqCase c{weight, 4, group, 4, axis, solver};
          c.stored = DType::kBF16;
          c.integer = axis == 1 && group == 64;
          INFO(gpu->name() << " " << c.Describe());
          REQUIRE(RunHqq(gpu->hqq(), c) == RunHqq(reference->hqq(), c));
        }
      }
    }
    // Whole blocks of the error sum have 8192 elements.
    const TestTensor weight =
        TestTensor::Make(DType::kBF16, 192 * 48, Kind::kGauss, 9);
    for (const int64_t group : {48, 64}) {
      HqqCase c{weight, 1, group, 4};
      c.iterations = 2;
      INFO(gpu->name() << " " << c.Describe());
      REQUIRE(RunHqq(gpu->hqq(), c) == RunHqq(reference->hqq(), c));
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("small: error sums", "[small]") {
  const auto reference = NewReferenceBackend();
  const TestTensor weight =
      TestTensor::Make(DType::kF16, 9001, Kind::kGauss, 1);
  const TestTensor decoded =
      TestTensor::Make(DType::kF16, 9001, Kind::kGauss, 2);
  const auto histogram = [&](Backend& backend) {
    const std::vector<float> steps(141, 0.05f);
    std::vector<double> groups(141);
    ErrorSums sums, rtn;
    ErrorSumsArgs args;
    args.weight = weight.View();
    args.decoded = decoded.View();
    args.steps = steps.data();
    args.sums = &sums;
    args.group_squared_error = groups.data();
    args.rtn = &rtn;
    REQUIRE(backend.stats().Errors(args, backend.stream()).ok());
    return sums.histogram;
  };
  for (const auto& gpu : OpenAllGpus()) {
    REQUIRE(histogram(*gpu) == histogram(*reference));
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("small: second moments", "[small]") {
  for (const auto& gpu : OpenAllGpus()) {
    // Ones: exact in any order, in two blocks of the emulation's columns.
    constexpr int64_t kInputs = 50;
    constexpr int64_t kTokens = 130;
    const std::vector<float> ones(kInputs * kTokens, 1.0f);
    std::vector<double> sum(kInputs * kInputs), abs_sum(kInputs);
    std::vector<float> moment(sum.size()), abs_f32(abs_sum.size());
    int64_t bad = 7;
    REQUIRE(gpu->gram()
                .Accumulate({{ones.data(), DType::kF32, kTokens, kInputs},
                             sum.data(),
                             abs_sum.data(),
                             &bad},
                            gpu->stream())
                .ok());
    REQUIRE(bad == -1);
    REQUIRE(gpu->gram()
                .Finish({sum.data(), abs_sum.data(), kInputs, moment.data(),
                         abs_f32.data()},
                        gpu->stream())
                .ok());
    REQUIRE(moment == std::vector<float>(moment.size(), kTokens));
    REQUIRE(abs_f32 == std::vector<float>(abs_f32.size(), kTokens));
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("small: GPTQ", "[small]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    for (const char* order : {"desc_act_static", "desc_act", "gar"}) {
      for (const GptqRange range :
           {GptqRange::kMinMax, GptqRange::kMse, GptqRange::kCurvature}) {
        const bool fixed = std::string(order) == "desc_act_static";
        if (range == GptqRange::kCurvature && !fixed) continue;
        GptqCase c = MakeGptqCase({.rows = 5, .cols = 160, .seed = 3});
        c.order = order;
        c.range = range;
        const GptqResult got = RunGptq(*gpu, c);
        INFO(gpu->name() << " " << order);
        CHECK(got.relative_error() ==
              Approx(RunGptq(*reference, c).relative_error()).epsilon(0.05));
      }
    }
    RequireOnDevice(*gpu);
  }
}

// Of groups in and beyond a block of columns.
TEST_CASE("small: GPTQ's descent", "[small]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    for (const int64_t group : {32, 160}) {
      GptqCase c = MakeGptqCase({.rows = 5, .cols = 160, .seed = 3});
      c.order = "desc_act_static";
      c.grid.group_size = group;
      const GptqResult start = RunGptq(*reference, c);
      INFO(gpu->name() << " groups of " << group);
      CHECK(ErrorOfDescent(*gpu, c, start) ==
            Approx(ErrorOfDescent(*reference, c, start)).epsilon(0.05));
    }
    RequireOnDevice(*gpu);
  }
}

// Without a factor it is rounding to nearest, whose bytes are the reference's.
TEST_CASE("small: GPTQ's given ranges", "[small]") {
  const auto reference = NewReferenceBackend();
  for (const auto& gpu : OpenAllGpus()) {
    for (const bool symmetric : {false, true}) {
      GptqCase c = MakeGptqCase({.rows = 70, .cols = 150, .seed = 3});
      c.order = "desc_act_static";
      c.grid.symmetric = symmetric;
      const GptqResult start = RunGptq(*reference, c);
      const auto codes = [&](Backend& backend) {
        GptqResult result = start;
        int64_t bad = 0;
        GptqSolveArgs args = SolveArgs(c, &result, &bad);
        args.factor = nullptr;
        args.range = GptqRange::kGiven;
        REQUIRE(backend.gptq().Solve(args, backend.stream()).ok());
        return result.codes;
      };
      INFO(gpu->name() << " symmetric: " << symmetric);
      CHECK(codes(*gpu) == codes(*reference));
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("small: GPTQ's factor of no inputs", "[small]") {
  const auto reference = NewReferenceBackend();
  GptqCase c = OnePairCase(100, 10, 90, 0);
  std::fill(c.hessian.begin(), c.hessian.end(), 0.0f);
  GptqResult want;
  FactorCase(*reference, c, &want);
  REQUIRE(want.facts.diagonal_only);
  for (const auto& gpu : OpenAllGpus()) {
    GptqResult got;
    FactorCase(*gpu, c, &got);
    INFO(gpu->name());
    CHECK(got.facts.diagonal_only);
    CHECK(got.factor == want.factor);
    RequireOnDevice(*gpu);
  }
}

// With cuSOLVER, steps of its blocks and of our kernels, which replace pivots.
TEST_CASE("small: GPTQ's ladder", "[small]") {
  const auto cpu = NewCpuBackend(1);
  for (const auto& gpu : OpenAllGpus()) {
    for (const float off : {0.5f, 1 - 0x1p-20f, 1.02f}) {
      for (const double damping : {0.0, 0.01}) {
        GptqCase c = OnePairCase(100, 10, 90, off);
        c.damping = damping;
        GptqResult want, got;
        FactorCase(*cpu, c, &want);
        FactorCase(*gpu, c, &got);
        INFO(gpu->name() << " " << off << " damping " << damping);
        CHECK(got.facts.in_f64 == want.facts.in_f64);
        CHECK(got.facts.damping_retries == want.facts.damping_retries);
        CHECK(got.facts.dropped_pivots == want.facts.dropped_pivots);
        CHECK(want.facts.dropped_pivots == (off > 1 && damping == 0 ? 1 : 0));
        for (size_t i = 0; i < want.factor.size(); ++i) {
          REQUIRE(got.factor[i] == Approx(want.factor[i]).epsilon(1e-5));
        }
      }
    }
    RequireOnDevice(*gpu);
  }
}

TEST_CASE("small: AWQ", "[small]") {
  const auto reference = NewReferenceBackend();
  const awq_cases::Input input(96, 192, 3);
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 70 * 96, Kind::kGauss, 5);
  for (const auto& gpu : OpenAllGpus()) {
    for (const AwqRule rule : {AwqRule::kAutoAwq, AwqRule::kBest}) {
      const awq_cases::Case c{
          weight, input, 70, {4, 32, false, rule, DType::kBF16}};
      INFO(gpu->name() << " " << c.Describe());
      REQUIRE(RunElementwise(*gpu, c) == RunElementwise(*reference, c));
      for (const bool factored : {false, true}) {
        const auto want = RunLosses(*reference, c, factored, 1);
        const auto got = RunLosses(*gpu, c, factored, 1);
        for (size_t i = 0; i < want.size(); ++i) {
          CHECK(got[i] == Approx(want[i]).epsilon(0x1p-10));
        }
      }
      CHECK(RunExpectedLoss(*gpu, c, 1) ==
            Approx(RunExpectedLoss(*reference, c, 1)).epsilon(1e-12));
      RunClip(*gpu, c);
    }
    RequireOnDevice(*gpu);
  }
}

}  // namespace
}  // namespace qs

// NestedRefine: every SIMD target and the emulated CUDA kernels against the
// reference, with ==; and that no block is worse than REFERENCE's.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/nf4_cuda.h"
#include "kernels/factories.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/emulated_nf4.h"
#include "tests/testing/generators.h"
#include "tests/testing/nf4_nested_cases.h"

namespace qs {
namespace {

using namespace nf4_nested_cases;  // NOLINT: all of it is for tests

TEST_CASE("every SIMD target refines to the reference's bytes") {
  const auto reference = NewReferenceBackend();
  const auto one = NewCpuBackend(1);
  const auto two = NewCpuBackend(2);
  ForCases([&](const Case& c) {
    INFO(c.Describe());
    const TestTensor weight = MakeWeight(c);
    const Nested none = EncodeNone(reference->nf4(), c, weight);
    const Nested want = RefineAll(reference->nf4(), c, weight, none);
    for (const std::string& target : SimdTargets()) {
      INFO("target " << target);
      REQUIRE(ForceSimdTargetForTest(target).ok());
      REQUIRE(RefineAll(one->nf4(), c, weight, none) == want);
      REQUIRE(RefineAll(two->nf4(), c, weight, none) == want);
    }
  });
  REQUIRE(ForceSimdTargetForTest("").ok());
}

void CheckEmulated(const Case& c) {
  const auto reference = NewNf4Reference();
  cuda::EmulatedDevice::Get().Seed(c.seed);
  EmulatedNf4 emulated(Alignment::FromSeed(c.seed, c.dtype));
  INFO(c.Describe() << " alignment " << emulated.alignment().Describe());
  const TestTensor weight = MakeWeight(c);
  const Nested none = EncodeNone(*reference, c, weight);
  REQUIRE(RefineAll(emulated, c, weight, none) ==
          RefineAll(*reference, c, weight, none));
}

TEST_CASE("the kernels refine to the reference's bytes") {
  int number = 0;
  ForCases([&](const Case& c) {
    if (++number % 3 == 0) CheckEmulated(c);
  });
}

TEST_CASE("lanes without a block, and blocks with wide tries", "[race]") {
  for (const int64_t count : {40, 64 * 5, 64 * 40 + 3}) {
    for (const DType dtype : kWeightTypes) {
      CheckEmulated({dtype, count, 64, Kind::kGauss, Spread::kZeros,
                     Codebook::kNf4, Nf4Rule::kCuda,
                     static_cast<uint64_t>(count)});
    }
  }
}

TEST_CASE("a tensor may be refined in pieces") {
  const auto cpu = NewCpuBackend(2);
  const Case c{DType::kBF16,   64 * 1000 + 17, 64, Kind::kGauss, Spread::kHeavy,
               Codebook::kNf4, Nf4Rule::kCuda, 7};
  const TestTensor weight = MakeWeight(c);
  const Nested none = EncodeNone(cpu->nf4(), c, weight);
  Nested pieces = none;
  int64_t first = 0;
  for (const int64_t last : {100, 256, 300, 900, 1001}) {
    Refine(cpu->nf4(), c, weight, first, last, &pieces);
    first = last;
  }
  CHECK(pieces == RefineAll(cpu->nf4(), c, weight, none));
}

// As a reader has it, in double.
std::vector<double> BlockErrors(const Case& c, const TestTensor& weight,
                                const Nested& r,
                                const std::vector<float>& absmax) {
  Stream stream;
  TestTensor decoded(c.dtype, c.count);
  REQUIRE(NewReferenceBackend()
              ->nf4()
              .Decode({r.packed.data(), absmax.data(), c.block_size, c.codebook,
                       decoded.MutableView()},
                      stream)
              .ok());
  std::vector<double> errors(absmax.size());
  for (int64_t i = 0; i < c.count; ++i) {
    const double d = static_cast<double>(weight.at(i)) - decoded.at(i);
    errors[static_cast<size_t>(i / c.block_size)] += d * d;
  }
  return errors;
}

std::vector<float> Decoded(const Nested& r) {
  Stream stream;
  std::vector<float> absmax(r.codes.size());
  REQUIRE(
      NewReferenceBackend()
          ->nf4()
          .NestedDecode({r.codes.data(), r.nested_absmax.data(), &r.offset,
                         static_cast<int64_t>(r.codes.size()), absmax.data()},
                        stream)
          .ok());
  return absmax;
}

struct Totals {
  double none = 0;
  double best = 0;
};

// Fails on the first block that is worse than REFERENCE's.
Totals CheckNeverWorse(Backend& backend, const Case& c) {
  INFO(c.Describe());
  const TestTensor weight = MakeWeight(c);
  const Nested none = EncodeNone(backend.nf4(), c, weight);
  const Nested best = RefineAll(backend.nf4(), c, weight, none);
  REQUIRE(Decoded(best) == best.absmax);
  const auto before = BlockErrors(c, weight, none, Decoded(none));
  const auto after = BlockErrors(c, weight, best, best.absmax);
  Totals totals;
  for (size_t b = 0; b < before.size(); ++b) {
    if (!(after[b] <= before[b])) {
      FAIL("block " << b << ": " << after[b] << " above " << before[b]);
    }
    totals.none += before[b];
    totals.best += after[b];
  }
  return totals;
}

TEST_CASE("no block is worse than REFERENCE's with double quantization") {
  const auto cpu = NewCpuBackend(2);
  uint64_t seed = 600;
  for (int64_t block_size = 32; block_size <= 4096; block_size *= 2) {
    for (const DType dtype : kWeightTypes) {
      for (const Spread spread : kSpreads) {
        for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
          ++seed;
          const Nf4Rule rule =
              seed / 2 % 2 == 0 ? Nf4Rule::kCuda : Nf4Rule::kCpu;
          const Kind kind = seed % 3 == 0 ? Kind::kOutlier : Kind::kGauss;
          CheckNeverWorse(*cpu, {dtype, 40 * 4096 + 33, block_size, kind,
                                 spread, codebook, rule, seed});
        }
      }
      for (const Kind kind : kAllKinds) {
        CheckNeverWorse(*cpu, {dtype, 20001, block_size, kind, Spread::kNone,
                               Codebook::kNf4, Nf4Rule::kCuda, ++seed});
      }
    }
  }
}

TEST_CASE("double quantization leaves BEST its gain") {
  const auto cpu = NewCpuBackend(2);
  // Few blocks have most of the heavy tensor's error, and their absmax is the
  // greatest of its run: none above it can be expressed.
  for (const auto& [spread, bound] :
       {std::pair{Spread::kNone, 0.87}, std::pair{Spread::kHeavy, 0.95}}) {
    for (const DType dtype : kWeightTypes) {
      const Totals totals =
          CheckNeverWorse(*cpu, {dtype, 1 << 19, 64, Kind::kGauss, spread,
                                 Codebook::kNf4, Nf4Rule::kCuda, 11});
      INFO("ratio " << totals.best / totals.none);
      CHECK(totals.best <= bound * totals.none);
    }
  }
}

TEST_CASE("wrong arguments of NestedRefine are refused") {
  Stream stream;
  const auto cuda = NewNf4Cuda();
  const auto reference = NewNf4Reference();
  const auto cpu = NewNf4Cpu(1);
  for (Nf4Ops* ops : {cuda.get(), reference.get(), cpu.get()}) {
    NestedRefineArgs args;
    args.first_block = 256;
    CHECK(std::string(ops->NestedRefine(args, stream).message()) ==
          "first_block: got 256, allowed 0 to 255");
    args.first_block = 0;
    args.block_size = 48;
    CHECK(absl::IsInvalidArgument(ops->NestedRefine(args, stream)));
  }
  CHECK(cuda::LaunchNestedRefine({}, nullptr) == 0);  // no elements
  NestedRefineArgs args;
  float weight = 0;
  args.weight = {&weight, DType::kF32, 1, 1};
  CHECK(cuda::LaunchNestedRefine(args, nullptr) == cuda::kCudaInvalidValue);
}

}  // namespace
}  // namespace qs

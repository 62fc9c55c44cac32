// The kernels that loop over a grid (at most 8192 blocks of 256 threads, 2048
// of NF4's tiles) on the GPUs of this machine, on tensors beyond one sweep of
// it. Held against the CPU's backend, which tests/kernels/ holds against the
// reference, since that would take minutes. No emulated twin: its grids have 3
// blocks.
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "tests/gpu/device_testing.h"
#include "tests/testing/affine_cases.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"
#include "tests/testing/hqq_cases.h"
#include "tests/testing/nested_cases.h"
#include "tests/testing/nf4_cases.h"
#include "tests/testing/nf4_nested_cases.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

constexpr int64_t kMillion = 1 << 20;

TEST_CASE("NF4 beyond a grid", "[gpu]") {
  const auto host = NewHostBackend();
  // Encode and decode in tiles, the search of blocks of 64; wide blocks.
  const TestTensor weight = LargeTensor(DType::kBF16, 33 * kMillion + 301, 1);
  const auto gpus = OpenAllGpus();
  for (const int64_t block : {64, 512}) {
    for (const Nf4Search search : {Nf4Search::kNone, Nf4Search::kBestScale}) {
      const Nf4Case c{weight, block, Codebook::kNf4, Nf4Rule::kCuda, search, 1};
      INFO(c.Describe());
      RequireSame(gpus, *host, [&](Backend& b) { return RunNf4(b.nf4(), c); });
    }
  }
  RequireOnDevices(gpus);
}

TEST_CASE("double quantization beyond a grid", "[gpu]") {
  const auto host = NewHostBackend();
  const std::vector<float> absmax = AbsmaxValues(17 * kMillion + 77, 2);
  const nf4_nested_cases::Case c{DType::kBF16,
                                 9 * kMillion + 33,
                                 64,
                                 Kind::kGauss,
                                 nf4_nested_cases::Spread::kNone,
                                 Codebook::kNf4,
                                 Nf4Rule::kCuda,
                                 2};
  const TestTensor weight = LargeTensor(c.dtype, c.count, 2);
  const auto none = EncodeNone(host->nf4(), c, weight);
  const auto gpus = OpenAllGpus();
  RequireSame(gpus, *host, [&](Backend& b) {
    return RunNested(b.nf4(), absmax, Nf4Rule::kCuda);
  });
  RequireSame(gpus, *host,
              [&](Backend& b) { return RefineAll(b.nf4(), c, weight, none); });
  RequireOnDevices(gpus);
}

TEST_CASE("integer grids and packing beyond a grid", "[gpu]") {
  const auto host = NewHostBackend();
  const TestTensor even = LargeTensor(DType::kBF16, 8200 * 8192, 3);
  const TestTensor odd = LargeTensor(DType::kF16, 70001 * 7, 4);
  const auto gpus = OpenAllGpus();
  for (const AffineSearch search :
       {AffineSearch::kMinMax, AffineSearch::kBestRange}) {
    for (const AffineCase& c :
         {AffineCase{even, 8200, 128, 4, true, search, 3},
          AffineCase{odd, 70001, 7, 3, false, search, 4}}) {
      INFO(c.Describe());
      RequireSame(gpus, *host,
                  [&](Backend& b) { return RunAffine(b.affine(), c); });
    }
  }
  RequireOnDevices(gpus);
}

TEST_CASE("HQQ beyond a grid", "[gpu]") {
  const auto host = NewHostBackend();
  // From 16 million elements on the error sum has larger blocks.
  const TestTensor weight = LargeTensor(DType::kBF16, 17 * kMillion, 5);
  const TestTensor part = LargeTensor(DType::kBF16, 48 * 50000, 6);
  const auto gpus = OpenAllGpus();
  for (const HqqCase& c : {HqqCase{weight, 1, 64, 4, 1, HqqSolver::kReference},
                           HqqCase{weight, 1, 64, 4, 1, HqqSolver::kBest},
                           HqqCase{part, 1, 48, 3, 1, HqqSolver::kReference},
                           HqqCase{part, 1, 32, 3, 0, HqqSolver::kBest}}) {
    INFO(c.Describe());
    RequireSame(gpus, *host, [&](Backend& b) { return RunHqq(b.hqq(), c); });
  }
  RequireOnDevices(gpus);
}

// Both may be off by it.
bool Near(double got, double want) {
  return std::fabs(got - want) <= 2 * want * kErrorSumTolerance;
}

TEST_CASE("error sums beyond a grid", "[gpu]") {
  constexpr int64_t kCount = 33 * kMillion + 4097;
  constexpr int64_t kGroup = 64;
  const auto host = NewHostBackend();
  const TestTensor weight = LargeTensor(DType::kBF16, kCount, 7);
  const TestTensor decoded = LargeTensor(DType::kBF16, kCount, 8);
  const std::vector<float> steps(static_cast<size_t>(CeilDiv(kCount, kGroup)),
                                 0.05f);
  const auto measure = [&](Backend& backend, std::vector<double>* groups,
                           ErrorSums* rtn) {
    ErrorSums sums;
    groups->resize(steps.size());
    ErrorSumsArgs args;
    args.weight = weight.View();
    args.decoded = decoded.View();
    args.group_size = kGroup;
    args.steps = steps.data();
    args.sums = &sums;
    args.group_squared_error = groups->data();
    args.rtn = rtn;
    REQUIRE(backend.stats().Errors(args, backend.stream()).ok());
    return sums;
  };
  std::vector<double> want_groups, got_groups;
  ErrorSums want_rtn, got_rtn;
  const ErrorSums want = measure(*host, &want_groups, &want_rtn);
  for (const auto& gpu : OpenAllGpus()) {
    INFO(gpu->name());
    const ErrorSums got = measure(*gpu, &got_groups, &got_rtn);
    CHECK(got.count == want.count);
    CHECK(got.histogram == want.histogram);
    // The CPU subtracts in F32.
    CHECK(got.max_absolute_error ==
          Approx(want.max_absolute_error).epsilon(0x1p-23));
    CHECK(Near(got.squared_error, want.squared_error));
    CHECK(Near(got.absolute_error, want.absolute_error));
    CHECK(Near(got_rtn.squared_error, want_rtn.squared_error));
    int64_t apart = 0;
    for (size_t g = 0; g < want_groups.size(); ++g) {
      apart += Near(got_groups[g], want_groups[g]) ? 0 : 1;
    }
    CHECK(apart == 0);
    RequireOnDevice(*gpu);
  }
}

}  // namespace
}  // namespace qs

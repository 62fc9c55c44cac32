// Elementwise families on the GPUs of this machine, on tensors of several of a
// device's tiles, whole ones and a rest: 8192 elements for NF4's and the
// integer grids' short ways, 8192 absmax for a group of the nested mean, as
// many weights for a block of HQQ's error sum. Most of the cases that the
// families have for all backends are smaller than one. No emulated twin: there
// the tiles are small, so that those cases have many.
#include <cmath>
#include <cstdint>
#include <cstring>
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

namespace qs {
namespace {

constexpr int64_t kTile = 8192;

TEST_CASE("NF4 and FP4 in several tiles", "[gpu]") {
  struct Shape {
    int64_t count, block_size;
  };
  const auto reference = NewReferenceBackend();
  const auto host = NewHostBackend();  // for the searches, which take longer
  const auto gpus = OpenAllGpus();
  uint64_t seed = 400;
  const auto check = [&](const Nf4Case& c) {
    Backend& want = c.search == Nf4Search::kNone ? *reference : *host;
    INFO(c.Describe());
    RequireSame(gpus, want, [&](Backend& b) { return RunNf4(b.nf4(), c); });
  };
  for (const Shape& shape : {Shape{2 * kTile + 301, 64},
                             {3 * kTile, 32},
                             {2 * kTile + 256, 256},
                             {9 * 4096 + 77, 4096}}) {
    for (const Kind kind : kAllKinds) {
      for (const DType dtype : kWeightTypes) {
        const TestTensor weight =
            TestTensor::Make(dtype, shape.count, kind, ++seed);
        for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
          for (const Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
            for (const Nf4Search search :
                 {Nf4Search::kNone, Nf4Search::kBestScale}) {
              check({weight, shape.block_size, codebook, rule, search, seed});
            }
          }
        }
      }
    }
  }
  RequireOnDevices(gpus);
}

TEST_CASE("nested absmax in several groups of the mean", "[gpu]") {
  const auto reference = NewReferenceBackend();
  const auto gpus = OpenAllGpus();
  const auto check = [&](const std::vector<float>& absmax, Nf4Rule rule) {
    INFO(absmax.size() << " blocks, rule " << static_cast<int>(rule));
    RequireSame(gpus, *reference,
                [&](Backend& b) { return RunNested(b.nf4(), absmax, rule); });
  };
  ForNestedCases(check);
  // Level 3 of the mean begins at 16 groups; a grid of NestedDecode's has two
  // million values.
  for (const int64_t count : {16 * kTile + 3 * kTile + 77, 256 * kTile + 1}) {
    check(AbsmaxValues(count, 5), Nf4Rule::kCuda);
  }
  RequireOnDevices(gpus);
}

TEST_CASE("NF4 with double quantization, refined", "[gpu]") {
  using nf4_nested_cases::Case;
  using nf4_nested_cases::Spread;
  const auto reference = NewReferenceBackend();
  const auto gpus = OpenAllGpus();
  const auto check = [&](const Case& c) {
    INFO(c.Describe());
    const TestTensor weight = MakeWeight(c);
    const auto none = EncodeNone(reference->nf4(), c, weight);
    RequireSame(gpus, *reference,
                [&](Backend& b) { return EncodeNone(b.nf4(), c, weight); });
    RequireSame(gpus, *reference, [&](Backend& b) {
      return RefineAll(b.nf4(), c, weight, none);
    });
  };
  nf4_nested_cases::ForCases(check);
  // More than 8192 blocks, in many runs of 256.
  for (const DType dtype : kWeightTypes) {
    check({dtype, 32 * 9000 + 5, 32, Kind::kGauss, Spread::kHeavy,
           Codebook::kNf4, Nf4Rule::kCuda, 7});
  }
  RequireOnDevices(gpus);
}

TEST_CASE("integer grids and packing in several tiles", "[gpu]") {
  struct Shape {
    int64_t rows, cols, group_size;
  };
  const auto reference = NewReferenceBackend();
  const auto gpus = OpenAllGpus();
  uint64_t seed = 500;
  for (const Shape& shape : {Shape{3, kTile, 128},
                             {67, 256, 256},
                             {131, 136, 8},
                             {260, 99, 33},
                             {7, 2 * kTile + 1, 2 * kTile + 1}}) {
    for (const Kind kind : {Kind::kGauss, Kind::kOutlier, Kind::kBlocks}) {
      for (const DType dtype : kWeightTypes) {
        const TestTensor weight =
            TestTensor::Make(dtype, shape.rows * shape.cols, kind, ++seed);
        for (int bits = 2; bits <= 8; ++bits) {
          const AffineSearch search = (bits + seed) % 2 == 0
                                          ? AffineSearch::kMinMax
                                          : AffineSearch::kBestRange;
          const AffineCase c{weight, shape.rows,    shape.group_size,
                             bits,   bits % 3 == 0, search,
                             seed};
          INFO(c.Describe());
          RequireSame(gpus, *reference,
                      [&](Backend& b) { return RunAffine(b.affine(), c); });
        }
      }
    }
  }
  RequireOnDevices(gpus);
}

// Level 3 of the error sum begins at 16 blocks. Large errors take a power, for
// which the reference takes too long.
TEST_CASE("HQQ in several blocks of the error sum", "[gpu]") {
  const auto host = NewHostBackend();
  const auto gpus = OpenAllGpus();
  uint64_t seed = 600;
  for (const int64_t group : {32, 64, 128, 256, 48}) {
    const int64_t count = (19 * kTile / group + 5) * group;
    for (const float scale : {1.0f, 600.0f}) {
      ++seed;
      const DType dtype = kWeightTypes[seed % 3];
      TestTensor weight = TestTensor::Make(dtype, count, Kind::kGauss, seed);
      for (int64_t i = 0; i < count; ++i) {
        StoreFromFloat(weight.data(), dtype, i, scale * weight.at(i));
      }
      for (const int axis : {0, 1}) {
        for (const HqqSolver solver :
             {HqqSolver::kReference, HqqSolver::kBest}) {
          HqqCase c{weight, 1,     group, 1 + static_cast<int>(seed % 4),
                    axis,   solver};
          c.stored = dtype;
          c.seed = seed;
          INFO(c.Describe());
          RequireSame(gpus, *host,
                      [&](Backend& b) { return RunHqq(b.hqq(), c); });
        }
      }
    }
  }
  RequireOnDevices(gpus);
}

// The first of two elements that are not finite, on the short ways and beside
// them.
TEST_CASE("what is not finite is found", "[gpu]") {
  constexpr int64_t kCols = 2 * kTile + 256;
  for (const auto& gpu : OpenAllGpus()) {
    for (const DType dtype : kWeightTypes) {
      for (const int64_t at : {int64_t{5}, kTile + 70, kCols - 3}) {
        TestTensor weight = TestTensor::Make(dtype, kCols, Kind::kGauss, 9);
        StoreFromFloat(weight.data(), dtype, at, NAN);
        StoreFromFloat(weight.data(), dtype, kCols - 1, INFINITY);
        INFO(gpu->name() << " " << DTypeName(dtype) << " at " << at);
        for (const int64_t block : {64, 512}) {
          for (const Nf4Search search :
               {Nf4Search::kNone, Nf4Search::kBestScale}) {
            CHECK(RunNf4(gpu->nf4(), {weight, block, Codebook::kNf4,
                                      Nf4Rule::kCuda, search, 0})
                      .first_non_finite == at);
          }
        }
        for (const int64_t group : {64, 60}) {
          const int64_t cols = kCols / group * group;
          if (at >= cols) continue;
          TestTensor part(dtype, cols);
          std::memcpy(part.data(), weight.data(),
                      static_cast<size_t>(cols * DTypeBytes(dtype)));
          for (const AffineSearch search :
               {AffineSearch::kMinMax, AffineSearch::kBestRange}) {
            CHECK(
                RunAffine(gpu->affine(), {part, 1, group, 4, false, search, 0})
                    .first_non_finite == at);
          }
          for (const HqqSolver solver :
               {HqqSolver::kReference, HqqSolver::kBest}) {
            CHECK(RunHqq(gpu->hqq(), {part, 1, group, 4, 1, solver})
                      .first_non_finite == at);
          }
        }
      }
    }
    RequireOnDevice(*gpu);
  }
}

}  // namespace
}  // namespace qs

// The encoder of small blocks (nf4_tiles.cu) on the host emulation against the
// reference, with ==: what lies around whole tiles, and what sends a warp of
// one the long way.
#include <cmath>
#include <limits>

#include "kernels/cuda/nf4_cuda.h"
#include "kernels/factories.h"
#include "kernels/nf4_tables.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/emulated_nf4.h"
#include "tests/testing/generators.h"
#include "tests/testing/nf4_cases.h"

namespace qs {
namespace {

using cuda::EmulatedDevice;

constexpr Codebook kCodebooks[] = {Codebook::kNf4, Codebook::kFp4};
constexpr Nf4Rule kRules[] = {Nf4Rule::kCuda, Nf4Rule::kCpu};

// Elements of an emulated tile: 64 threads with 64 bytes each.
int64_t TileOf(DType dtype) { return 64 * 64 / DTypeBytes(dtype); }

void CheckCase(const TestTensor& weight, int64_t block_size, Codebook codebook,
               Nf4Rule rule, uint64_t seed) {
  EmulatedDevice::Get().Seed(seed);
  EmulatedNf4 emulated(Alignment::FromSeed(seed, weight.View().dtype));
  const Nf4Case c{weight, block_size, codebook, rule, Nf4Search::kNone, seed};
  INFO(c.Describe() << " emulation seed " << seed << " alignment "
                    << emulated.alignment().Describe());
  const Nf4Result got = RunNf4(emulated, c);
  REQUIRE(EmulatedDevice::Get().TakeError().empty());
  REQUIRE(got == RunNf4(*NewNf4Reference(), c));
}

TEST_CASE("whole tiles, and one element less or more") {
  uint64_t seed = 0;
  for (DType dtype : kWeightTypes) {
    const int64_t tile = TileOf(dtype);
    for (int64_t count : {tile - 1, tile, tile + 1, 2 * tile + 300}) {
      const TestTensor weight =
          TestTensor::Make(dtype, count, Kind::kGauss, ++seed);
      for (int64_t block_size : {32, 64, 128, 256}) {
        for (Codebook codebook : kCodebooks) {
          // Aligned for the one rule, at some other address for the other.
          for (Nf4Rule rule : kRules) {
            CheckCase(weight, block_size, codebook, rule, ++seed);
          }
          ++seed;
        }
      }
    }
  }
}

TEST_CASE("a rule and a codebook, at every address", "[race]") {
  const TestTensor weight = TestTensor::Make(
      DType::kBF16, TileOf(DType::kBF16) + 64, Kind::kGauss, 3);
  for (uint64_t seed = 1; seed <= 16; ++seed) {
    CheckCase(weight, 64, kCodebooks[seed % 2], kRules[seed / 2 % 2],
              2 * seed - seed % 5 % 2);
  }
}

// Each block of 64 of a tile and some is `fill(block, i)`, i its element.
template <class Fill>
TestTensor Blocks(DType dtype, const Fill& fill) {
  TestTensor weight(dtype, TileOf(dtype) + 64);
  for (int64_t i = 0; i < weight.count(); ++i) {
    StoreFromFloat(weight.data(), dtype, i, fill(i / 64, i % 64));
  }
  return weight;
}

TEST_CASE("values on and beside every threshold, in whole tiles") {
  uint64_t seed = 1000;
  for (DType dtype : kWeightTypes) {
    for (Codebook codebook : kCodebooks) {
      for (Nf4Rule rule : kRules) {
        const RankTable table = MakeRankTable(codebook, rule);
        for (float absmax : {1.0f, 0.75f, 3.0f, 0x1p-13f}) {
          const TestTensor weight =
              Blocks(dtype, [&](int64_t block, int64_t i) {
                if (i >= 45) return i % 2 == 0 ? absmax : -absmax;
                const float bound = table.bounds[i / 3];
                const float t = i % 3 == 0   ? std::nextafter(bound, -2.0f)
                                : i % 3 == 1 ? bound
                                             : std::nextafter(bound, 2.0f);
                return t * (block % 2 == 0 ? absmax : absmax * 0.9f);
              });
          seed += 2;  // aligned
          CheckCase(weight, 64, codebook, rule, seed);
        }
      }
    }
  }
}

TEST_CASE("next to zero, where FP4 has two codes") {
  constexpr float kTiny[] = {0.0f,      0x1p-149f, 0x1p-140f, 0x1p-127f,
                             0x1p-126f, 0x1p-125f, 0x1p-100f, 0x1p-24f,
                             0x1p-14f,  0x1p-10f};
  uint64_t seed = 2000;
  for (DType dtype : kWeightTypes) {
    for (Codebook codebook : kCodebooks) {
      for (Nf4Rule rule : kRules) {
        for (float absmax : {1.0f, 0x1p-90f, 0x1p-12f, 6.0f, 0x1p90f}) {
          if (dtype == DType::kF16 && (absmax > 6 || absmax < 0x1p-12f)) {
            continue;
          }
          const TestTensor weight = Blocks(dtype, [&](int64_t, int64_t i) {
            const float tiny = std::fmin(kTiny[i / 2 % 10], absmax);
            return i >= 60 ? absmax : i % 2 == 0 ? tiny : -tiny;
          });
          seed += 2;
          CheckCase(weight, 64, codebook, rule, seed);
        }
      }
    }
  }
}

TEST_CASE("blocks that are not plain, beside ones that are") {
  constexpr float kScales[] = {0.0f,       -0.0f,     0x1p-149f, 0x1p-127f,
                               0x1p-126f,  0x1p-101f, 0x1p-100f, 0x1p100f,
                               0x1.8p100f, 0x1p126f,  0x1p127f,  0x1.8p127f,
                               1.0f};
  uint64_t seed = 3000;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (Codebook codebook : kCodebooks) {
      for (Nf4Rule rule : kRules) {
        for (int64_t odd = 0; odd < 13; odd += 4) {
          const TestTensor weight =
              Blocks(dtype, [&](int64_t block, int64_t i) {
                // One block of every four; the others are plain.
                const float scale =
                    block % 4 == 1
                        ? kScales[static_cast<size_t>((block / 4 + odd) % 13)]
                        : 0.02f;
                return scale * (1.0f - static_cast<float>(i) / 32.0f);
              });
          seed += 2;
          CheckCase(weight, 64, codebook, rule, seed);
        }
      }
    }
  }
}

TEST_CASE("what is not finite is found in every lane of a whole tile") {
  uint64_t seed = 4000;
  for (DType dtype : kWeightTypes) {
    TestTensor weight = TestTensor::Make(dtype, TileOf(dtype), Kind::kGauss, 9);
    for (int64_t chunk = 0; chunk < weight.count() / 8; ++chunk) {
      const int64_t at = chunk * 8 + (chunk + chunk / 32) % 8;
      const float before = weight.at(at);
      const float bad = chunk % 3 == 0   ? INFINITY
                        : chunk % 3 == 1 ? -INFINITY
                                         : NAN;
      StoreFromFloat(weight.data(), dtype, at, bad);
      seed += 2;
      EmulatedDevice::Get().Seed(seed);
      EmulatedNf4 emulated(Alignment{});
      std::vector<uint8_t> packed(static_cast<size_t>(weight.count() / 2));
      std::vector<float> absmax(static_cast<size_t>(weight.count() / 32));
      int64_t found = -1;
      Stream stream;
      REQUIRE(
          emulated
              .Encode({weight.View(), int64_t{32} << chunk % 4,
                       kCodebooks[chunk / 4 % 2], kRules[chunk / 8 % 2],
                       Nf4Search::kNone, packed.data(), absmax.data(), &found},
                      stream)
              .ok());
      INFO(DTypeName(dtype) << " emulation seed " << seed);
      REQUIRE(found == at);
      StoreFromFloat(weight.data(), dtype, at, before);
    }
  }
}

}  // namespace
}  // namespace qs

// The CUDA kernels on the host emulation against the reference, with ==. The
// emulation orders threads at random; its seed is in every failure.
#include "kernels/cuda/nf4_cuda.h"

#include <limits>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nested_mean.h"
#include "kernels/factories.h"
#include "kernels/nested_absmax.h"
#include "kernels/nf4_tables.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/emulated_nf4.h"
#include "tests/testing/generators.h"
#include "tests/testing/nested_cases.h"
#include "tests/testing/nf4_cases.h"

namespace qs {
namespace {

using cuda::EmulatedDevice;

// Runs the case on both, on the device at every alignment that `seed` picks.
void CheckCase(const Nf4Case& c, uint64_t seed) {
  EmulatedDevice::Get().Seed(seed);
  EmulatedNf4 emulated(Alignment::FromSeed(seed, c.weight.View().dtype));
  INFO(c.Describe() << " emulation seed " << seed << " alignment "
                    << emulated.alignment().Describe());
  const Nf4Result got = RunNf4(emulated, c);
  REQUIRE(EmulatedDevice::Get().TakeError().empty());
  REQUIRE(got == RunNf4(*NewNf4Reference(), c));
}

TEST_CASE("the kernels give the reference's bytes") {
  uint64_t seed = 0;
  ForNf4Cases([&](const Nf4Case& c) {
    // Every third case: all of a kind, dtype and shape meet some of the eight
    // combinations of codebook, rule and search, and each of these all shapes.
    if (++seed % 3 == 0) CheckCase(c, seed);
  });
}

TEST_CASE("every block size, with a short last block", "[race]") {
  uint64_t seed = 5000;
  for (int64_t block_size = 32; block_size <= 4096; block_size *= 2) {
    for (int64_t count : {block_size, block_size + 1, 3 * block_size - 7}) {
      for (DType dtype : kWeightTypes) {
        ++seed;
        const TestTensor weight =
            TestTensor::Make(dtype, count, Kind::kBlocks, seed);
        for (Nf4Search search : {Nf4Search::kNone, Nf4Search::kBestScale}) {
          const Codebook codebook =
              seed % 2 == 0 ? Codebook::kNf4 : Codebook::kFp4;
          const Nf4Rule rule = seed % 4 < 2 ? Nf4Rule::kCuda : Nf4Rule::kCpu;
          CheckCase({weight, block_size, codebook, rule, search, seed}, seed);
        }
      }
    }
  }
}

TEST_CASE("many orders of threads give the same bytes") {
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 1500, Kind::kBlocks, 3);
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    CheckCase(
        {weight, 64, Codebook::kNf4, Nf4Rule::kCuda, Nf4Search::kBestScale, 3},
        seed);
  }
}

TEST_CASE("the search is measured by the rule's own codes") {
  const TestTensor weight = WeightsAtFp4Tie(64 * 128 + 37);
  for (const Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
    CheckCase({weight, 64, Codebook::kFp4, rule, Nf4Search::kBestScale, 0}, 6);
  }
}

TEST_CASE("a tensor beyond one sweep of the grid") {
  uint64_t seed = 7000;
  for (DType dtype : kWeightTypes) {
    const TestTensor weight = TestTensor::Make(dtype, 60001, Kind::kGauss, 21);
    for (int64_t block_size : {64, 1024}) {
      for (Nf4Search search : {Nf4Search::kNone, Nf4Search::kBestScale}) {
        ++seed;
        CheckCase(
            {weight, block_size, Codebook::kNf4, Nf4Rule::kCuda, search, seed},
            seed);
      }
    }
  }
}

// Values on and next to every decision of a table, scaled by `absmax`.
TestTensor Borders(DType dtype, Codebook codebook, Nf4Rule rule,
                   int64_t block_size, float absmax) {
  std::vector<float> values;
  const RankTable table = MakeRankTable(codebook, rule);
  for (float bound : table.bounds) {
    for (float t :
         {std::nextafter(bound, -2.0f), bound, std::nextafter(bound, 2.0f)}) {
      values.push_back(t * absmax);
    }
  }
  for (float t : {0.0f, -0.0f, 1.0f, -1.0f, 0x1p-149f, -0x1p-149f, 0x1p-126f,
                  -0x1p-126f, 0x1p-127f, -0x1p-127f}) {
    values.push_back(t);
  }
  const auto size = static_cast<int64_t>(values.size());
  const int64_t blocks = CeilDiv(size, block_size - 1);
  TestTensor weight(dtype, blocks * block_size);
  for (int64_t i = 0; i < weight.count(); ++i) {
    const int64_t at = i / block_size * (block_size - 1) + i % block_size - 1;
    const bool scale = i % block_size == 0;  // each block holds absmax itself
    const float v =
        scale ? absmax : values[static_cast<size_t>(std::min(at, size - 1))];
    StoreFromFloat(weight.data(), dtype, i, v);
  }
  return weight;
}

TEST_CASE("values on and beside every threshold") {
  uint64_t seed = 9000;
  for (DType dtype : kWeightTypes) {
    for (Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
      for (Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
        for (float absmax : {1.0f, 0.75f, 3.0f, 0x1p-13f}) {
          const TestTensor weight = Borders(dtype, codebook, rule, 64, absmax);
          ++seed;
          CheckCase({weight, 64, codebook, rule, Nf4Search::kNone, seed}, seed);
        }
      }
    }
  }
}

TEST_CASE("extreme scales: subnormal, tiny, huge") {
  uint64_t seed = 11000;
  for (float absmax :
       {0x1p-149f, 0x1p-127f, 0x1p-126f, 0x1p-101f, 0x1p-100f, 0x1p100f,
        0x1.8p100f, 0x1p126f, std::numeric_limits<float>::max()}) {
    for (Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
      for (Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
        for (Nf4Search search : {Nf4Search::kNone, Nf4Search::kBestScale}) {
          TestTensor weight =
              TestTensor::Make(DType::kF32, 95, Kind::kGauss, 2);
          for (int64_t i = 0; i < weight.count(); ++i) {
            StoreFromFloat(weight.data(), DType::kF32, i,
                           i % 32 == 0 ? absmax : weight.at(i) * 10 * absmax);
          }
          ++seed;
          CheckCase({weight, 32, codebook, rule, search, seed}, seed);
        }
      }
    }
  }
}

TEST_CASE("the first element that is not finite is found") {
  uint64_t seed = 13000;
  for (DType dtype : kWeightTypes) {
    for (int64_t at : {0, 7, 31, 64, 300, 321, 322}) {
      for (float bad : {INFINITY, -INFINITY, NAN}) {
        TestTensor weight = TestTensor::Make(dtype, 323, Kind::kGauss, 9);
        StoreFromFloat(weight.data(), dtype, at, bad);
        StoreFromFloat(weight.data(), dtype, 322, NAN);
        for (int64_t block_size : {64, 1024}) {
          EmulatedDevice::Get().Seed(++seed);
          EmulatedNf4 emulated(Alignment::FromSeed(seed, dtype));
          const Nf4Search search =
              seed % 2 == 0 ? Nf4Search::kNone : Nf4Search::kBestScale;
          const Nf4Rule rule = seed % 3 == 0 ? Nf4Rule::kCpu : Nf4Rule::kCuda;
          const Nf4Case c{weight, block_size, Codebook::kFp4, rule, search, 9};
          INFO(c.Describe() << " at " << at << " emulation seed " << seed);
          CHECK(RunNf4(emulated, c).first_non_finite == at);
          CHECK(EmulatedDevice::Get().TakeError().empty());
        }
      }
    }
  }
}

TEST_CASE("every code decodes to the reference's value") {
  uint64_t seed = 15000;
  const float absmax[] = {1.0f,       0.0f,     0x1p-149f, 3e38f,
                          0x1.8p-14f, 65519.0f, 65520.0f,  0x1p-24f};
  for (DType dtype : kWeightTypes) {
    for (Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
      std::vector<uint8_t> packed(128);
      for (size_t i = 0; i < packed.size(); ++i) {
        packed[i] = static_cast<uint8_t>(i * 37 + i / 16);
      }
      EmulatedDevice::Get().Seed(++seed);
      EmulatedNf4 emulated(Alignment::FromSeed(seed, dtype));
      TestTensor got(dtype, 255), want(dtype, 255);
      Stream stream;
      const auto decode = [&](Nf4Ops& ops, TestTensor& out) {
        return ops.Decode(
            {packed.data(), absmax, 32, codebook, out.MutableView()}, stream);
      };
      REQUIRE(decode(emulated, got).ok());
      REQUIRE(decode(*NewNf4Reference(), want).ok());
      INFO("emulation seed " << seed);
      CHECK(got.Bytes() == want.Bytes());
    }
  }
}

void CheckNested(const std::vector<float>& absmax, Nf4Rule rule,
                 uint64_t seed) {
  EmulatedDevice::Get().Seed(seed);
  EmulatedNf4 emulated(Alignment::FromSeed(seed, DType::kF32));
  const auto reference = NewNf4Reference();
  INFO("blocks " << absmax.size() << " rule " << static_cast<int>(rule)
                 << " emulation seed " << seed);
  const NestedResult want = RunNested(*reference, absmax, rule);
  REQUIRE(RunNested(emulated, absmax, rule) == want);
  REQUIRE(EmulatedDevice::Get().TakeError().empty());
}

TEST_CASE("nested absmax, the emulated device's against the reference's",
          "[race]") {
  uint64_t seed = 17000;
  ForNestedCases([&](const std::vector<float>& absmax, Nf4Rule rule) {
    CheckNested(absmax, rule, ++seed);
  });
}

TEST_CASE("absmax values whose sum overflows get codes of 0") {
  const std::vector<float> absmax(9, std::numeric_limits<float>::max());
  for (Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
    EmulatedNf4 emulated(Alignment{});
    const auto reference = NewNf4Reference();
    for (Nf4Ops* ops :
         std::initializer_list<Nf4Ops*>{&emulated, reference.get()}) {
      const NestedResult result = RunNested(*ops, absmax, rule);
      CHECK(std::isinf(result.offset));
      CHECK(std::isinf(result.nested_absmax[0]));
      CHECK(result.codes == std::vector<uint8_t>(9, 0));
    }
  }
}

TEST_CASE("the mean follows the library's order at every size of the cascade") {
  uint64_t seed = 23000;
  // Groups of 8192 values in chunks of 512, level 3 from 131072 on; from 2^19
  // quads on chunks are larger. Two counts fill every level.
  for (int64_t count :
       {int64_t{3 * 8192 + 500}, int64_t{131072 + 3 * 8192 + 5 * 512 + 317},
        int64_t{131072 + 11 * 8192 + 15 * 512 + 511},
        (int64_t{1} << 24) + 32 + 5}) {
    EmulatedDevice& device = EmulatedDevice::Get();
    device.FreeAll();
    device.Seed(++seed);
    // Signed, so that the sum is small and shows its order.
    std::mt19937_64 random(seed);
    std::normal_distribution<float> gauss;
    auto* in = static_cast<float*>(device.Allocate(count * 4));
    for (int64_t i = 0; i < count; ++i) in[i] = gauss(random);
    auto* scratch = static_cast<uint8_t*>(device.Allocate(count, 1 + seed % 3));
    auto* mean = static_cast<float*>(device.Allocate(4));
    REQUIRE(cuda::LaunchMean(in, count, scratch, mean, nullptr) == 0);
    INFO("count " << count << " emulation seed " << seed);
    CHECK(*mean == nf4::TorchMean(in, count));
    device.FreeAll();
  }
}

TEST_CASE("ranks by bins are the ranks by comparisons") {
  for (Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
    for (Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
      const RankTable table = MakeRankTable(codebook, rule);
      const bool fp4 = codebook == Codebook::kFp4;
      const cuda::BinTable bins = cuda::ToBins(table, fp4);
      const auto rank = [&](float t) {
        const int bin = cuda::BinOf(t);
        return bins.below[bin] + (t > bins.bounds[bin]) +
               (t > bins.beside_zero[0]) + (t > bins.beside_zero[1]);
      };
      int64_t wrong = 0;
      for (int64_t i = -2000000; i <= 2000000; ++i) {
        const float t = static_cast<float>(i) * 0.5e-6f;
        wrong += rank(t) != nf4::Rank(table, t);
      }
      for (float bound : table.bounds) {
        for (float t : {std::nextafter(bound, -2.0f), bound,
                        std::nextafter(bound, 2.0f)}) {
          wrong += rank(t) != nf4::Rank(table, t);
        }
      }
      for (float t : {0x1p-149f, -0x1p-149f, 0.0f, -0.0f, 0x1.000004p0f,
                      -0x1.000004p0f}) {
        wrong += rank(t) != nf4::Rank(table, t);
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("what a launcher cannot serve is an error, not silence") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  auto* weight = static_cast<uint8_t*>(device.Allocate(512));
  auto* packed = static_cast<uint8_t*>(device.Allocate(64));
  auto* absmax = static_cast<float*>(device.Allocate(64));
  auto* bad = static_cast<int64_t*>(device.Allocate(8));
  const auto encode = [&](const void* data, DType dtype, int64_t block_size,
                          uint8_t* to, float* scales, int64_t* first) {
    return cuda::LaunchNf4Encode({{data, dtype, 1, 100},
                                  block_size,
                                  Codebook::kNf4,
                                  Nf4Rule::kCuda,
                                  Nf4Search::kNone,
                                  to,
                                  scales,
                                  first},
                                 nullptr);
  };
  constexpr int kBad = cuda::kCudaInvalidValue;
  CHECK(encode(weight, DType::kF32, 64, packed, absmax, bad) == 0);
  CHECK(*bad != -1);  // fresh memory is NaN
  for (int64_t block_size : {0, -64, 16, 48, 8192}) {
    CHECK(encode(weight, DType::kF32, block_size, packed, absmax, bad) == kBad);
  }
  CHECK(encode(weight, DType::kU8, 64, packed, absmax, bad) == kBad);
  CHECK(encode(nullptr, DType::kF32, 64, packed, absmax, bad) == kBad);
  CHECK(encode(weight + 2, DType::kF32, 64, packed, absmax, bad) == kBad);
  CHECK(encode(weight + 1, DType::kBF16, 64, packed, absmax, bad) == kBad);
  CHECK(encode(weight, DType::kF32, 64, nullptr, absmax, bad) == kBad);
  CHECK(encode(weight, DType::kF32, 64, packed, nullptr, bad) == kBad);
  CHECK(encode(weight, DType::kF32, 64, packed, absmax, nullptr) == kBad);
  CHECK(cuda::LaunchNf4Decode({}, nullptr) == 0);  // no elements
  CHECK(
      cuda::LaunchNf4Decode(
          {packed, nullptr, 64, Codebook::kNf4, {weight, DType::kF32, 1, 100}},
          nullptr) == kBad);
  CHECK(cuda::LaunchNestedEncode({}, nullptr) == kBad);
  CHECK(cuda::LaunchNestedDecode({}, nullptr) == 0);
  CHECK(cuda::LaunchNestedDecode({packed, absmax, nullptr, 3, absmax},
                                 nullptr) == kBad);
  CHECK(device.TakeError().empty());
}

TEST_CASE("an empty tensor has no element that is not finite") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  Nf4EncodeArgs args;
  args.first_non_finite = static_cast<int64_t*>(device.Allocate(8));
  *args.first_non_finite = 5;
  CHECK(cuda::LaunchNf4Encode(args, nullptr) == 0);
  CHECK(*args.first_non_finite == -1);
}

TEST_CASE("memory that is too small is an error of the launch") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  Nf4DecodeArgs args;
  args.weight = {device.Allocate(400), DType::kF32, 1, 100};
  args.absmax = static_cast<float*>(device.Allocate(2 * 4));
  args.packed = static_cast<uint8_t*>(device.Allocate(49));  // 50 are needed
  Stream stream;
  CHECK_FALSE(NewNf4Cuda()->Decode(args, stream).ok());
  CHECK(device.TakeError().find("allocation has 49") != std::string::npos);
}

TEST_CASE("wrong arguments are refused in words") {
  Stream stream;
  Nf4DecodeArgs args;
  args.block_size = 48;
  const absl::Status status = NewNf4Cuda()->Decode(args, stream);
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(status.message()).find("block_size: got 48") == 0);
}

}  // namespace
}  // namespace qs

// The affine CUDA kernels on the host emulation against the reference, with ==.
// The emulation orders threads at random; its seed is in every failure.
#include "kernels/cuda/affine_cuda.h"

#include <limits>

#include "kernels/cuda/affine_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/factories.h"
#include "tests/testing/affine_cases.h"
#include "tests/testing/emulated_affine.h"

namespace qs {
namespace {

using cuda::EmulatedDevice;

void CheckCase(const AffineCase& c, uint64_t seed) {
  EmulatedAffine emulated(seed);
  INFO(c.Describe() << " emulation seed " << seed);
  const AffineResult got = RunAffine(emulated, c);
  REQUIRE(EmulatedDevice::Get().TakeError().empty());
  REQUIRE(got == RunAffine(*NewAffineReference(), c));
}

TEST_CASE("the kernels give the reference's bytes") {
  uint64_t seed = 0;
  ForAffineCases([&](const AffineCase& c) {
    // Every third case: each shape, kind and dtype meets some widths, both
    // grids and both searches.
    if (++seed % 3 == 0) CheckCase(c, seed);
  });
}

TEST_CASE("every group size that registers hold, and their neighbours",
          "[race]") {
  uint64_t seed = 3000;
  for (int64_t group_size :
       {4, 8, 15, 16, 24, 32, 64, 96, 128, 255, 256, 512}) {
    for (DType dtype : kWeightTypes) {
      for (AffineSearch search :
           {AffineSearch::kMinMax, AffineSearch::kBestRange}) {
        ++seed;
        const TestTensor weight =
            TestTensor::Make(dtype, 3 * 2 * group_size, Kind::kBlocks, seed);
        const int bits = 2 + static_cast<int>(seed % 7);
        CheckCase({weight, 3, group_size, bits, seed % 2 == 0, search, seed},
                  seed);
      }
    }
  }
}

TEST_CASE("many orders of threads give the same bytes") {
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 12 * 128, Kind::kBlocks, 3);
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    CheckCase({weight, 3, 64, 4, false, AffineSearch::kBestRange, 3}, seed);
    CheckCase({weight, 3, 128, 3, true, AffineSearch::kMinMax, 3}, seed);
  }
}

TEST_CASE("a tensor beyond one sweep of the grid") {
  uint64_t seed = 5000;
  for (DType dtype : kWeightTypes) {
    const TestTensor weight =
        TestTensor::Make(dtype, 92 * 640, Kind::kGauss, 21);
    for (int64_t group_size : {128, 160}) {
      for (AffineSearch search :
           {AffineSearch::kMinMax, AffineSearch::kBestRange}) {
        ++seed;
        CheckCase({weight, 92, group_size, 4, seed % 2 == 0, search, seed},
                  seed);
      }
    }
  }
}

// Ties and borders of codes, at scales from subnormal to huge.
TEST_CASE("values on and beside every border, at every scale") {
  uint64_t seed = 7000;
  for (DType dtype : kWeightTypes) {
    for (int exponent : {-149, -140, -126, -100, -61, -41, -40, -24, -14, -8, 0,
                         3, 15, 39, 40, 41, 60, 100, 120}) {
      const bool half = dtype == DType::kF16;
      if (half && (exponent < -24 || exponent > 8)) continue;
      for (bool symmetric : {true, false}) {
        TestTensor weight(dtype, 4 * 64);
        for (int64_t i = 0; i < weight.count(); ++i) {
          const int64_t k = i % 64 - 32;
          const float w = std::ldexp(static_cast<float>(k) / 4, exponent);
          StoreFromFloat(weight.data(), dtype, i,
                         i / 64 % 2 == 0 ? w : std::nextafter(w, 1e38f));
        }
        ++seed;
        for (AffineSearch search :
             {AffineSearch::kMinMax, AffineSearch::kBestRange}) {
          const int bits = 2 + static_cast<int>(seed % 7);
          CheckCase({weight, 4, 64, bits, symmetric, search, seed}, seed);
        }
      }
    }
  }
}

TEST_CASE("weights near the end of F16, whose errors may be infinite") {
  uint64_t seed = 8000;
  for (int bits = 2; bits <= 8; ++bits) {
    for (int64_t group_size : {32, 64, 300}) {
      const TestTensor weight = NearTheEndOfF16(24, group_size, ++seed);
      for (AffineSearch search :
           {AffineSearch::kMinMax, AffineSearch::kBestRange}) {
        for (bool symmetric : {true, false}) {
          CheckCase({weight, 24, group_size, bits, symmetric, search, seed},
                    seed);
        }
      }
    }
  }
}

TEST_CASE("codes of every width, packed and unpacked at every length",
          "[race]") {
  uint64_t seed = 9000;
  Stream stream;
  for (int bits = 1; bits <= 8; ++bits) {
    for (int64_t cols : {1, 15, 31, 32, 33, 48, 64, 100, 160}) {
      for (int64_t rows : {1, 3, 33}) {
        EmulatedAffine emulated(++seed);
        const auto reference = NewAffineReference();
        AffineResult got, want;
        for (int64_t i = 0; i < rows * cols; ++i) {
          // High bits that do not belong to a code are not packed.
          got.codes.push_back(static_cast<uint8_t>(i * 37 + i / 7));
        }
        want.codes = got.codes;
        INFO("bits " << bits << " [" << rows << ", " << cols << "] seed "
                     << seed);
        RunPacking(emulated, rows, cols, bits, &got);
        RunPacking(*reference, rows, cols, bits, &want);
        REQUIRE(got == want);
      }
    }
  }
}

TEST_CASE("the first element that is not finite is found") {
  uint64_t seed = 11000;
  for (DType dtype : kWeightTypes) {
    for (int64_t at : {0, 1, 31, 63, 64, 127, 300, 319, 321}) {
      for (float bad : {INFINITY, -INFINITY, NAN, -NAN}) {
        TestTensor weight = TestTensor::Make(dtype, 322, Kind::kGauss, 9);
        StoreFromFloat(weight.data(), dtype, at, bad);
        StoreFromFloat(weight.data(), dtype, 321, NAN);
        TestTensor even = TestTensor::Make(dtype, 384, Kind::kGauss, 9);
        StoreFromFloat(even.data(), dtype, at, bad);
        StoreFromFloat(even.data(), dtype, 383, bad);
        for (AffineSearch search :
             {AffineSearch::kMinMax, AffineSearch::kBestRange}) {
          ++seed;
          INFO(DTypeName(dtype) << " at " << at << " seed " << seed);
          EmulatedAffine emulated(seed);
          CHECK(RunAffine(emulated, {weight, 2, 23, 4, seed % 4 < 2, search, 9})
                    .first_non_finite == at);
          CHECK(RunAffine(emulated, {even, 2, 64, 4, seed % 4 < 2, search, 9})
                    .first_non_finite == at);
        }
      }
    }
  }
}

TEST_CASE("quotients by products are quotients") {
  std::mt19937_64 random(5);
  int64_t wrong = 0;
  int64_t large = 0;
  for (int i = 0; i < 2000000; ++i) {
    const auto pick = [&](int spread) {
      const auto mantissa = static_cast<float>(random() % (1 << 24));
      return std::ldexp(1.0f + mantissa * 0x1p-24f,
                        static_cast<int>(random() % (2 * spread)) - spread);
    };
    const float divisor = pick(40);
    const float x = pick(60);
    wrong += cuda::QuotientOf(x, divisor, 1.0f / divisor) != x / divisor;
    wrong += cuda::QuotientOf(-x, divisor, 1.0f / divisor) != -x / divisor;
    // The scale of a group and its elements, of any size.
    const float scale = pick(118);
    const float w = scale * (pick(9) - 1.0f);
    const float want = w / scale;
    const float got = cuda::Divider(scale)(w);
    large += std::fabs(want) >= 0x1p-40f;
    wrong += std::fabs(want) >= 0x1p-40f ? got != want
                                         : !(std::fabs(got) < 0x1p-39f);
  }
  for (float scale : {0x1p-149f, 0x1p-127f, 0x1.8p-126f, 0x1p-41f, 0x1p41f}) {
    for (int k = -512; k <= 512; ++k) {
      const float w = static_cast<float>(k) * scale;
      wrong += cuda::Divider(scale)(w) != w / scale;
    }
  }
  CHECK(wrong == 0);
  CHECK(large > 1000000);
}

TEST_CASE("what a launcher cannot serve is an error, not silence") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  auto* memory = static_cast<uint8_t*>(device.Allocate(1024));
  auto* bad = static_cast<int64_t*>(device.Allocate(8));
  AffineEncodeArgs good;
  good.weight = {memory, DType::kF32, 2, 64};
  good.group_size = 32;
  good.codes = memory + 512;
  good.scales = memory + 768;
  good.zero_points = memory + 900;
  good.first_non_finite = bad;
  const auto encode = [](const AffineEncodeArgs& args) {
    return cuda::LaunchAffineEncode(args, nullptr);
  };
  constexpr int kBad = cuda::kCudaInvalidValue;
  CHECK(encode(good) == 0);
  const auto change = [&](auto set) {
    AffineEncodeArgs args = good;
    set(args);
    return encode(args);
  };
  for (int bits : {-1, 0, 1, 9}) {
    CHECK(change([&](auto& a) { a.bits = bits; }) == kBad);
  }
  for (int64_t size : {0, -1, 48, 128}) {
    CHECK(change([&](auto& a) { a.group_size = size; }) == kBad);
  }
  CHECK(change([](auto& a) { a.weight.dtype = DType::kI32; }) == kBad);
  CHECK(change([](auto& a) { a.weight.data = nullptr; }) == kBad);
  CHECK(change([&](auto& a) { a.weight.data = memory + 2; }) == kBad);
  CHECK(change([](auto& a) { a.codes = nullptr; }) == kBad);
  CHECK(change([](auto& a) { a.scales = nullptr; }) == kBad);
  CHECK(change([&](auto& a) { a.scales = memory + 770; }) == kBad);
  CHECK(change([](auto& a) { a.first_non_finite = nullptr; }) == kBad);
  CHECK(change([](auto& a) {
          a.symmetric = false;
          a.zero_points = nullptr;
        }) == kBad);
  CHECK(cuda::LaunchAffineDecode(
            {memory, nullptr, nullptr, 4, 32, {memory, DType::kF32, 1, 64}},
            nullptr) == kBad);
  CHECK(cuda::LaunchPackRows({memory, 1, 8, 9, nullptr}, nullptr) == kBad);
  CHECK(cuda::LaunchPackRows({nullptr, 1, 8, 4, nullptr}, nullptr) == kBad);
  CHECK(cuda::LaunchPackRows({nullptr, 0, 8, 4, nullptr}, nullptr) == 0);
  CHECK(cuda::LaunchUnpackColumns({nullptr, 3, 8, 4, nullptr}, nullptr) ==
        kBad);
  CHECK(device.TakeError().empty());
}

TEST_CASE("an empty tensor has no element that is not finite") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  AffineEncodeArgs args;
  args.first_non_finite = static_cast<int64_t*>(device.Allocate(8));
  *args.first_non_finite = 5;
  CHECK(cuda::LaunchAffineEncode(args, nullptr) == 0);
  CHECK(*args.first_non_finite == -1);
}

TEST_CASE("wrong arguments are refused in words") {
  Stream stream;
  AffineDecodeArgs args;
  args.bits = 1;
  const absl::Status status = NewAffineCuda()->Decode(args, stream);
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(status.message()) == "bits: got 1, allowed 2..8");
}

}  // namespace
}  // namespace qs

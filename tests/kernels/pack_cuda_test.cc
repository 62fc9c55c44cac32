// The CUDA kernels of the packings that one file format each has, on the host
// emulation against the reference, with ==. The emulation orders threads at
// random; its seed is in every failure.
#include "kernels/cuda/affine_cuda.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/factories.h"
#include "tests/testing/emulated_affine.h"
#include "tests/testing/pack_cases.h"

namespace qs {
namespace {

using cuda::EmulatedDevice;

// Memory off its borders with half of the seeds.
void CheckAwq(const AwqPackCase& c, uint64_t seed) {
  EmulatedAffine emulated(seed);
  INFO(c.Describe() << " emulation seed " << seed);
  REQUIRE(RunAwqPacking(emulated, c) ==
          RunAwqPacking(*NewAffineReference(), c));
}

void CheckParts(const PartsCase& c, uint64_t seed) {
  EmulatedAffine emulated(seed);
  INFO(c.Describe() << " emulation seed " << seed);
  REQUIRE(RunPartsPacking(emulated, c) ==
          RunPartsPacking(*NewAffineReference(), c));
}

TEST_CASE("AWQ's words of every shape") {
  uint64_t seed = 100;
  ForAwqPackCases([&](const AwqPackCase& c) { CheckAwq(c, ++seed); });
}

TEST_CASE("AWQ's words in several tiles, and many orders of threads",
          "[race]") {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    CheckAwq({264, 132, 33}, seed);
    CheckAwq({520, 390, 66}, seed);  // beyond one sweep of the grid
    CheckAwq({32, 257, 7}, seed);
  }
}

TEST_CASE("hqq's elements of every width and length") {
  uint64_t seed = 5000;
  ForPartsCases([&](const PartsCase& c) {
    CheckParts(c, ++seed);
    CheckParts(c, ++seed);
  });
}

TEST_CASE("hqq's elements beyond one sweep of the grid", "[race]") {
  uint64_t seed = 9000;
  for (const int bits : {8, 4, 3, 2, 1}) {
    for (const int64_t part : {16000, 13001}) {
      const int64_t all = part * PackedParts(bits);
      for (const int64_t missing : {int64_t{0}, part + 160}) {
        if (missing <= all) CheckParts({bits, part, all - missing}, ++seed);
      }
    }
  }
}

TEST_CASE("what a launcher cannot serve is an error, not silence") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  auto* codes = static_cast<uint8_t*>(device.Allocate(1024));
  auto* words = static_cast<uint32_t*>(device.Allocate(1024));
  auto* odd = reinterpret_cast<uint32_t*>(codes + 2);
  constexpr int kBad = cuda::kCudaInvalidValue;
  const auto awq = [&](const uint8_t* from, int64_t rows, int64_t cols,
                       uint32_t* to, int64_t stride) {
    const int packed =
        cuda::LaunchPackAwq({from, rows, cols, to, stride}, nullptr);
    CHECK(cuda::LaunchUnpackAwq(
              {to, rows, cols, stride, const_cast<uint8_t*>(from)}, nullptr) ==
          packed);
    return packed;
  };
  CHECK(awq(codes, 16, 8, words, 2) == 0);
  CHECK(awq(nullptr, 16, 8, words, 2) == kBad);
  CHECK(awq(codes, 16, 8, nullptr, 2) == kBad);
  CHECK(awq(codes, 16, 8, odd, 2) == kBad);
  CHECK(awq(codes, 12, 8, words, 2) == kBad);
  CHECK(awq(codes, -8, 8, words, 2) == kBad);
  CHECK(awq(codes, 16, -1, words, 2) == kBad);
  CHECK(awq(codes, 16, 8, words, 1) == kBad);
  CHECK(awq(nullptr, 0, 8, nullptr, 0) == 0);
  CHECK(awq(nullptr, 8, 0, nullptr, 1) == 0);
  const auto parts = [&](const uint8_t* from, int64_t count, int bits,
                         int64_t part, void* to) {
    const int packed =
        cuda::LaunchPackParts({from, count, bits, part, to}, nullptr);
    CHECK(cuda::LaunchUnpackParts(
              {to, count, bits, part, const_cast<uint8_t*>(from)}, nullptr) ==
          packed);
    return packed;
  };
  CHECK(parts(codes, 20, 3, 2, words) == 0);
  CHECK(parts(codes, 21, 3, 2, words) == kBad);
  CHECK(parts(codes, 20, 3, 2, odd) == kBad);
  CHECK(parts(codes, 20, 4, 10, odd) == 0);
  CHECK(parts(codes, 20, 5, 10, words) == kBad);
  CHECK(parts(codes, -1, 4, 10, words) == kBad);
  CHECK(parts(codes, 20, 4, -10, words) == kBad);
  CHECK(parts(nullptr, 20, 4, 10, words) == kBad);
  CHECK(parts(codes, 20, 4, 10, nullptr) == kBad);
  CHECK(parts(nullptr, 0, 4, 0, nullptr) == 0);
  CHECK(device.TakeError().empty());
}

}  // namespace
}  // namespace qs

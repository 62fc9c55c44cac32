// Round to nearest on 16.8 M bf16 weights (4096 x 4096), groups of 128, one
// thread, every SIMD target of the machine.
#include <random>
#include <string>

#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "tests/bench/bench.h"

namespace qs {
namespace {

constexpr int64_t kSide = 4096;
constexpr int64_t kWeights = kSide * kSide;
constexpr int64_t kGroup = 128;
constexpr int64_t kGroups = kWeights / kGroup;

struct Data {
  Buffer weight = *Buffer::Allocate(kWeights * 2);
  Buffer decoded = *Buffer::Allocate(kWeights * 2);
  Buffer codes = *Buffer::Allocate(kWeights);
  Buffer words = *Buffer::Allocate(kWeights);
  Buffer scales = *Buffer::Allocate(kGroups * 2);
  Buffer zero_points = *Buffer::Allocate(kGroups);

  Data() {
    std::mt19937 random(1);
    std::normal_distribution<float> gauss(0.0f, 0.02f);
    for (int64_t i = 0; i < kWeights; ++i) {
      weight.As<uint16_t>()[i] = FloatToBf16(gauss(random));
    }
  }
};

void Encode(Backend& backend, Data& data, int bits, bool symmetric,
            AffineSearch search) {
  int64_t first_non_finite = -1;
  (void)backend.affine().Encode(
      {{data.weight.data(), DType::kBF16, kSide, kSide},
       bits,
       kGroup,
       symmetric,
       search,
       data.codes.data(),
       data.scales.data(),
       symmetric ? nullptr : data.zero_points.data(),
       &first_non_finite},
      backend.stream());
}

void Pack(Backend& backend, Data& data, int bits) {
  (void)backend.affine().PackRows(
      {data.codes.data(), kSide, kSide, bits, data.words.As<uint32_t>()},
      backend.stream());
}

void Unpack(Backend& backend, Data& data, int bits) {
  (void)backend.affine().UnpackRows(
      {data.words.As<uint32_t>(), kSide, kSide, bits, data.codes.data()},
      backend.stream());
}

void Decode(Backend& backend, Data& data) {
  (void)backend.affine().Decode(
      {data.codes.data(),
       data.scales.data(),
       nullptr,
       4,
       kGroup,
       {data.decoded.data(), DType::kBF16, kSide, kSide}},
      backend.stream());
}

void Rows(Bench& bench, Backend& backend, Data& data,
          const std::string& where) {
  constexpr int64_t kEncodeBytes = kWeights * 3 + kGroups * 2;
  const auto row = [&](const std::string& name, int64_t bytes, auto body) {
    bench.Row("affine/" + where + "/" + name, kWeights, bytes, body);
  };
  // What a job does: codes, then words.
  row("w4_encode_pack", kEncodeBytes + kWeights * 3 / 2, [&] {
    Encode(backend, data, 4, true, AffineSearch::kMinMax);
    Pack(backend, data, 4);
  });
  row("w4_encode_pack_best", kEncodeBytes + kWeights * 3 / 2, [&] {
    Encode(backend, data, 4, true, AffineSearch::kBestRange);
    Pack(backend, data, 4);
  });
  for (bool symmetric : {true, false}) {
    const std::string grid = symmetric ? "w4" : "w4_asymmetric";
    row(grid + "_encode", kEncodeBytes,
        [&] { Encode(backend, data, 4, symmetric, AffineSearch::kMinMax); });
    row(grid + "_encode_best", kEncodeBytes,
        [&] { Encode(backend, data, 4, symmetric, AffineSearch::kBestRange); });
  }
  row("w8_encode", kEncodeBytes,
      [&] { Encode(backend, data, 8, true, AffineSearch::kMinMax); });
  row("w4_decode", kEncodeBytes, [&] { Decode(backend, data); });
  for (int bits : {3, 4, 8}) {
    std::string width("w");
    width += std::to_string(bits);
    const int64_t bytes = kWeights + kWeights * bits / 8;
    row(width + "_pack", bytes, [&] { Pack(backend, data, bits); });
    row(width + "_unpack", bytes, [&] { Unpack(backend, data, bits); });
  }
}

}  // namespace

void BenchAffine(Bench& bench) {
  Data data;
  ForCpuBackends([&](Backend& backend, const std::string& where) {
    Rows(bench, backend, data, where);
  });
}

}  // namespace qs

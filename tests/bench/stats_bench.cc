// Error statistics, with the yardstick, of 16.8 M bf16 weights (4096 x 4096)
// against their own 4-bit rounding, groups of 128, one thread, every SIMD
// target of the machine.
#include <random>
#include <string>
#include <vector>

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
  std::vector<float> steps = std::vector<float>(kGroups);
  std::vector<double> group_errors = std::vector<double>(kGroups);

  Data() {
    std::mt19937 random(1);
    std::normal_distribution<float> gauss(0.0f, 0.02f);
    for (int64_t i = 0; i < kWeights; ++i) {
      weight.As<uint16_t>()[i] = FloatToBf16(gauss(random));
    }
    const auto backend = NewCpuBackend(1);
    Buffer codes = *Buffer::Allocate(kWeights);
    Buffer scales = *Buffer::Allocate(kGroups * 2);
    int64_t first_non_finite = -1;
    (void)backend->affine().Encode(
        {View(weight), 4, kGroup, true, AffineSearch::kMinMax, codes.data(),
         scales.data(), nullptr, &first_non_finite},
        backend->stream());
    (void)backend->affine().Decode(
        {codes.data(),
         scales.data(),
         nullptr,
         4,
         kGroup,
         {decoded.data(), DType::kBF16, kSide, kSide}},
        backend->stream());
    for (int64_t g = 0; g < kGroups; ++g) {
      steps[static_cast<size_t>(g)] =
          LoadAsFloat(scales.data(), DType::kBF16, g);
    }
  }
  static TensorView View(const Buffer& buffer) {
    return {buffer.data(), DType::kBF16, kSide, kSide};
  }
};

void Rows(Bench& bench, Backend& backend, Data& data,
          const std::string& where) {
  const TensorView weight = Data::View(data.weight);
  const TensorView decoded = Data::View(data.decoded);
  ErrorSums sums, rtn;
  bench.Row("stats/" + where + "/errors", kWeights, kWeights * 4, [&] {
    (void)backend.stats().Errors(
        {weight, decoded, kGroup, data.steps.data(), &sums,
         data.group_errors.data(), &rtn, /*rtn_bits=*/4},
        backend.stream());
  });
}

}  // namespace

void BenchStats(Bench& bench) {
  Data data;
  ForCpuBackends([&](Backend& backend, const std::string& where) {
    Rows(bench, backend, data, where);
  });
}

}  // namespace qs

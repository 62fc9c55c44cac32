// What is said of groups and their codes, against the standard library's
// rounding and comparisons.
#include "quant/coded_group.h"

#include <cmath>
#include <random>
#include <vector>

#include "quant/float_types.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

template <class Type>
void CheckGroups(DType dtype) {
  std::mt19937 random(5);
  std::normal_distribution<float> gauss;
  for (int run = 0; run < 200; ++run) {
    const int64_t size = 1 + run % 37;
    const float step = std::ldexp(1.0f, run % 20 - 10);
    const auto zero = static_cast<int32_t>(random() % 256);
    std::vector<typename Type::Stored> weights;
    std::vector<uint8_t> codes;
    int64_t changed = 0;
    float low = 0, high = 0;
    for (int64_t i = 0; i < size; ++i) {
      // Ties, signed zeros and what is far outside, too.
      float x = 100 * step * gauss(random);
      if (i % 5 == 1) x = step * (std::floor(x / step) + 0.5f);
      if (i % 7 == 2) x = -0.0f;
      if (i % 11 == 3) x *= 0x1p40f;
      weights.push_back(Type::Narrow(x));
      const float w = LoadAsFloat(weights.data(), dtype, i);
      low = std::fmin(low, w);
      high = std::fmax(high, w);
      const float code = std::fmin(
          std::fmax(std::nearbyint(w / step) + static_cast<float>(zero), 0.0f),
          255.0f);
      codes.push_back(static_cast<uint8_t>(code) ^ (i % 3 == 0 ? 1 : 0));
      changed += i % 3 == 0 ? 1 : 0;
    }
    INFO(DTypeName(dtype) << ", run " << run);
    CHECK(NotNearest<Type>({weights.data(), codes.data(), size, step, zero,
                            255}) == changed);
    const FloatRange range = RangeOf<Type>(weights.data(), size);
    CHECK(range.low == low);
    CHECK(range.high == high);
  }
}

TEST_CASE("codes that are not the nearest, and the range of a group") {
  CheckGroups<F32Type>(DType::kF32);
  CheckGroups<F16Type>(DType::kF16);
  CheckGroups<Bf16Type>(DType::kBF16);
}

}  // namespace
}  // namespace qs

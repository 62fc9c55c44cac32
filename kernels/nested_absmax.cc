// Tested by tests/kernels/nf4_tables_test.cc and
// tests/kernels/nf4_golden_test.cc.
#include "kernels/nested_absmax.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "kernels/nf4_math.h"
#include "kernels/nf4_tables.h"

namespace qs::nf4 {
namespace {

constexpr int64_t kLanes = 8;
constexpr size_t kLevels = 4;

int CeilLog2(int64_t n) {
  return n <= 1 ? 0 : 64 - std::countl_zero(static_cast<uint64_t>(n - 1));
}

// Sums `vectors` rows of kWidth consecutive values: a quad is 4 rows, so its
// accumulators are 4 * kWidth consecutive values as well.
template <size_t kWidth>
std::array<float, kWidth> CascadeSum(const float* values, int64_t vectors) {
  using Quad = std::array<float, 4 * kWidth>;
  const int64_t quads = vectors / 4;
  const int shift = std::max(4, CeilLog2(quads) / 4);
  const int64_t mask = (int64_t{1} << shift) - 1;
  std::array<Quad, kLevels> level{};
  const auto add = [](Quad& sum, const float* from) {
    for (size_t i = 0; i < 4 * kWidth; ++i) sum[i] += from[i];
  };
  for (int64_t q = 0; q < quads; ++q) {
    add(level[0], values + q * static_cast<int64_t>(4 * kWidth));
    int64_t done = q + 1;
    for (size_t j = 1; j < kLevels && (done & mask) == 0; ++j, done >>= shift) {
      add(level[j], level[j - 1].data());
      level[j - 1] = Quad{};
    }
  }
  for (size_t j = 1; j < kLevels; ++j) add(level[0], level[j].data());
  std::array<float, kWidth> sum{};
  std::copy_n(level[0].begin(), kWidth, sum.begin());
  const auto add_row = [&sum](const float* row) {
    for (size_t i = 0; i < kWidth; ++i) sum[i] += row[i];
  };
  for (int64_t v = 4 * quads; v < vectors; ++v) {
    add_row(values + v * static_cast<int64_t>(kWidth));
  }
  for (size_t k = 1; k < 4; ++k) add_row(level[0].data() + k * kWidth);
  return sum;
}

const std::array<float, 255>& Midpoints() {
  static const std::array<float, 255> midpoints = NestedMidpoints();
  return midpoints;
}

// Midpoints strictly below x.
int MidpointsBelow(float x) {
  const auto& midpoints = Midpoints();
  return static_cast<int>(
      std::lower_bound(midpoints.begin(), midpoints.end(), x) -
      midpoints.begin());
}

// d = absmax - offset; the largest |d|.
float Differences(const float* absmax, int64_t count, float offset, bool cuda,
                  float* d) {
  float top = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    d[i] = absmax[i] - offset;
    if (cuda) d[i] = Flush(d[i]);
    top = std::max(top, std::fabs(d[i]));
  }
  return top;
}

}  // namespace

float TorchMean(const float* values, int64_t count) {
  float sum = 0.0f;
  if (count < kLanes) {
    sum = CascadeSum<1>(values, count)[0];
  } else {
    const int64_t vectors = count / kLanes;
    const auto lanes = CascadeSum<kLanes>(values, vectors);
    for (int64_t i = vectors * kLanes; i < count; ++i) sum += values[i];
    for (float lane : lanes) sum += lane;
  }
  return sum / static_cast<float>(count);
}

float NestedEncodeBlock(const float* absmax, int64_t count, float offset,
                        Nf4Rule rule, uint8_t* codes) {
  const bool cuda = rule == Nf4Rule::kCuda;
  float d[kNestedBlockSize];
  const float max_abs = Differences(absmax, count, offset, cuda, d);
  // Not finite: the offset overflowed, and no quotient means anything.
  if (max_abs == 0.0f || !std::isfinite(max_abs)) {
    std::fill_n(codes, count, uint8_t{0});
    return max_abs;
  }
  // Infinite where an m2 that is not flushed is below 2^-128.
  const float inverse = 1.0f / max_abs;
  const float reciprocal = cuda ? Flush(inverse) : inverse;
  for (int64_t i = 0; i < count; ++i) {
    const float t = d[i] == 0.0f ? 0.0f : d[i] * reciprocal;
    codes[i] = cuda ? NestedNearest(Flush(t)) : NestedOfStep(NestedStep(t));
  }
  return max_abs;
}

float NestedDecodeOne(uint8_t code, float nested_absmax, float offset) {
  const float product = NestedLevels()[code] * nested_absmax;
  return product + offset;
}

uint8_t NestedNearest(float t) {
  const int below = MidpointsBelow(t);
  const auto& midpoints = Midpoints();
  const bool tie = below < 255 && midpoints[static_cast<size_t>(below)] == t;
  return static_cast<uint8_t>(tie ? below + below % 2 : below);
}

int NestedStep(float t) {
  const float h = (std::clamp(t, -1.0f, 1.0f) + 1.0f) * 0.5f;
  return static_cast<int>(std::fma(h, 65535.0f, 0.5f));
}

uint8_t NestedOfStep(int step) {
  const float g = -1.0f + static_cast<float>(2 * step) / 65535.0f;
  return static_cast<uint8_t>(MidpointsBelow(g));
}

}  // namespace qs::nf4

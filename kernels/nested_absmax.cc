// Tested by tests/kernels/nf4_tables_test.cc and
// tests/kernels/nf4_golden_test.cc.
#include "kernels/nested_absmax.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

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

// kCuda by table: the bits of |t| above the lowest 17 select a cell that holds
// at most one midpoint. Magnitudes below 2^-23 are below all but one of them.
class NearestTable {
 public:
  NearestTable() {
    const std::array<float, 255> midpoints = NestedMidpoints();
    for (uint32_t cell = 0; cell < kCells; ++cell) {
      const uint32_t low = (cell + kFirst) << kShift;
      uint32_t base = 127;
      uint32_t bound = kNoBound;
      for (uint32_t i = 127; i < 255; ++i) {
        const uint32_t midpoint = std::bit_cast<uint32_t>(midpoints[i]);
        if (midpoint < low) base = i + 1;
        if (midpoint >> kShift == cell + kFirst) bound = midpoint & kLowMask;
      }
      cells_[cell] = bound << 8 | base;
    }
  }

  // Three passes, so that only the look-up itself is scalar: signs and cells of
  // real data are as good as random, and branches on them are not foreseen.
  void Find(const float* t, int64_t count, uint8_t* codes) const {
    int32_t magnitude[kNestedBlockSize];
    uint32_t cell[kNestedBlockSize];
    for (int64_t i = 0; i < count; ++i) {
      const int32_t m = std::bit_cast<int32_t>(t[i]) & 0x7fffffff;
      magnitude[i] = std::min(std::max(m, kSmallest), kLargest);
    }
    for (int64_t i = 0; i < count; ++i) {
      cell[i] = cells_[static_cast<uint32_t>(magnitude[i] >> kShift) - kFirst];
    }
    for (int64_t i = 0; i < count; ++i) {
      const auto low =
          static_cast<int32_t>(static_cast<uint32_t>(magnitude[i]) & kLowMask);
      const auto bound = static_cast<int32_t>(cell[i] >> 8);
      const auto base = static_cast<int32_t>(cell[i] & 255);
      // The greater level above a midpoint, the even code on it.
      const int32_t code = base + (low + (base & 1) > bound ? 1 : 0);
      // Below zero the map mirrors; it has no counterpart of 1.0 there.
      const int32_t mirrored = std::max(254 - code, 0);
      const int32_t sign = std::bit_cast<int32_t>(t[i]) >> 31;
      codes[i] = static_cast<uint8_t>(code ^ ((code ^ mirrored) & sign));
    }
  }

 private:
  static constexpr int kShift = 17;
  static constexpr uint32_t kLowMask = (1u << kShift) - 1;
  static constexpr uint32_t kNoBound = kLowMask + 1;
  static constexpr uint32_t kFirst = (104u << 23) >> kShift;  // 2^-23
  static constexpr uint32_t kCells = (24u << 23) >> kShift;   // up to 2
  static constexpr int32_t kSmallest = kFirst << kShift;
  static constexpr int32_t kLargest = ((kFirst + kCells) << kShift) - 1;
  // The bound's lowest 17 bits (kNoBound: none), then the number of midpoints
  // below the cell.
  std::array<uint32_t, kCells> cells_;
};

const NearestTable& Nearest() {
  static const NearestTable* table = new NearestTable;
  return *table;
}

// kCpu's table: entry j is the number of midpoints strictly below
// -1 + 2j / 65535.
const std::vector<uint8_t>& CpuTable() {
  static const std::vector<uint8_t>* table = [] {
    auto* entries = new std::vector<uint8_t>(65536);
    const std::array<float, 255> midpoints = NestedMidpoints();
    for (int j = 0; j < 65536; ++j) {
      const float g = -1.0f + static_cast<float>(2 * j) / 65535.0f;
      (*entries)[static_cast<size_t>(j)] = static_cast<uint8_t>(
          std::lower_bound(midpoints.begin(), midpoints.end(), g) -
          midpoints.begin());
    }
    return entries;
  }();
  return *table;
}

uint8_t CpuCode(const std::vector<uint8_t>& table, float d, float reciprocal) {
  // The reciprocal of an m2 below 2^-128 is infinite.
  const float t = d == 0.0f ? 0.0f : d * reciprocal;
  const float v = std::clamp(t, -1.0f, 1.0f);
  const float h = (v + 1.0f) * 0.5f;
  return table[static_cast<size_t>(std::fma(h, 65535.0f, 0.5f))];
}

// Flush without a branch: half of the values are negative, which a branch
// predictor cannot learn.
float FlushBits(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t keep = (bits & 0x7f800000u) != 0 ? ~0u : 0x80000000u;
  return std::bit_cast<float>(bits & keep);
}

// d = absmax - offset, and the largest |d|: compared as integers, which orders
// magnitudes and lets the compiler use vectors.
template <bool kFlush>
float Differences(const float* absmax, int64_t count, float offset, float* d) {
  int32_t top = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float difference = absmax[i] - offset;
    d[i] = kFlush ? FlushBits(difference) : difference;
    top = std::max(top, std::bit_cast<int32_t>(d[i]) & 0x7fffffff);
  }
  return std::bit_cast<float>(top);
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
  const float max_abs = cuda ? Differences<true>(absmax, count, offset, d)
                             : Differences<false>(absmax, count, offset, d);
  // Not finite: the offset overflowed, and no quotient means anything.
  if (max_abs == 0.0f || !std::isfinite(max_abs)) {
    std::fill_n(codes, count, uint8_t{0});
    return max_abs;
  }
  if (cuda) {
    const NearestTable& table = Nearest();
    const float reciprocal = FlushBits(1.0f / max_abs);
    for (int64_t i = 0; i < count; ++i) d[i] = FlushBits(d[i] * reciprocal);
    table.Find(d, count, codes);
  } else {
    const std::vector<uint8_t>& table = CpuTable();
    const float reciprocal = 1.0f / max_abs;
    for (int64_t i = 0; i < count; ++i) {
      codes[i] = CpuCode(table, d[i], reciprocal);
    }
  }
  return max_abs;
}

float NestedDecodeOne(uint8_t code, float nested_absmax, float offset) {
  const float product = NestedLevels()[code] * nested_absmax;
  return product + offset;
}

uint8_t NestedNearest(float t) {
  static const std::array<float, 255> midpoints = NestedMidpoints();
  int below = 0;
  int up_to = 0;
  for (float h : midpoints) {
    below += h < t ? 1 : 0;
    up_to += h <= t ? 1 : 0;
  }
  return static_cast<uint8_t>(below == up_to || below % 2 == 0 ? below
                                                               : below + 1);
}

}  // namespace qs::nf4

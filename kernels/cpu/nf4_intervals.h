// Which weights a code of NF4 or FP4 may stand for. Used by nf4_verify_simd.cc
// only, and by no encoder: it is what their codes are verified with.
#ifndef QS_KERNELS_CPU_NF4_INTERVALS_H_
#define QS_KERNELS_CPU_NF4_INTERVALS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/nf4_ops.h"

namespace qs::nf4 {

// In units of absmax, on either side of the middle between two levels. The
// roundings of an encoder and of this check, and how far CUDA's thresholds are
// from the middle (3.3e-7), are together below a quarter of it.
constexpr float kIntervalSlack = 0x1p-18f;
// What rounds among, or flushes, float32's subnormals.
constexpr float kIntervalTiny = 0x1p-125f;
constexpr float kSmallestNormal = 0x1p-126f;
// Up to here CUDA's rule has a normal reciprocal; above it all codes are zeros.
constexpr float kLastReciprocal = 0x1p126f;
// What the CPU's rule divides by at least.
constexpr float kLeastCpuUnit = 1e-38f;

// By code, 0 to 15, for an absmax of 1; the ends are infinite.
struct CodeIntervals {
  explicit CodeIntervals(const float* levels) {
    for (int c = 0; c < 16; ++c) {
      zero[c] = levels[c] == 0;
      if (levels[c] == 0 && zero_code < 0) zero_code = c;
      low[c] = -std::numeric_limits<float>::infinity();
      high[c] = std::numeric_limits<float>::infinity();
      // Of the sixteen codes two of FP4's have the same level.
      for (int k = 0; k < 16; ++k) {
        const float middle = (levels[c] + levels[k]) / 2;
        if (levels[k] < levels[c]) low[c] = std::max(low[c], middle);
        if (levels[k] > levels[c]) high[c] = std::min(high[c], middle);
      }
      low[c] -= kIntervalSlack;
      high[c] += kIntervalSlack;
    }
  }

  // As nf4_verify_ops.h defines a right code without a nested_rule.
  bool Fits(int code, float w, float absmax) const {
    if (!(absmax > 0)) {
      return zero[code] || (absmax == 0 && std::fabs(w) < kSmallestNormal);
    }
    return (w >= low[code] * absmax - kIntervalTiny &&
            w <= high[code] * absmax + kIntervalTiny) ||
           (absmax > kLastReciprocal && zero[code]);
  }

  // And with one. In doubles, in which a small absmax has intervals, too.
  bool FitsRule(Nf4Rule rule, int code, float w, float absmax) const {
    const bool cuda = rule == Nf4Rule::kCuda;
    const bool nothing = std::fabs(w) < kSmallestNormal;
    if (absmax == 0) return nothing && (cuda ? code == 0 : zero[code]);
    if (!(absmax > 0 && absmax <= kLastReciprocal)) {
      return Fits(code, w, absmax);
    }
    const double unit = cuda ? absmax : std::max(absmax, kLeastCpuUnit);
    const double value = cuda && nothing ? 0 : w;
    return value >= low[code] * unit && value <= high[code] * unit;
  }

  alignas(64) float low[16];
  alignas(64) float high[16];
  bool zero[16];
  int zero_code = -1;  // the first of them
};

inline int NibbleAt(const uint8_t* packed, int64_t i) {
  return packed[i / 2] >> (i % 2 == 0 ? 4 : 0) & 15;
}

}  // namespace qs::nf4

#endif  // QS_KERNELS_CPU_NF4_INTERVALS_H_

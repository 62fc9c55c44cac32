// Host side of nf4_steps.h: finds the lines, and holds each to the ranks that
// comparisons give.
//
// A line ascends, so that its floor is right in a whole bin if it is at the
// bin's ends and at the bound between them and the next float. A product of two
// floats is exact in a double, and so is what it is compared with.
// Tested by tests/kernels/nf4_steps_test.cc.
#ifndef QS_KERNELS_CUDA_NF4_STEP_TABLE_H_
#define QS_KERNELS_CUDA_NF4_STEP_TABLE_H_

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "kernels/cuda/nf4_steps.h"
#include "kernels/nf4_math.h"
#include "kernels/nf4_tables.h"

namespace qs::cuda {

// Of |t|: what rounding may make of 1.
constexpr float kStepLimit = 1.0f + 0x1p-20f;

class StepTableBuilder {
 public:
  // `flushed`: a t that is subnormal does not come.
  StepTableBuilder(const RankTable& ranks, bool fp4, float scale, bool flushed)
      : ranks_(ranks), fp4_(fp4), scale_(scale), flushed_(flushed) {}

  // False if a bin has no line, which a test excludes.
  bool Build(StepTable& table) const {
    table.scale = scale_;
    for (int bin = 0; bin < kBins; ++bin) {
      if (!FindLine(bin, table.gain[bin], table.base[bin])) return false;
    }
    return true;
  }

 private:
  struct Range {
    float low, high;
  };

  bool IsIn(int bin, float t) const {
    return std::floor(static_cast<double>(scale_) * t) + 16 == bin;
  }
  // The last float of the bin in the direction of `outward`.
  float End(int bin, float near, float inward, float outward) const {
    float t = near;
    while (!IsIn(bin, t)) t = std::nextafter(t, inward);
    for (float next = std::nextafter(t, outward); IsIn(bin, next);
         next = std::nextafter(t, outward)) {
      t = next;
    }
    return t;
  }
  Range RangeOf(int bin) const {
    const float a = static_cast<float>(bin - 16) / scale_;
    const float b = static_cast<float>(bin - 15) / scale_;
    const auto [from, to] = std::minmax(a, b);
    Range r{End(bin, from, INFINITY, -INFINITY),
            End(bin, to, -INFINITY, INFINITY)};
    if (flushed_ && r.high < 0) r.high = std::min(r.high, -nf4::kMinNormal);
    return {std::max(r.low, -kStepLimit), std::min(r.high, kStepLimit)};
  }

  bool Gives(float gain, float base, float t, int rank) const {
    const double product = static_cast<double>(gain) * t;
    return product >= rank - static_cast<double>(base) &&
           product < rank + 1 - static_cast<double>(base);
  }
  bool Fits(float gain, float base, const Range& r, int rank) const {
    const int last = nf4::Rank(ranks_, r.high);
    if (!Gives(gain, base, r.low, rank)) return false;
    if (!Gives(gain, base, r.high, last)) return false;
    if (last == rank) return true;
    const float bound = ranks_.bounds[rank];
    return Gives(gain, base, bound, rank) &&
           Gives(gain, base, std::nextafter(bound, 2.0f), last);
  }

  bool FindLine(int bin, float& gain, float& base) const {
    const Range r = RangeOf(bin);
    const int rank = nf4::Rank(ranks_, r.low);
    const int steps = nf4::Rank(ranks_, r.high) - rank;
    if (steps > 1) return false;
    for (int i = 1; i < 16 << kFieldShift; ++i) {
      base = fp4_ ? std::ldexp(static_cast<float>(i), -kFieldShift) : kNf4Base;
      // Through the middle of a bin without a bound at the middle of a rank;
      // through the bound at a whole number.
      const float x = steps == 0 ? (r.low + r.high) / 2 : ranks_.bounds[rank];
      const float y = steps == 0 ? rank + 0.5f : rank + 1.0f;
      const float near = (y - base) / x;
      for (float g : {0.0f, near, std::nextafter(near, 0.0f),
                      std::nextafter(near, INFINITY)}) {
        gain = g;
        if (g >= 0 && Fits(g, base, r, rank)) return true;
      }
      if (!fp4_) return false;
    }
    return false;
  }

  const RankTable& ranks_;
  const bool fp4_;
  const float scale_;
  const bool flushed_;
};

// For t of at most kStepLimit, and no subnormal ones for FP4 by kCuda's rule.
// The CPU's FP4 has a bound at 0 itself: its bins are those of -t, so that 0
// goes with what is below it.
inline StepTable MakeStepTable(Codebook codebook, Nf4Rule rule) {
  const bool fp4 = codebook == Codebook::kFp4;
  const bool mirrored = fp4 && rule == Nf4Rule::kCpu;
  StepTable table{};
  table.swap_zeros = mirrored ? ~0u : 0u;
  const RankTable ranks = MakeRankTable(codebook, rule);
  StepTableBuilder(ranks, fp4, mirrored ? -15.75f : 15.75f,
                   fp4 && rule == Nf4Rule::kCuda)
      .Build(table);
  return table;
}

// The same, made once a process.
inline const StepTable& StepTableFor(Codebook codebook, Nf4Rule rule) {
  static const StepTable tables[] = {
      MakeStepTable(Codebook::kNf4, Nf4Rule::kCuda),
      MakeStepTable(Codebook::kNf4, Nf4Rule::kCpu),
      MakeStepTable(Codebook::kFp4, Nf4Rule::kCuda),
      MakeStepTable(Codebook::kFp4, Nf4Rule::kCpu)};
  return tables[(codebook == Codebook::kFp4 ? 2 : 0) +
                (rule == Nf4Rule::kCpu ? 1 : 0)];
}

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_NF4_STEP_TABLE_H_

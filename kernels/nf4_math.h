// Arithmetic of one NF4/FP4 block: what every implementation but the reference
// shares, on the host and on a device.
//
// A block is coded in two steps: its scale, then for each element
//   t = Normalize(w),  rank = number of bounds strictly below t.
//
// kCuda: m = max|w|, absmax = m, t = w * (1 / m); float32 subnormals are zero
//   before and after every operation; m = 0 codes as 0 throughout.
// kCpu:  full block: absmax = m, t = clamp(w * (1 / max(m, 1e-38)), -1, 1);
//   short last block: absmax = max(m, 1e-38), t = clamp(w / absmax, -1, 1).
//
// Search (kBestScale), with m = max|w|; no operation is contracted, all in F32.
//   1. Choose a set of codes by integers alone, whose sums have no order:
//      q = rne(w * (127 / m)), |q| <= 127, t = q / 127; candidate k gives w the
//      level L of t / Shrink(k) by the kCpu bounds.
//      C[k] = sum rne(4095 t L), S[k] = sum rne(4095 L L). The first k with the
//      greatest C * C / S, what the set's least-squares absmax takes off
//      sum(w w), compared without its lowest three bits.
//   2. a1 = (C / S) m. From a1 one step of alternating least squares: for the
//      levels L of t = w * (1 / a1), a2 = sum(w L) / sum(L L).
//   3. a2 replaces m if it lies in [m / 4, 4 m], is not above both m and 2^15
//      (F16 values stay finite, also by an absmax of 8 bits), and the squared
//      error as stored of the codes of t = w * (1 / a2) is below that of what
//      kNone stores, and by more than F32 hides (IsSurelyBelow). Otherwise the
//      block is coded as kNone would.
//      As stored: sum (w - v)^2 with v as Decode gives it, the product of level
//      and absmax in F32, rounded to the weight's dtype.
// t is clamped to [-1, 1]. Sums of 2 and 3: element i adds to partial sum
// i mod 16, and partial sums are folded as s[j] += s[j + 8], + 4, + 2, + 1.
// Outside 2^-100 <= m <= 2^100: kNone.
#ifndef QS_KERNELS_NF4_MATH_H_
#define QS_KERNELS_NF4_MATH_H_

#include <math.h>
#include <string.h>

#include <cstdint>

#include "kernels/affine_math.h"
#include "kernels/base/dtype.h"
#include "kernels/nf4_tables.h"

#ifndef QS_HD
#ifdef __CUDACC__
#define QS_HD __host__ __device__ inline
#else
#define QS_HD inline
#endif
#endif

namespace qs::nf4 {

constexpr float kMinNormal = 1.17549435e-38f;
constexpr float kCpuFloor = 1e-38f;
constexpr float kSearchMin = 0x1p-100f;
constexpr float kSearchMax = 0x1p100f;
// Candidates of the search, as multiples of the block's absmax: the best eight
// found for blocks of 32 to 256 Gaussian, Laplace and Student-t weights. Below
// 1 they cut the tails; above 1 they move NF4's wide outer steps.
constexpr int kCandidates = 8;
QS_HD float Shrink(int k) {
  const float shrink[kCandidates] = {1.09f, 1.04f,  0.96f, 0.91f,
                                     0.87f, 0.825f, 0.75f, 0.70f};
  return shrink[k];
}
constexpr int kSearchSteps = 127;
// Eight terms of a sum fit 16 bits, 4096 of them a float.
constexpr int kSearchUnit = 4095;

QS_HD float Flush(float x) {
  return (x < kMinNormal && x > -kMinNormal) ? 0.0f : x;
}

// How to normalize the elements of one block.
struct BlockScale {
  float absmax = 0;  // to store
  float factor = 0;  // multiplier, or divisor when `divide`
  bool cuda = false;
  bool divide = false;
  bool zero = false;  // kCuda's zero block: every code, padding too, is 0
};

QS_HD BlockScale MakeBlockScale(Nf4Rule rule, float max_abs, bool full_block) {
  BlockScale scale;
  if (rule == Nf4Rule::kCuda) {
    scale.cuda = true;
    scale.absmax = Flush(max_abs);
    scale.zero = scale.absmax == 0.0f;
    scale.factor = scale.zero ? 0.0f : Flush(1.0f / scale.absmax);
    return scale;
  }
  const float floored = max_abs > kCpuFloor ? max_abs : kCpuFloor;
  scale.absmax = full_block ? max_abs : floored;
  scale.divide = !full_block;
  scale.factor = full_block ? 1.0f / floored : floored;
  return scale;
}

QS_HD float Normalize(const BlockScale& scale, float w) {
  if (scale.cuda) return Flush(Flush(w) * scale.factor);
  const float t = scale.divide ? w / scale.factor : w * scale.factor;
  return t < -1.0f ? -1.0f : (t > 1.0f ? 1.0f : t);
}

QS_HD int Rank(const RankTable& table, float t) {
  int rank = 0;
  for (int k = 0; k < 15; ++k) rank += t > table.bounds[k] ? 1 : 0;
  return rank;
}

QS_HD int EncodeOne(const RankTable& table, const BlockScale& scale, float w) {
  return scale.zero ? 0 : table.codes[Rank(table, Normalize(scale, w))];
}

// The sixteen partial sums and their fold.
struct Partial16 {
  float s[16] = {};

  QS_HD void Add(int64_t i, float value) { s[i & 15] += value; }
  QS_HD float Fold() {
    for (int half = 8; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) s[j] += s[j + half];
    }
    return s[0];
  }
};

QS_HD int SearchRank(const RankTable& cpu_table, float reciprocal, float w) {
  const float t = w * reciprocal;
  return Rank(cpu_table, t < -1.0f ? -1.0f : (t > 1.0f ? 1.0f : t));
}

// What an element of step q adds to the sums of candidate k.
struct SearchTerms {
  int16_t cross;
  int16_t square;
};
QS_HD SearchTerms MakeSearchTerms(const RankTable& cpu_table, int q, int k) {
  const float t = static_cast<float>(q) / kSearchSteps;
  const float level =
      cpu_table.levels[SearchRank(cpu_table, 1.0f, t / Shrink(k))];
  return {static_cast<int16_t>(rintf(kSearchUnit * (t * level))),
          static_cast<int16_t>(rintf(kSearchUnit * (level * level)))};
}

// q of element w; `steps` is kSearchSteps / m.
QS_HD int SearchStep(float w, float steps) {
  return static_cast<int>(rintf(w * steps));
}

struct SearchSums {
  int32_t cross[kCandidates] = {};   // C
  int32_t square[kCandidates] = {};  // S
};

// C / S of the set of codes that step 1 chooses. Positive floats order as their
// bits, and the candidate's number takes the place of the lowest ones, so that
// the choice is a maximum of integers. No array index that is only known at run
// time: on a device the sums are in registers.
QS_HD float ChooseRatio(const SearchSums& sums) {
  int32_t best = 0;
  float best_cross = 0.0f;
  float best_square = 1.0f;
  for (int k = 0; k < kCandidates; ++k) {
    const float cross = static_cast<float>(sums.cross[k]);
    const float square = static_cast<float>(sums.square[k]);
    const float gain = cross * cross / square;
    int32_t bits;
    memcpy(&bits, &gain, sizeof(bits));
    const int32_t key = (bits & ~7) | (7 - k);
    if (key <= best) continue;
    best = key;
    best_cross = cross;
    best_square = square;
  }
  return best_cross / best_square;
}

// How kNone codes a block.
struct RuleCoding {
  const RankTable& table;
  BlockScale scale;
};

// What SearchAbsmax asks for, element by element. `load(i)` gives
// element i as F32; `dtype` is that of the weight.
template <class Load>
class ScalarScorer {
 public:
  QS_HD ScalarScorer(const RankTable& cpu_table, const RuleCoding& none,
                     DType dtype, const Load& load, int64_t count)
      : table_(cpu_table),
        none_(none),
        dtype_(dtype),
        load_(load),
        count_(count) {}

  // ChooseRatio of the block's sums.
  QS_HD float Ratio(float steps) const {
    SearchSums sums;
    for (int64_t i = 0; i < count_; ++i) {
      const int q = SearchStep(load_(i), steps);
      for (int k = 0; k < kCandidates; ++k) {
        const SearchTerms terms = MakeSearchTerms(table_, q, k);
        sums.cross[k] += terms.cross;
        sums.square[k] += terms.square;
      }
    }
    return ChooseRatio(sums);
  }

  // sum(w L) / sum(L L) for the levels that `absmax` gives.
  QS_HD float Fit(float absmax) const {
    Partial16 weight_level, level_level;
    const float reciprocal = 1.0f / absmax;
    for (int64_t i = 0; i < count_; ++i) {
      const float w = load_(i);
      const float level = table_.levels[SearchRank(table_, reciprocal, w)];
      weight_level.Add(i, w * level);
      level_level.Add(i, level * level);
    }
    const float cross = weight_level.Fold();
    return cross / level_level.Fold();
  }

  // As stored: of kNone, and of `absmax`.
  QS_HD void Errors(float absmax, float (&errors)[2]) const {
    Partial16 none, found;
    const float reciprocal = 1.0f / absmax;
    for (int64_t i = 0; i < count_; ++i) {
      const float w = load_(i);
      const float none_level =
          none_.table.levels[Rank(none_.table, Normalize(none_.scale, w))];
      const float level = table_.levels[SearchRank(table_, reciprocal, w)];
      none.Add(i, Squared(w, none_level, none_.scale.absmax));
      found.Add(i, Squared(w, level, absmax));
    }
    errors[0] = none.Fold();
    errors[1] = found.Fold();
  }

 private:
  QS_HD float Squared(float w, float level, float absmax) const {
    const float d = w - affine::RoundTo(dtype_, level * absmax);
    return d * d;
  }

  const RankTable& table_;
  const RuleCoding& none_;
  const DType dtype_;
  const Load& load_;
  const int64_t count_;
};

// What step 3 allows.
QS_HD bool InSearchRange(float max_abs, float fitted) {
  return fitted >= max_abs * 0.25f && fitted <= max_abs * 4.0f &&
         (fitted <= max_abs || fitted <= 0x1p15f);
}

// Whether a squared error of `count` elements is below `none` exactly, not only
// as F32 sums. A square below 2^-126 is wrong by up to 2^-150, and one above
// F32's range infinite.
QS_HD bool IsSurelyBelow(float error, float none, int64_t count) {
  const float bar = none * affine::SumSlack(count) - 0x1p-126f;
  return error < bar && error < 0x1p127f;
}

// Steps 1 and 2, for any scorer; `max_abs` where step 3 does not allow their
// result. No early return: on a device all threads of a warp score together.
// REQUIRES: Searchable(max_abs).
template <class Scorer>
QS_HD float FitAbsmax(float max_abs, const Scorer& scorer) {
  const float ratio = scorer.Ratio(kSearchSteps / max_abs);
  const float fitted = scorer.Fit(ratio * max_abs);
  return InSearchRange(max_abs, fitted) ? fitted : max_abs;
}

// The search of a block of `count` elements, as FitAbsmax; `max_abs`, kNone's
// absmax, where nothing beats it.
template <class Scorer>
QS_HD float SearchAbsmax(float max_abs, int64_t count, const Scorer& scorer) {
  const float found = FitAbsmax(max_abs, scorer);
  float errors[2];
  scorer.Errors(found, errors);
  return IsSurelyBelow(errors[1], errors[0], count) ? found : max_abs;
}

QS_HD bool Searchable(float max_abs) {
  return max_abs >= kSearchMin && max_abs <= kSearchMax;
}

}  // namespace qs::nf4

#endif  // QS_KERNELS_NF4_MATH_H_

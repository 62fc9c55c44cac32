// Arithmetic of NestedRefine (kernels/nf4_ops.h): what every implementation but
// the reference shares, on the host and on a device.
//
// A run of 256 blocks has 256 absmax values to choose from, level(c) =
// fl(fl(map[c] * nested_absmax) + offset). Its numbers are those of kNone's
// absmax, so that what REFERENCE stores is always among the choices. Of a block
// with kNone's absmax m and its nested code c0:
//   1. None: kNone's codes with level(c0); the codes of 0.0 where they cannot
//      be worse (ZeroCodesDo). Any level does for these, and the first try's,
//      if there is one, is above 0.
//   2. a = FitAbsmax, steps 1 and 2 of the search of kernels/nf4_math.h.
//   3. Tries: the level nearest to a, or the next where it is not above 0; the
//      one on the other side of a. Where a is above all levels, as it may be in
//      the block that the run's greatest absmax is of, also every third level
//      below the greatest, kWideTries of them, down to 0.6 m: some other step
//      of the codebook may fall well there.
//      Each with the codes of t = w * (1 / level), clamped to [-1, 1], by the
//      kCpu bounds.
//   4. The first try with the least squared error as stored, if that is surely
//      below the error of None (IsSurelyBelow); else None.
// As stored: sum (w - v)^2 with v as Decode gives it, the product of level and
// absmax in F32, rounded to the weight's dtype. Sums as in kernels/nf4_math.h:
// sixteen partial sums and their fold. No operation is contracted, all in F32.
// Where m is outside [2^-100, 2^100] there is no try, nor with a level there.
#ifndef QS_KERNELS_NF4_NESTED_MATH_H_
#define QS_KERNELS_NF4_NESTED_MATH_H_

#include <math.h>

#include <cstdint>

#include "kernels/nf4_math.h"

namespace qs::nf4 {

constexpr int kGreatestCode = 255;
constexpr int kWideTries = 16;
constexpr int kWideStep = 3;
constexpr float kWideLeast = 0.6f;

// The numbers of a run, and the map, subscripted by a code.
template <class Map>
struct NestedRun {
  const Map& map;
  float nested_absmax;
  float offset;

  QS_HD float LevelOf(int code) const {
    const float product = map[code] * nested_absmax;
    return product + offset;
  }
  // What `value` is on the map's scale.
  QS_HD float OnMap(float value) const {
    const float d = value - offset;
    return d == 0.0f ? 0.0f : d * (1.0f / nested_absmax);
  }
};

// Whether zeros are surely no worse than kNone's codes for `absmax`, decoded
// with `decoded`: below 0 these have the wrong sign, and far above absmax each
// is 0 or more than twice its weight (FP4 takes up to 16.5 times its smallest
// level for it). Not near 0, where the weights may be below absmax's subnormals
// and their codes any.
QS_HD bool ZeroCodesDo(float absmax, float decoded) {
  const float size = fabsf(decoded);
  return size == 0.0f ||
         (size >= kSearchMin && (decoded < 0.0f || decoded >= 64 * absmax));
}

// What a block may be stored as, with the codes that `absmax` gives.
struct NestedTry {
  int code;
  float absmax;  // its level
};

struct NestedTries {
  bool any;   // otherwise the others are placeholders
  bool wide;  // there are WideTry as well
  NestedTry nearest;
  NestedTry other;
};

// `nearest(t)` is the code of the level nearest to t; what it says of a NaN
// does not matter.
template <class Map, class Nearest>
QS_HD NestedTries MakeNestedTries(const NestedRun<Map>& run, float fitted,
                                  const Nearest& nearest) {
  NestedTries tries;
  int code = nearest(run.OnMap(fitted));
  if (!(run.LevelOf(code) > 0.0f) && code < kGreatestCode) ++code;
  const float level = run.LevelOf(code);
  tries.any = Searchable(level);
  tries.nearest = {code, tries.any ? level : 1.0f};
  tries.wide = tries.any && code == kGreatestCode && fitted > level;
  const int beside = level < fitted ? code + 1 : code - 1;
  const bool inside = beside >= 0 && beside <= kGreatestCode;
  const float other = inside ? run.LevelOf(beside) : 0.0f;
  tries.other = Searchable(other) ? NestedTry{beside, other} : tries.nearest;
  return tries;
}

// Number k of 1 to kWideTries; a code below 0 where it is none.
template <class Map>
QS_HD NestedTry WideTry(const NestedRun<Map>& run, float absmax, int k) {
  const int code = kGreatestCode - kWideStep * k;
  const float level = run.LevelOf(code);
  const bool is_one = Searchable(level) && level > kWideLeast * absmax;
  return {is_one ? code : -1, is_one ? level : 1.0f};
}

// The best of the tries so far.
struct NestedBest {
  NestedTry best;
  float error;

  QS_HD void Offer(const NestedTry& other, float its_error) {
    if (!(its_error < error)) return;
    best = other;
    error = its_error;
  }
};

}  // namespace qs::nf4

#endif  // QS_KERNELS_NF4_NESTED_MATH_H_

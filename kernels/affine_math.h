// Arithmetic of one affine group: what every implementation but the reference
// shares, on the host and on a device.
//
// kMinMax (compressed-tensors 0.20, calculate_qparams and _quantize), with R()
// rounding to the weight's dtype after every operation, low = min(0, min w),
// high = max(0, max w), codes signed, qmin = -2^(bits-1), qmax = -qmin - 1:
//   symmetric:   s = R(max(-low, high) / ((2^bits - 1) / 2)),  z = 0
//   asymmetric:  s = R(R(high - low) / (2^bits - 1)),
//                z = rne(clamp(R(qmin - R(low / s)), qmin, qmax))
//   s == 0 becomes the dtype's epsilon, but only after z was derived from it:
//   z = 0 when low is 0 (of a NaN), else qmax (of an infinity). Where
//   high - low overflows, and the library's scale with it,
//   s = R(R(high / c) - R(low / c))
//   with c = 2^bits - 1.
//   code = rne(clamp(R(R(w / s) + z), qmin, qmax))
// Decoding: w = R((code - z) * s).
//
// kBestRange. With step t and zero point z (unsigned), q(w) =
// rne(clamp(w * fl(1 / t), -z, 2^bits - 1 - z)) in plain F32; the least-squares
// scale for the codes of (t, z) is f = sum(w q) / sum(q q) and takes gain =
// sum(w q) * f off sum(w w). Sums are F32: element i of the group adds to
// partial sum i mod 16, partial sums are folded as s[j] += s[j + 8], + 4, + 2,
// + 1, no operation is contracted.
//   1. t = the min-max step (unrounded) times each factor of kShrink.coarse;
//      z = the midpoint, or for asymmetric grids the one that centres the range
//      [-z t, (c - z) t] on [low, high]:
//      rne(clamp((c - (low + high) / t) / 2)).
//   2. t = the best's step times `below` and `above`, with z and, asymmetric,
//      z - 1 and z + 1; and t = the best's f, with z.
//   The candidate of greatest gain over both rounds, the first of equals, gives
//   (R(f), z).
//   3. It replaces kMinMax if its squared error, of decoded values as stored,
//      is lower by more than what the sums can be wrong by. That of a grid with
//      a value that is stored as an infinity is infinite, and so never lower.
// Groups with max(-low, high) outside [kSearchMin, kSearchMax]: kMinMax.
#ifndef QS_KERNELS_AFFINE_MATH_H_
#define QS_KERNELS_AFFINE_MATH_H_

#include <string.h>

#include <cstdint>

#include "kernels/affine_tables.h"
#include "kernels/base/dtype.h"

#ifndef QS_HD
#ifdef __CUDACC__
#define QS_HD __host__ __device__ inline
#else
#define QS_HD inline
#endif
#endif

namespace qs::affine {

struct Spec {
  DType dtype = DType::kBF16;
  int bits = 4;
  bool symmetric = true;

  QS_HD float max_code() const { return static_cast<float>((1 << bits) - 1); }
  QS_HD float offset() const { return static_cast<float>(1 << (bits - 1)); }
};

QS_HD uint32_t BitsOf(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}
QS_HD float FloatOf(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

QS_HD float RoundToBf16(float x) {
  const uint32_t u = BitsOf(x);
  const uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);
  return FloatOf(rounded & 0xffff0000u);
}

// Adding 1.5 * 2^(e + 13), e the exponent (at least F16's lowest), leaves ten
// fraction bits. Infinite above F16's range.
QS_HD float RoundToF16(float x) {
  uint32_t top = BitsOf(x) & 0x7f800000u;
  if (top >= 0x47800000u) return x * FloatOf(0x7f800000u);
  if (top < 0x38800000u) top = 0x38800000u;
  const float shift = FloatOf(top + (13u << 23) + 0x400000u);
  const float rounded = (x + shift) - shift;
  const bool over = rounded > 65504.0f || rounded < -65504.0f;
  return over ? x * FloatOf(0x7f800000u) : rounded;
}

// REQUIRES: x is not NaN.
QS_HD float RoundTo(DType dtype, float x) {
  switch (dtype) {
    case DType::kBF16:
      return RoundToBf16(x);
    case DType::kF16:
      return RoundToF16(x);
    default:
      return x;
  }
}

QS_HD float Epsilon(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return 0x1p-7f;
    case DType::kF16:
      return 0x1p-10f;
    default:
      return 0x1p-23f;
  }
}

// `low` also for a NaN.
QS_HD float Clamp(float x, float low, float high) {
  const float raised = x > low ? x : low;
  return raised < high ? raised : high;
}

// Round half to even. REQUIRES: |x| < 2^22.
QS_HD float RoundEven(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

// low <= 0 <= high.
struct Range {
  float low = 0;
  float high = 0;
  bool finite = true;

  QS_HD float max_abs() const { return -low > high ? -low : high; }
};

struct Grid {
  float scale = 0;
  float zero_point = 0;   // unsigned
  bool searched = false;  // codes by the search's arithmetic
};

QS_HD Grid MinMaxGrid(const Spec& spec, const Range& range) {
  const DType t = spec.dtype;
  const float codes = spec.max_code();
  Grid grid;
  grid.zero_point = spec.offset();
  if (spec.symmetric) {
    grid.scale = RoundTo(t, range.max_abs() / (codes / 2));
  } else {
    const float width = RoundTo(t, range.high - range.low);
    grid.scale = RoundTo(t, width / codes);
    if (!(width < FloatOf(0x7f800000u))) {
      grid.scale = RoundTo(
          t, RoundTo(t, range.high / codes) - RoundTo(t, range.low / codes));
    }
  }
  const bool vanished = grid.scale == 0;
  if (vanished) grid.scale = Epsilon(t);
  if (!spec.symmetric && vanished) {
    if (range.low < 0) grid.zero_point = codes;
  } else if (!spec.symmetric) {
    const float lowest = -spec.offset();
    const float zero = RoundTo(t, lowest - RoundTo(t, range.low / grid.scale));
    grid.zero_point =
        RoundEven(Clamp(zero, lowest, -lowest - 1)) + spec.offset();
  }
  return grid;
}

// Steps and code ranges to score; q is clamped to [low, high].
template <int kCount>
struct Candidates {
  float step[kCount];
  float low[kCount];
  float high[kCount];

  QS_HD void Set(int k, const Spec& spec, float t, float zero_point) {
    step[k] = t;
    low[k] = -zero_point;
    high[k] = spec.max_code() - zero_point;
  }
};

QS_HD bool Searchable(const Range& range) {
  return range.finite && range.max_abs() >= kSearchMin &&
         range.max_abs() <= kSearchMax;
}

struct Best {
  float gain = -1;
  float step = 0;
  float fitted = 0;
  float zero_point = 0;
};

template <int kCount, class Scorer>
QS_HD void Offer(const Candidates<kCount>& candidates, const Scorer& scorer,
                 Best* best) {
  float fitted[kCount];
  float gain[kCount];
  scorer.Fit(candidates, fitted, gain);
  for (int k = 0; k < kCount; ++k) {
    if (!(gain[k] > best->gain)) continue;
    *best = {gain[k], candidates.step[k], fitted[k], -candidates.low[k]};
  }
}

QS_HD float CentredZeroPoint(const Spec& spec, const Range& range, float t) {
  if (spec.symmetric) return spec.offset();
  const float codes = spec.max_code();
  const float zero = (codes - (range.low + range.high) / t) * 0.5f;
  return RoundEven(Clamp(zero, 0.0f, codes));
}

template <class Scorer>
QS_HD void SecondRound(const Spec& spec, const ShrinkList& shrink,
                       const Scorer& scorer, Best* best) {
  const float below = best->step * shrink.below;
  const float above = best->step * shrink.above;
  const float z = best->zero_point;
  if (spec.symmetric) {
    Candidates<3> fine;
    fine.Set(0, spec, below, z);
    fine.Set(1, spec, above, z);
    fine.Set(2, spec, best->fitted, z);
    Offer(fine, scorer, best);
    return;
  }
  Candidates<7> fine;
  for (int shift = -1; shift <= 1; ++shift) {
    const float moved =
        Clamp(z + static_cast<float>(shift), 0.0f, spec.max_code());
    fine.Set(2 + 2 * shift, spec, below, moved);
    fine.Set(3 + 2 * shift, spec, above, moved);
  }
  fine.Set(6, spec, best->fitted, z);
  Offer(fine, scorer, best);
}

// A squared error below another one times this is below it exactly, not only as
// F32 sums: each has count / 16 + 4 additions and three roundings in a term,
// all of 2^-24.
QS_HD float SumSlack(int64_t count) {
  return 1.0f - static_cast<float>(count / 16 + 16) * 0x1p-23f;
}

// The search for any scorer, `shrink` that of the bits; on CPUs a batch of
// groups takes the same steps (kernels/cpu/affine_search-inl.h):
//   Fit(candidates, fitted[], gain[]) and
//   Errors(min_max grid, searched grid, errors[2]).
// No early return: on a device all threads of a warp score together.
// REQUIRES: Searchable(range).
template <class Scorer>
QS_HD Grid SearchGrid(const Spec& spec, const ShrinkList& shrink,
                      const Range& range, const Grid& min_max, int64_t count,
                      const Scorer& scorer) {
  const float codes = spec.max_code();
  const float base = spec.symmetric ? range.max_abs() / (codes / 2)
                                    : (range.high - range.low) / codes;
  Candidates<kCoarse> coarse;
  for (int k = 0; k < kCoarse; ++k) {
    const float t = base * shrink.coarse[k];
    coarse.Set(k, spec, t, CentredZeroPoint(spec, range, t));
  }
  Best best;
  Offer(coarse, scorer, &best);
  SecondRound(spec, shrink, scorer, &best);
  const Grid found = {RoundTo(spec.dtype, best.fitted), best.zero_point, true};
  const bool sane = found.scale > 0 && found.scale <= kSearchMax;
  const Grid searched = sane ? found : min_max;
  float errors[2];
  scorer.Errors(min_max, searched, errors);
  return errors[1] < errors[0] * SumSlack(count) ? searched : min_max;
}

}  // namespace qs::affine

#endif  // QS_KERNELS_AFFINE_MATH_H_

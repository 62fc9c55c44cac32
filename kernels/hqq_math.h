// Arithmetic of one HQQ group: the start of hqq's solver and BEST's search,
// for any implementation that can score a group.
//
// Rounding (hqq 0.2.8, Quantizer.quantize): d = fl(high - low), inverse scale
// s = min(fl(fl(1 / d) * M), 20000), 1 where d <= 1e-4, M = 2^bits - 1; zero
// z = fl(-low * s), rounded to an integer if round_zero. A d beyond F32 counts
// as its greatest number. code = clamp(rne(fl(fl(w s) + z)), 0, M).
// Iterate (optimize_weights_proximal_legacy): e = fl(w - fl(fl(code - z) / s)),
// o = shrink(e), z' = fl(sum(fl(code - fl(fl(w - o) * s))) / n). When z' = z,
// all later ones are the same.
//
// BEST, float zero. The best of two kinds of grid, by the squared error of the
// decoded values (stored scale and zero, each step of decoding rounded to their
// dtype), F32 sums of sixteen partial sums as in affine_math.h, terms scaled by
// a power of two near 1 / d; the first of equals:
//   1. every iterate (1 / s, z), with its codes;
//   2. what a search finds on x = (w - low) * fl(1 / d). For codes
//      rne(clamp(a x + b, 0, M)) the least-squares line x ~ base + step * code
//      takes gain = cov^2 / var off the squared error; the (a, b) of kShrink's
//      grid, of two rounds of neighbours, and then of the line itself
//      (kRefits) that gain most. Scale = step * d, zero = -(low + base * d) /
//      scale; each zero (at 8 bits also its integer, which a BF16 zero of over
//      a hundred needs) with that scale and with the least-squares one for its
//      codes.
// BEST, integer zero point: the best of the min-max grid of affine_math.h, the
// iterates with rounded zeros, and a search like affine_math.h's over more
// steps (kStepList).
#ifndef QS_KERNELS_HQQ_MATH_H_
#define QS_KERNELS_HQQ_MATH_H_

#include <math.h>

#include <cstdint>

#include "kernels/affine_math.h"
#include "kernels/hqq_tables.h"

namespace qs::hqq {

constexpr float kMaxFloat = 0x1.fffffep127f;

struct Spec {
  DType stored = DType::kF32;
  int bits = 4;
  bool round_zero = true;
  int iterations = 20;

  QS_HD float max_code() const { return static_cast<float>((1 << bits) - 1); }
};

// Of a group's elements; both zeros count as +0.
struct Bounds {
  float low = 0;
  float high = 0;

  QS_HD float width() const {
    const float wide = high - low;
    return kMaxFloat < wide ? kMaxFloat : wide;
  }
};

struct Start {
  float inverse = 1;
  float zero = 0;
};

QS_HD Start StartOf(const Spec& spec, const Bounds& bounds) {
  const float width = bounds.width();
  Start start;
  start.inverse = 1.0f / width * spec.max_code();
  if (width <= kSmallRange) start.inverse = 1;
  if (kMaxInverse < start.inverse) start.inverse = kMaxInverse;
  start.zero = -bounds.low * start.inverse;
  if (spec.round_zero) start.zero = rintf(start.zero);
  start.zero += 0.0f;  // no -0
  return start;
}

// Rounded to `dtype`, but finite.
QS_HD float Storable(DType dtype, float x) {
  const float top = dtype == DType::kF16    ? 65504.0f
                    : dtype == DType::kBF16 ? 0x1.fep127f
                                            : kMaxFloat;
  const float rounded = affine::RoundTo(dtype, x);
  const float raised = rounded < -top ? -top : rounded;
  return top < raised ? top : raised;
}

// Where a group's range is beyond F32, hqq's step may leave it: then the zero
// stays where it is.
QS_HD float NextOr(float zero, float next) {
  return fabsf(next) <= kMaxFloat ? next : zero;
}

// A power of two near 1 / width: what makes squares of errors representable.
QS_HD float ErrorUnit(float width) {
  const uint32_t exponent = affine::BitsOf(width) >> 23;
  const uint32_t inverse = exponent > 253 ? 1 : 254 - exponent;
  return affine::FloatOf((inverse > 253 ? 253 : inverse) << 23);
}

QS_HD bool Searchable(float width) {
  return width >= kSearchMin && width <= kSearchMax;
}

// The grid that was chosen for a group.
struct Choice {
  float error = INFINITY;
  bool iterate = true;  // codes of (inverse, zero), else of the stored pair
  float inverse = 1;
  float zero = 0;
  float stored_scale = 0;
  float stored_zero = 0;
};

// code(x) = rne(clamp(slope * x + offset, 0, M)).
constexpr int kLineBatch = 4;
struct Lines {
  float slope[kLineBatch];
  float offset[kLineBatch];
};

struct Fit {
  float gain = -1;
  float step = 0;
  float base = 0;
};

QS_HD Fit FitLine(int64_t count, float sum_x, float sum_code, float sum_square,
                  float sum_cross) {
  const auto n = static_cast<float>(count);
  const float mean = sum_code / n;
  const float variance = sum_square - mean * sum_code;
  const float covariance = sum_cross - mean * sum_x;
  if (!(variance > 0 && covariance > 0)) return {};
  const float step = covariance / variance;
  return {covariance * step, step, sum_x / n - step * mean};
}

// Where a range [low + a d, high - b d] begins and ends.
struct Inset {
  float a = 0;
  float b = 0;
};

static_assert(kGrid == kLineBatch);

template <class Scorer>
class LineSearch {
 public:
  // Both must outlive it.
  QS_HD LineSearch(const Spec& spec, const Scorer& scorer)
      : spec_(spec), scorer_(scorer) {}

  QS_HD Fit Run(const ShrinkGrid& grid) {
    Inset insets[kLineBatch];
    for (int i = 0; i < kGrid; ++i) {
      for (int j = 0; j < kGrid; ++j) {
        insets[j] = {grid.first + grid.step * static_cast<float>(i),
                     grid.first + grid.step * static_cast<float>(j)};
      }
      Score(insets);
    }
    float step = grid.step;
    for (int round = 0; round < kRefineRounds; ++round) {
      step *= kRefine;
      const Inset centre = best_inset_;
      // Eight of nine: not the centre, number 4.
      for (int half = 0; half < 2; ++half) {
        for (int k = 0; k < kLineBatch; ++k) {
          const int i = 5 * half + k;
          insets[k] = {centre.a + step * static_cast<float>(i / 3 - 1),
                       centre.b + step * static_cast<float>(i % 3 - 1)};
        }
        Score(insets);
      }
    }
    for (int i = 0; i < kRefits; ++i) {
      if (!(best_.gain > 0) || !Refit()) break;
    }
    return best_;
  }

 private:
  QS_HD void Score(const Inset (&insets)[kLineBatch]) {
    Lines lines;
    for (int k = 0; k < kLineBatch; ++k) {
      lines.slope[k] = spec_.max_code() / (1.0f - insets[k].a - insets[k].b);
      lines.offset[k] = -insets[k].a * lines.slope[k];
    }
    Fit fits[kLineBatch];
    scorer_.FitLines(lines, fits);
    for (int k = 0; k < kLineBatch; ++k) {
      if (!(fits[k].gain > best_.gain)) continue;
      best_ = fits[k];
      best_inset_ = insets[k];
    }
  }

  // Codes of the best line, and their line.
  QS_HD bool Refit() {
    const float slope = 1.0f / best_.step;
    const Fit fit = scorer_.FitLine(slope, -best_.base * slope);
    if (!(fit.gain > best_.gain)) return false;
    best_ = fit;
    return true;
  }

  const Spec& spec_;
  const Scorer& scorer_;
  Fit best_;
  Inset best_inset_;
};

// Calls visit(zero) for hqq's iterates; returns how many steps were taken.
template <class Scorer, class Visit>
QS_HD int ForIterates(const Spec& spec, const Start& start,
                      const Scorer& scorer, const Visit& visit) {
  float zero = start.zero;
  visit(zero);
  for (int k = 0; k < spec.iterations; ++k) {
    const float next = NextOr(zero, scorer.NextZero(start.inverse, zero));
    if (next == zero) return k;
    zero = next;
    visit(zero);
  }
  return spec.iterations;
}

template <class Scorer>
QS_HD void OfferStored(const Spec& spec, float scale, float zero,
                       const Scorer& scorer, Choice* best) {
  if (!(scale > 0)) return;
  for (int refit = 0; refit < 2; ++refit) {
    const float error = scorer.StoredError(scale, zero);
    if (error < best->error) *best = {error, false, 0, 0, scale, zero};
    const float fitted = Storable(spec.stored, scorer.FittedScale(scale, zero));
    if (fitted == scale || !(fitted > 0)) return;
    scale = fitted;
  }
}

// What an implementation offers for a group:
//   float NextZero(inverse, zero): hqq's step
//   float IterateError(inverse, zero, stored_scale, stored_zero)
//   void FitLines(lines, fits[kLineBatch]), Fit FitLine(slope, offset)
//   float StoredError(scale, zero), float FittedScale(scale, zero): for codes
//     rne(clamp(fl(fl(w * fl(1 / scale)) + zero), 0, M))
template <class Scorer>
QS_HD Choice SolveGroup(const Spec& spec, const ShrinkGrid& shrink,
                        const Bounds& bounds, const Scorer& scorer,
                        int* iterations) {
  const Start start = StartOf(spec, bounds);
  Choice best;
  const float scale = Storable(spec.stored, 1.0f / start.inverse);
  *iterations = ForIterates(spec, start, scorer, [&](float zero) {
    const float stored = Storable(spec.stored, zero);
    const float error = scorer.IterateError(start.inverse, zero, scale, stored);
    if (error < best.error || best.stored_scale == 0) {
      best = {error, true, start.inverse, zero, scale, stored};
    }
  });
  const float width = bounds.width();
  if (!Searchable(width)) return best;
  const Fit fit = LineSearch<Scorer>(spec, scorer).Run(shrink);
  if (!(fit.gain > 0)) return best;
  const float step = fit.step * width;
  const float zero = -(bounds.low + fit.base * width) / step;
  const float stored_step = Storable(spec.stored, step);
  OfferStored(spec, stored_step, Storable(spec.stored, zero), scorer, &best);
  if (spec.bits == 8) {
    OfferStored(spec, stored_step, Storable(spec.stored, rintf(zero)), scorer,
                &best);
  }
  return best;
}

// Integer zero points.

QS_HD affine::Spec AffineSpec(const Spec& spec) {
  return {spec.stored, spec.bits, false};
}
QS_HD affine::Range WithZero(const Bounds& bounds) {
  return {bounds.low < 0 ? bounds.low : 0.0f,
          bounds.high > 0 ? bounds.high : 0.0f, true};
}

// hqq's grid with its zero rounded; false where that says nothing.
QS_HD bool RoundedGrid(const Spec& spec, const Bounds& bounds, float inverse,
                       float zero, affine::Grid* grid) {
  const float rounded = rintf(zero);
  if (bounds.width() <= kSmallRange || !(rounded >= 0) ||
      rounded > spec.max_code()) {
    return false;
  }
  *grid = {Storable(spec.stored, 1.0f / inverse), rounded, true};
  return true;
}

template <class Scorer>
QS_HD affine::Grid SearchSteps(const Spec& spec, const StepList& steps,
                               const affine::Range& range,
                               const Scorer& scorer) {
  const affine::Spec affine_spec = AffineSpec(spec);
  const float full = (range.high - range.low) / spec.max_code();
  affine::Best best;
  const auto moved = [&](float zero, int shift) {
    return affine::Clamp(zero + static_cast<float>(shift), 0.0f,
                         spec.max_code());
  };
  for (int k = 0; k < kSteps; ++k) {
    const float step = full * steps.coarse[k];
    const float zero = affine::CentredZeroPoint(affine_spec, range, step);
    affine::Candidates<3> three;
    for (int i = 0; i < 3; ++i) {
      three.Set(i, affine_spec, step, moved(zero, i - 1));
    }
    affine::Offer(three, scorer, &best);
  }
  for (int round = 0; round < 2; ++round) {
    const float spread = round == 0 ? steps.spread : steps.spread * 0.5f;
    affine::Candidates<6> six;
    for (int i = 0; i < 3; ++i) {
      const float zero = moved(best.zero_point, i - 1);
      six.Set(2 * i, affine_spec, best.step * (1.0f - spread), zero);
      six.Set(2 * i + 1, affine_spec, best.step * (1.0f + spread), zero);
    }
    affine::Offer(six, scorer, &best);
  }
  for (int i = 0; i < kRefits; ++i) {
    affine::Candidates<1> one;
    one.Set(0, affine_spec, best.fitted, best.zero_point);
    affine::Offer(one, scorer, &best);
  }
  return {affine::RoundTo(spec.stored, best.fitted), best.zero_point, true};
}

// Beside NextZero, an implementation offers
//   void Fit(candidates, fitted[], gain[]): as in affine_math.h
//   float GridError(grid)
template <class Scorer>
QS_HD affine::Grid SolveIntegerGroup(const Spec& spec, const StepList& steps,
                                     const Bounds& bounds, const Scorer& scorer,
                                     int* iterations) {
  const affine::Range range = WithZero(bounds);
  affine::Grid best = affine::MinMaxGrid(AffineSpec(spec), range);
  float least = scorer.GridError(best);
  const auto offer = [&](const affine::Grid& grid) {
    const float error = scorer.GridError(grid);
    if (!(error < least)) return;
    least = error;
    best = grid;
  };
  const Start start = StartOf(spec, bounds);
  float last = -1;
  *iterations = ForIterates(spec, start, scorer, [&](float zero) {
    affine::Grid grid;
    if (!RoundedGrid(spec, bounds, start.inverse, zero, &grid)) return;
    if (grid.zero_point != last) offer(grid);
    last = grid.zero_point;
  });
  if (!affine::Searchable(range)) return best;
  const affine::Grid found = SearchSteps(spec, steps, range, scorer);
  if (found.scale > 0 && found.scale <= affine::kSearchMax) offer(found);
  return best;
}

}  // namespace qs::hqq

#endif  // QS_KERNELS_HQQ_MATH_H_

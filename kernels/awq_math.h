// Arithmetic of one AWQ group: what every implementation but the reference
// shares. The formulas stand in awq_ops.h; rounding to a dtype is
// affine_math.h's.
#ifndef QS_KERNELS_AWQ_MATH_H_
#define QS_KERNELS_AWQ_MATH_H_

#include <cstdint>

#include "kernels/affine_math.h"
#include "kernels/awq_ops.h"

namespace qs::awq {

inline constexpr int kClipSteps = 10;    // limits of the first round
inline constexpr double kClipGrid = 20;  // a limit is 1 - i / kClipGrid
inline constexpr int kClipRounds = 3;    // of kBest; kAutoAwq has one
inline constexpr int kClipMoves = 4;     // limits of a later round
// What candidate k of a later round adds to a limit, in widths of the range.
// Two below it, two above; the inner ones are half as far.
QS_HD float ClipMove(int k) {
  const float size = k == 1 || k == 2 ? 0.05f : 0.1f;
  return k < 2 ? -size : size;
}
QS_HD float ClipFineMove(int k) {
  const float size = k == 1 || k == 2 ? 0.015f : 0.03f;
  return k < 2 ? -size : size;
}

// The factor of the i-th limit, of the first round.
inline float ClipFactor(int i) {
  return static_cast<float>(1.0 - i / kClipGrid);
}

// A group's grid in the arithmetic of its rule.
struct Grid {
  float scale = 0;
  float zero = 0;  // unsigned
};

QS_HD float LeastScale(const AwqGridSpec& spec) {
  if (spec.min_scale > 0 || spec.rule == AwqRule::kAutoAwq) {
    return spec.min_scale;
  }
  return spec.scale_dtype == DType::kF16 ? 0x1p-14f : 0x1p-126f;
}

// Also for a NaN.
QS_HD float AtLeast(float x, float least) { return x > least ? x : least; }

// AutoAWQ's; `low` and `high` are the true extremes.
QS_HD Grid AutoAwqGrid(const AwqGridSpec& spec, float low, float high) {
  const DType t = spec.scale_dtype;
  const float least = affine::RoundTo(t, 1e-5f);
  const auto codes = static_cast<float>((1 << spec.bits) - 1);
  const auto middle = static_cast<float>(1 << (spec.bits - 1));
  if (spec.symmetric) {
    const float top = -low > high ? -low : high;
    const float range = top > least ? top : least;
    return {AtLeast(affine::RoundTo(t, range / (middle - 1)), LeastScale(spec)),
            middle};
  }
  const float width = affine::RoundTo(t, high - low);
  const float range = width > least ? width : least;
  Grid grid;
  grid.scale = AtLeast(affine::RoundTo(t, range / codes), LeastScale(spec));
  // Beyond 2^22 every float is its own integer, and is clamped anyway.
  const float zero =
      affine::Clamp(-affine::RoundTo(t, low / grid.scale), -1.0f, codes + 1);
  grid.zero = affine::Clamp(affine::RoundEven(zero), 0.0f, codes);
  return grid;
}

// Ours; low <= 0 <= high.
QS_HD Grid BestGrid(const AwqGridSpec& spec, float low, float high) {
  const DType t = spec.scale_dtype;
  const auto codes = static_cast<float>((1 << spec.bits) - 1);
  Grid grid;
  if (spec.symmetric) {
    const float top = -low > high ? -low : high;
    grid.scale =
        AtLeast(affine::RoundTo(t, top / (codes / 2)), LeastScale(spec));
    grid.zero = static_cast<float>(1 << (spec.bits - 1));
    return grid;
  }
  grid.scale =
      AtLeast(affine::RoundTo(t, (high - low) / codes), LeastScale(spec));
  const float zero = affine::Clamp(-low / grid.scale, 0.0f, codes);
  grid.zero = affine::RoundEven(zero);
  return grid;
}

QS_HD Grid MakeGrid(const AwqGridSpec& spec, float low, float high) {
  return spec.rule == AwqRule::kAutoAwq ? AutoAwqGrid(spec, low, high)
                                        : BestGrid(spec, low, high);
}

struct Limits {
  float low = 0;
  float high = 0;
};

// Candidate `k` of a later round of kBest's clip search, from the range
// [low, high] and the best limits so far. Round 1 moves the lower end, round 2
// the upper one; of a symmetric grid round 1 moves both, round 2 both by less.
QS_HD Limits MoveLimits(const AwqGridSpec& spec, int round, int k, float low,
                        float high, const Limits& best) {
  if (spec.symmetric) {
    const float top = -low > high ? -low : high;
    const float move = round == 1 ? ClipFineMove(k) : ClipFineMove(k) / 4;
    const float at = affine::Clamp(best.high + move * top, 0.0f, top);
    return {-at, at};
  }
  const float move = ClipMove(k) * (high - low);
  if (round == 1) {
    return {affine::Clamp(best.low + move, low, 0.0f), best.high};
  }
  return {best.low, affine::Clamp(best.high + move, 0.0f, high)};
}

}  // namespace qs::awq

#endif  // QS_KERNELS_AWQ_MATH_H_

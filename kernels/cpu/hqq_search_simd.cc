// HQQ's search of scale and zero point, group by group, one text for every
// instruction set. Tested by tests/kernels/hqq_differential_test.cc.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/cpu/hqq_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/hqq_search_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/hqq-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::hqq {
namespace HWY_NAMESPACE {

// Sums of terms(vector of v, terms' vectors) over n elements in sixteen parts.
template <int kSums, class Terms>
HWY_INLINE void SumTerms(const float* v, int64_t n, const Terms& terms,
                         float (&totals)[kSums]) {
  VF sums[kSums][kParts];
  for (int s = 0; s < kSums; ++s) {
    for (int64_t p = 0; p < kParts; ++p) sums[s][p] = hn::Zero(DF());
  }
  VF out[kSums];
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int64_t p = 0; p < kParts; ++p) {
      terms(hn::LoadU(DF(), v + i + p * kLanes), out);
      for (int s = 0; s < kSums; ++s) sums[s][p] = hn::Add(sums[s][p], out[s]);
    }
  }
  if (i < n) {
    float padded[16] = {};
    std::memcpy(padded, v + i, static_cast<size_t>(n - i) * sizeof(float));
    for (int64_t p = 0; p < kParts; ++p) {
      const int64_t valid = std::clamp<int64_t>(n - i - p * kLanes, 0, kLanes);
      const auto mask = hn::FirstN(DF(), static_cast<size_t>(valid));
      terms(hn::LoadU(DF(), padded + p * kLanes), out);
      for (int s = 0; s < kSums; ++s) {
        sums[s][p] = hn::Add(sums[s][p], hn::IfThenElseZero(mask, out[s]));
      }
    }
  }
  for (int s = 0; s < kSums; ++s) totals[s] = Fold(sums[s]);
}

HWY_INLINE VF Clamped(VF v, VF low, VF high) {
  return hn::Round(hn::Min(hn::Max(v, low), high));
}

// Codes of a grid with an integer zero point, as AffineOps gives them.
template <class T>
class GridCoder {
 public:
  GridCoder(const Spec& spec, const affine::Grid& grid)
      : searched_(grid.searched),
        offset_(AffineSpec(spec).offset()),
        scale_(hn::Set(DF(), grid.scale)),
        reciprocal_(hn::Set(DF(), 1.0f / grid.scale)),
        zero_(hn::Set(DF(), grid.zero_point)),
        signed_zero_(hn::Set(DF(), grid.zero_point - offset_)),
        low_(hn::Set(DF(), searched_ ? -grid.zero_point : -offset_)),
        high_(hn::Set(DF(), searched_ ? spec.max_code() - grid.zero_point
                                      : offset_ - 1)) {}

  // Code minus zero point.
  HWY_INLINE VF Steps(VF w) const {
    if (searched_) return Clamped(hn::Mul(w, reciprocal_), low_, high_);
    const VF t = RoundVector<T>(hn::Div(w, scale_));
    const VF code =
        Clamped(RoundVector<T>(hn::Add(t, signed_zero_)), low_, high_);
    return hn::Sub(code, signed_zero_);
  }
  HWY_INLINE VF Code(VF w) const { return hn::Add(Steps(w), zero_); }
  HWY_INLINE VF Decoded(VF w) const {
    return RoundVector<T>(hn::Mul(Steps(w), scale_));
  }

 private:
  const bool searched_;
  const float offset_;
  const VF scale_, reciprocal_, zero_, signed_zero_, low_, high_;
};

// What hqq_math.h asks of a group. Called from there, which is compiled for
// the baseline: no inlining.
template <class T>
class VectorScorer {
 public:
  VectorScorer(const Spec& spec, SumOrder order, int64_t count)
      : spec_(spec),
        order_(order),
        count_(count),
        memory_(static_cast<size_t>(3 * count + 16)),
        w_(memory_.data()),
        x_(w_ + count),
        residuals_(x_ + count) {}

  float* weights() { return w_; }

  // After the weights are there.
  HWY_NOINLINE void SetGroup() {
    VF least = hn::Set(DF(), INFINITY);
    VF most = hn::Set(DF(), -INFINITY);
    int64_t i = 0;
    for (; i + kLanes <= count_; i += kLanes) {
      least = hn::Min(least, hn::LoadU(DF(), w_ + i));
      most = hn::Max(most, hn::LoadU(DF(), w_ + i));
    }
    float low = hn::GetLane(hn::MinOfLanes(DF(), least));
    float high = hn::GetLane(hn::MaxOfLanes(DF(), most));
    for (; i < count_; ++i) {
      low = std::min(low, w_[i]);
      high = std::max(high, w_[i]);
    }
    bounds_ = {low + 0.0f, high + 0.0f};
    const float width = bounds_.width();
    unit_ = ErrorUnit(width);
    const VF base = hn::Set(DF(), bounds_.low);
    const VF inverse = hn::Set(DF(), 1.0f / width);
    MapRun(w_, count_, x_, [=](VF v, int64_t) HWY_ATTR {
      return hn::Mul(hn::Sub(v, base), inverse);
    });
    float sums[1];
    SumTerms(
        x_, count_, [](VF x, VF(&out)[1]) HWY_ATTR { out[0] = x; }, sums);
    sum_x_ = sums[0];
  }
  const Bounds& bounds() const { return bounds_; }

  HWY_NOINLINE float NextZero(float inverse, float zero) const {
    const VF s = hn::Set(DF(), inverse);
    const VF z = hn::Set(DF(), zero);
    const VF max_code = MaxCode();
    MapRun(w_, count_, residuals_, [=](VF v, int64_t) HWY_ATTR {
      return Residuals(v, s, z, max_code);
    });
    const float* v = residuals_;
    const float sum =
        order_ == SumOrder::kContiguous
            ? TorchSum(v, count_)
            : GroupSum(order_, count_, [v](int64_t i) { return v[i]; });
    return sum / static_cast<float>(count_);
  }

  HWY_NOINLINE float IterateError(float inverse, float zero, float scale,
                                  float stored) const {
    const VF s = hn::Set(DF(), inverse);
    const VF z = hn::Set(DF(), zero);
    const VF max_code = MaxCode();
    return DecodedError(scale, stored, [=](VF w) HWY_ATTR {
      return CodesOf(hn::Mul(w, s), z, max_code);
    });
  }

  HWY_NOINLINE void FitLines(const Lines& lines,
                             hqq::Fit (&fits)[kLineBatch]) const {
    FitBatch<kLineBatch>(lines.slope, lines.offset, fits);
  }
  HWY_NOINLINE hqq::Fit FitLine(float slope, float offset) const {
    hqq::Fit fit;
    FitBatch<1>(&slope, &offset, &fit);
    return fit;
  }

  HWY_NOINLINE float StoredError(float scale, float zero) const {
    const VF reciprocal = hn::Set(DF(), 1.0f / scale);
    const VF z = hn::Set(DF(), zero);
    const VF max_code = MaxCode();
    return DecodedError(scale, zero, [=](VF w) HWY_ATTR {
      return CodesOf(hn::Mul(w, reciprocal), z, max_code);
    });
  }

  HWY_NOINLINE float FittedScale(float scale, float zero) const {
    const VF reciprocal = hn::Set(DF(), 1.0f / scale);
    const VF z = hn::Set(DF(), zero);
    const VF max_code = MaxCode();
    const VF unit = hn::Set(DF(), unit_);
    float sums[2];
    SumTerms(
        w_, count_,
        [=](VF w, VF(&out)[2]) HWY_ATTR {
          const VF code = CodesOf(hn::Mul(w, reciprocal), z, max_code);
          const VF steps = hn::Sub(code, z);
          out[0] = hn::Mul(hn::Mul(w, unit), steps);
          out[1] = hn::Mul(steps, steps);
        },
        sums);
    return sums[0] / sums[1] / unit_;
  }

  template <int kCount>
  HWY_NOINLINE void Fit(const affine::Candidates<kCount>& candidates,
                        float (&fitted)[kCount], float (&gain)[kCount]) const {
    VF reciprocal[kCount], low[kCount], high[kCount];
    for (int k = 0; k < kCount; ++k) {
      reciprocal[k] = hn::Set(DF(), 1.0f / candidates.step[k]);
      low[k] = hn::Set(DF(), candidates.low[k]);
      high[k] = hn::Set(DF(), candidates.high[k]);
    }
    float sums[2 * kCount];
    SumTerms(
        w_, count_,
        [&](VF w, VF(&out)[2 * kCount]) HWY_ATTR {
          for (int k = 0; k < kCount; ++k) {
            const VF steps =
                Clamped(hn::Mul(w, reciprocal[k]), low[k], high[k]);
            out[2 * k] = hn::Mul(w, steps);
            out[2 * k + 1] = hn::Mul(steps, steps);
          }
        },
        sums);
    for (int k = 0; k < kCount; ++k) {
      fitted[k] = sums[2 * k] / sums[2 * k + 1];
      gain[k] = sums[2 * k] * fitted[k];
    }
  }

  HWY_NOINLINE float GridError(const affine::Grid& grid) const {
    const GridCoder<T> coder(spec_, grid);
    const VF unit = hn::Set(DF(), unit_);
    float sums[1];
    SumTerms(
        w_, count_,
        [&](VF w, VF(&out)[1]) HWY_ATTR {
          const VF d = hn::Mul(hn::Sub(w, coder.Decoded(w)), unit);
          out[0] = hn::Mul(d, d);
        },
        sums);
    return sums[0];
  }

  // The chosen grid's codes, as F32.
  HWY_NOINLINE void Codes(const Choice& best, float* codes) const {
    const VF factor =
        hn::Set(DF(), best.iterate ? best.inverse : 1.0f / best.stored_scale);
    const VF zero = hn::Set(DF(), best.iterate ? best.zero : best.stored_zero);
    const VF max_code = MaxCode();
    MapRun(w_, count_, codes, [=](VF w, int64_t) HWY_ATTR {
      return CodesOf(hn::Mul(w, factor), zero, max_code);
    });
  }
  HWY_NOINLINE void Codes(const affine::Grid& best, float* codes) const {
    const GridCoder<T> coder(spec_, best);
    MapRun(w_, count_, codes,
           [&](VF w, int64_t) HWY_ATTR { return coder.Code(w); });
  }
  // Room for them.
  float* codes() { return residuals_; }

 private:
  HWY_INLINE VF MaxCode() const { return hn::Set(DF(), spec_.max_code()); }

  template <class Coder>
  HWY_INLINE float DecodedError(float scale, float zero,
                                const Coder& coder) const {
    const VF step = hn::Set(DF(), scale);
    const VF z = hn::Set(DF(), zero);
    const VF unit = hn::Set(DF(), unit_);
    float sums[1];
    SumTerms(
        w_, count_,
        [&](VF w, VF(&out)[1]) HWY_ATTR {
          const VF steps = RoundVector<T>(hn::Sub(coder(w), z));
          const VF decoded = RoundVector<T>(hn::Mul(steps, step));
          const VF d = hn::Mul(hn::Sub(w, decoded), unit);
          out[0] = hn::Mul(d, d);
        },
        sums);
    return sums[0];
  }

  template <int kCount>
  HWY_INLINE void FitBatch(const float* slopes, const float* offsets,
                           hqq::Fit* fits) const {
    VF slope[kCount], offset[kCount];
    for (int k = 0; k < kCount; ++k) {
      slope[k] = hn::Set(DF(), slopes[k]);
      offset[k] = hn::Set(DF(), offsets[k]);
    }
    const VF max_code = MaxCode();
    float sums[3 * kCount];
    SumTerms(
        x_, count_,
        [&](VF x, VF(&out)[3 * kCount]) HWY_ATTR {
          for (int k = 0; k < kCount; ++k) {
            const VF code = CodesOf(hn::Mul(x, slope[k]), offset[k], max_code);
            out[3 * k] = code;
            out[3 * k + 1] = hn::Mul(code, code);
            out[3 * k + 2] = hn::Mul(x, code);
          }
        },
        sums);
    for (int k = 0; k < kCount; ++k) {
      fits[k] = hqq::FitLine(count_, sum_x_, sums[3 * k], sums[3 * k + 1],
                             sums[3 * k + 2]);
    }
  }

  const Spec& spec_;
  const SumOrder order_;
  const int64_t count_;
  std::vector<float> memory_;
  float* const w_;          // as F32
  float* const x_;          // (w - low) / width
  float* const residuals_;  // scratch
  Bounds bounds_;
  float unit_ = 1;
  float sum_x_ = 0;
};

// Where a group's elements are.
struct Strides {
  int64_t first = 0;
  int64_t step = 1;
};
Strides StridesOf(const HqqEncodeArgs& args, int64_t g) {
  const int64_t groups = args.weight.num_elements() / args.group_size;
  return args.axis == 1 ? Strides{g * args.group_size, 1} : Strides{g, groups};
}

template <class W>
void LoadGroup(const HqqEncodeArgs& args, const Strides& at, float* w) {
  const W* from = static_cast<const W*>(args.weight.data) + at.first;
  if (at.step == 1) {
    MapRun(from, args.group_size, w, [](VF v, int64_t) HWY_ATTR { return v; });
    return;
  }
  for (int64_t k = 0; k < args.group_size; ++k) {
    w[k] = LoadOne<W>(from, k * at.step);
  }
}

void StoreGroup(const HqqEncodeArgs& args, const Strides& at,
                const float* codes) {
  for (int64_t k = 0; k < args.group_size; ++k) {
    args.codes[at.first + k * at.step] = static_cast<uint8_t>(codes[k]);
  }
}

template <class T>
int64_t SearchTyped(const HqqEncodeArgs& args, int64_t first, int64_t last) {
  const Spec spec = {args.stored, args.bits, args.round_zero, args.iterations};
  const int64_t groups = args.weight.num_elements() / args.group_size;
  int64_t iterations = 0;
  for (int64_t g = first; g < last;) {
    const SumOrder order = GroupSumOrder(args.axis, g, groups);
    VectorScorer<T> scorer(spec, order, args.group_size);
    for (; g < last && GroupSumOrder(args.axis, g, groups) == order; ++g) {
      const Strides at = StridesOf(args, g);
      WithType(args.weight.dtype,
               [&]<class W>(W*) { LoadGroup<W>(args, at, scorer.weights()); });
      scorer.SetGroup();
      int steps = 0;
      if (args.zero_points != nullptr) {
        const affine::Grid best =
            SolveIntegerGroup(spec, kStepList[spec.bits], scorer.bounds(),
                              scorer, &steps);
        StoreFromFloat(args.scales, args.stored, g, best.scale);
        args.zero_points[g] = static_cast<uint8_t>(best.zero_point);
        scorer.Codes(best, scorer.codes());
      } else {
        const Choice best = SolveGroup(spec, kShrink[spec.bits],
                                       scorer.bounds(), scorer, &steps);
        StoreFromFloat(args.scales, args.stored, g, best.stored_scale);
        StoreFromFloat(args.zeros, args.stored, g, best.stored_zero);
        scorer.Codes(best, scorer.codes());
      }
      StoreGroup(args, at, scorer.codes());
      iterations += steps;
    }
  }
  return iterations;
}

int64_t SearchGroups(const HqqEncodeArgs& args, int64_t first, int64_t last) {
  return WithType(args.stored, [&]<class T>(T*) {
    return SearchTyped<T>(args, first, last);
  });
}

template <class T>
void WriteIntegersTyped(const HqqEncodeArgs& args, int64_t first, int64_t last,
                        const Progress& progress) {
  const Spec spec = {args.stored, args.bits, args.round_zero, args.iterations};
  VectorScorer<T> scorer(spec, SumOrder::kContiguous, args.group_size);
  for (int64_t g = first; g < last; ++g) {
    const Strides at = StridesOf(args, g);
    LoadGroup<T>(args, at, scorer.weights());
    scorer.SetGroup();
    affine::Grid grid;
    if (!RoundedGrid(spec, scorer.bounds(), progress.inverse[g],
                     progress.zero[g], &grid)) {
      grid = affine::MinMaxGrid(AffineSpec(spec), WithZero(scorer.bounds()));
    }
    StoreFromFloat(args.scales, args.stored, g, grid.scale);
    args.zero_points[g] = static_cast<uint8_t>(grid.zero_point);
    scorer.Codes(grid, scorer.codes());
    StoreGroup(args, at, scorer.codes());
  }
}

void WriteIntegers(const HqqEncodeArgs& args, int64_t first, int64_t last,
                   const Progress& progress) {
  WithType(args.stored, [&]<class T>(T*) {
    WriteIntegersTyped<T>(args, first, last, progress);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::hqq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::hqq {

HWY_EXPORT(SearchGroups);
HWY_EXPORT(WriteIntegers);

int64_t SearchGroups(const HqqEncodeArgs& args, int64_t first, int64_t last) {
  return HWY_DYNAMIC_DISPATCH(SearchGroups)(args, first, last);
}

void WriteIntegers(const HqqEncodeArgs& args, int64_t first, int64_t last,
                   const Progress& progress) {
  HWY_DYNAMIC_DISPATCH(WriteIntegers)(args, first, last, progress);
}

void WriteFloats(const HqqEncodeArgs& args, int64_t first, int64_t last,
                 const Progress& progress) {
  const DType stored = args.stored;
  if (stored == DType::kBF16) {  // the upper half of an F32
    auto* scales = static_cast<uint16_t*>(args.scales);
    auto* zeros = static_cast<uint16_t*>(args.zeros);
    const auto upper = [](float x) {
      const float rounded = Storable(DType::kBF16, x);
      return static_cast<uint16_t>(std::bit_cast<uint32_t>(rounded) >> 16);
    };
    for (int64_t g = first; g < last; ++g) {
      scales[g] = upper(1.0f / progress.inverse[g]);
      zeros[g] = upper(progress.zero[g]);
    }
    return;
  }
  for (int64_t g = first; g < last; ++g) {
    StoreFromFloat(args.scales, stored, g,
                   Storable(stored, 1.0f / progress.inverse[g]));
    StoreFromFloat(args.zeros, stored, g, Storable(stored, progress.zero[g]));
  }
}

}  // namespace qs::hqq
#endif  // HWY_ONCE

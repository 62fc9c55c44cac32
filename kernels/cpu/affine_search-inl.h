// The search of affine_math.h (SearchGrid) by vectors, for a batch of groups at
// once: the same operations in the same order. Included once for every target,
// by affine_simd.cc only.
//
// Each step of one group waits for the step before. So every step is done for
// all groups of a batch before the next one: sums by a pass over each group,
// with elements as lanes, all between two passes with groups as lanes.
//
// Fewer operations give the same bytes where an operation is exact:
//   * q is an integer of at most 255, so q q is exact, and so is w q unless w
//     is F32: fused or not, a sum is rounded once;
//   * q is rounded before it is clamped to integers, not after, and so once for
//     all zero points of a step.
#if defined(QS_KERNELS_CPU_AFFINE_SEARCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QS_KERNELS_CPU_AFFINE_SEARCH_INL_H_
#undef QS_KERNELS_CPU_AFFINE_SEARCH_INL_H_
#else
#define QS_KERNELS_CPU_AFFINE_SEARCH_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "kernels/affine_math.h"
#include "kernels/cpu/affine-inl.h"
#include "kernels/cpu/affine_sums-inl.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::affine {
namespace HWY_NAMESPACE {

constexpr int64_t kBatchElements = 4096;  // F32 values that stay in cache

HWY_INLINE int64_t PaddedSize(int64_t group_size) {
  return (group_size + 15) / 16 * 16;
}

// Groups to search at once.
HWY_INLINE int64_t SearchBatch(int64_t group_size) {
  return std::clamp<int64_t>(kBatchElements / PaddedSize(group_size), 1,
                             kBatch);
}

// `count` elements as F32, padded to a multiple of 16 with zeros, which add
// nothing to any sum.
template <class T>
HWY_INLINE void Widen(const T* w, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::Store(LoadVector(w + i), DF(), out + i);
  }
  for (; i < count; ++i) out[i] = LoadOne<T>(w, i);
  for (; i % 16 != 0; ++i) out[i] = 0.0f;
}

// sum + x q for an integer q of at most 255.
template <class T>
HWY_INLINE VF AddProduct(VF x, VF q, VF sum) {
  if constexpr (kDType<T> == DType::kF32) return hn::Add(sum, hn::Mul(x, q));
  return hn::MulAdd(x, q, sum);
}

template <class T, bool kSymmetric>
class BatchSearch {
 public:
  BatchSearch(const Spec& spec, int64_t group_size)
      : spec_(spec),
        shrink_(kShrink[spec.bits]),
        group_size_(group_size),
        whole_(group_size <= kBatchElements),
        stride_(PaddedSize(group_size)) {}

  // Replaces the min-max grids that the search improves on, and stores the
  // codes of the new ones; the codes of the other groups may be anything.
  // `count` <= SearchBatch groups that lie one behind the other.
  HWY_NOINLINE void Run(const T* w, int64_t count, const Range* ranges,
                        Grid* grids, uint8_t* codes) {
    w_ = w;
    count_ = count;
    best_ = {};
    for (int64_t b = 0; b < kBatch; ++b) {
      // Where there is no search or no group, any range will do.
      const bool search = b < count && Searchable(ranges[b]);
      const Range range = search ? ranges[b] : Range{-1.0f, 1.0f, true};
      width_.of[b] = kSymmetric ? range.max_abs() : range.high - range.low;
      sum_.of[b] = range.low + range.high;
      best_.gain.of[b] = -1.0f;
    }
    for (int64_t b = 0; b < count && whole_; ++b) {
      Widen(w + b * group_size_, group_size_, values_ + b * stride_);
    }
    SetCoarse();
    Fit<kCoarse, 1>(0);
    Choose(kCoarse);
    SetFine();
    if constexpr (kSymmetric) {
      Fit<3, 1>(0);
      Choose(3);
    } else {
      Fit<2, 3>(0);
      Fit<1, 1>(6);
      Choose(7);
    }
    Compare(grids, codes);
    for (int64_t b = 0; b < count; ++b) {
      if (better_.of[b] == 0.0f || !Searchable(ranges[b])) continue;
      grids[b] = {scale_.of[b], best_.zero.of[b], true};
    }
  }

 private:
  static constexpr int kMost = kSymmetric ? kCoarse : 7;  // candidates

  struct Candidate {
    Row step, reciprocal, low, high;
    PartialSums cross, square;
  };

  HWY_INLINE void SetCandidate(int k, int64_t b, VF step, VF zero) {
    Candidate& c = candidates_[k];
    c.step.Set(b, step);
    c.reciprocal.Set(b, hn::Div(hn::Set(DF(), 1.0f), step));
    c.low.Set(b, hn::Neg(zero));
    c.high.Set(b, hn::Sub(hn::Set(DF(), spec_.max_code()), zero));
  }

  HWY_INLINE VF ClampedZero(VF zero) const {
    return hn::Min(hn::Max(zero, hn::Zero(DF())),
                   hn::Set(DF(), spec_.max_code()));
  }

  HWY_INLINE void SetCoarse() {
    const VF codes = hn::Set(DF(), spec_.max_code());
    const VF half = hn::Set(DF(), 0.5f);
    for (int64_t b = 0; b < kBatch; b += kLanes) {
      const VF base =
          hn::Div(width_.Get(b), kSymmetric ? hn::Mul(codes, half) : codes);
      for (int k = 0; k < kCoarse; ++k) {
        const VF step = hn::Mul(base, hn::Set(DF(), shrink_.coarse[k]));
        VF zero = hn::Set(DF(), spec_.offset());
        if constexpr (!kSymmetric) {
          const VF shift = hn::Div(sum_.Get(b), step);
          zero = hn::Round(ClampedZero(hn::Mul(hn::Sub(codes, shift), half)));
        }
        SetCandidate(k, b, step, zero);
      }
    }
  }

  HWY_INLINE void SetFine() {
    for (int64_t b = 0; b < kBatch; b += kLanes) {
      const VF step = best_.step.Get(b);
      const VF below = hn::Mul(step, hn::Set(DF(), shrink_.below));
      const VF above = hn::Mul(step, hn::Set(DF(), shrink_.above));
      const VF zero = best_.zero.Get(b);
      int k = 0;
      for (int shift = kSymmetric ? 0 : -1; shift <= (kSymmetric ? 0 : 1);
           ++shift) {
        const VF moved = ClampedZero(
            hn::Add(zero, hn::Set(DF(), static_cast<float>(shift))));
        SetCandidate(k++, b, below, moved);
        SetCandidate(k++, b, above, moved);
      }
      SetCandidate(k, b, best_.fitted.Get(b), zero);
    }
  }

  // Calls pass(b, begin, count, values) for every group and, where one does not
  // fit the buffer, for every piece of it: `count` elements from `begin` on.
  template <class Pass>
  HWY_INLINE void ForPieces(const Pass& pass) {
    for (int64_t b = 0; b < count_; ++b) {
      for (int64_t i = 0; i < group_size_; i += kBatchElements) {
        const int64_t n = std::min(group_size_ - i, kBatchElements);
        if (!whole_) Widen(w_ + i, n, values_);
        pass(b, i, n, values_ + b * stride_);
      }
    }
  }

  // Sums of the candidates from `first` on: kSteps steps with each of kZeros
  // zero points.
  template <int kSteps, int kZeros>
  HWY_INLINE void Fit(int first) {
    ForPieces([&](int64_t b, int64_t begin, int64_t n,
                  const float* x) HWY_ATTR {
      for (int64_t part = 0; part < kParts; ++part) {
        FitPart<kSteps, kZeros>(candidates_ + first, b, part, begin == 0, n, x);
      }
    });
  }

  template <int kSteps, int kZeros>
  HWY_INLINE void FitPart(Candidate* candidates, int64_t b, int64_t part,
                          bool first, int64_t count, const float* values) {
    constexpr int kCount = kSteps * kZeros;
    VF reciprocal[kSteps], low[kCount], high[kCount];
    VF cross[kCount], square[kCount];
    for (int s = 0; s < kSteps; ++s) {
      reciprocal[s] = hn::Set(DF(), candidates[s].reciprocal.of[b]);
    }
    for (int k = 0; k < kCount; ++k) {
      low[k] = hn::Set(DF(), candidates[k].low.of[b]);
      high[k] = hn::Set(DF(), candidates[k].high.of[b]);
      cross[k] = square[k] = hn::Zero(DF());
    }
    if (!first) {
      for (int k = 0; k < kCount; ++k) {
        cross[k] = candidates[k].cross.Get(b, part);
        square[k] = candidates[k].square.Get(b, part);
      }
    }
    for (int64_t i = part * kLanes; i < count; i += 16) {
      const VF x = hn::Load(DF(), values + i);
      for (int s = 0; s < kSteps; ++s) {
        const VF steps = hn::Round(hn::Mul(x, reciprocal[s]));
        for (int k = s; k < kCount; k += kSteps) {
          // A symmetric grid has one range for all.
          const int range = kSymmetric ? 0 : k;
          const VF q = hn::Min(hn::Max(steps, low[range]), high[range]);
          cross[k] = AddProduct<T>(x, q, cross[k]);
          square[k] = hn::MulAdd(q, q, square[k]);
        }
      }
    }
    for (int k = 0; k < kCount; ++k) {
      candidates[k].cross.Set(b, part, cross[k]);
      candidates[k].square.Set(b, part, square[k]);
    }
  }

  // The first of the greatest gain, of what was best and `count` candidates.
  HWY_INLINE void Choose(int count) {
    for (int64_t b = 0; b < kBatch; b += kLanes) {
      VF gain = best_.gain.Get(b), step = best_.step.Get(b);
      VF fitted = best_.fitted.Get(b), zero = best_.zero.Get(b);
      for (int k = 0; k < count; ++k) {
        const Candidate& c = candidates_[k];
        const VF cross = c.cross.Fold(b);
        const VF its_fitted = hn::Div(cross, c.square.Fold(b));
        const VF its_gain = hn::Mul(cross, its_fitted);
        const auto better = hn::Gt(its_gain, gain);
        gain = hn::IfThenElse(better, its_gain, gain);
        step = hn::IfThenElse(better, c.step.Get(b), step);
        fitted = hn::IfThenElse(better, its_fitted, fitted);
        zero = hn::IfThenElse(better, hn::Neg(c.low.Get(b)), zero);
      }
      best_.gain.Set(b, gain);
      best_.step.Set(b, step);
      best_.fitted.Set(b, fitted);
      best_.zero.Set(b, zero);
    }
  }

  // Codes of the searched grids, and whether they beat the others.
  HWY_INLINE void Compare(const Grid* grids, uint8_t* codes) {
    for (int64_t b = 0; b < kBatch; b += kLanes) {
      scale_.Set(b, RoundVector<T>(best_.fitted.Get(b)));
    }
    if (kDecoderTables && spec_.bits <= 4) {
      AddErrors<kDecoderTables>(grids, codes);
    } else {
      AddErrors<false>(grids, codes);
    }
    const VF slack = hn::Set(DF(), SumSlack(group_size_));
    const VF one = hn::Set(DF(), 1.0f);
    for (int64_t b = 0; b < kBatch; b += kLanes) {
      const VF scale = scale_.Get(b);
      const auto better =
          hn::And(hn::Lt(searched_error_.Fold(b),
                         hn::Mul(min_max_error_.Fold(b), slack)),
                  hn::And(hn::Gt(scale, hn::Zero(DF())),
                          hn::Le(scale, hn::Set(DF(), kSearchMax))));
      better_.Set(b, hn::IfThenElseZero(better, one));
    }
  }

  template <bool kTable>
  HWY_INLINE void AddErrors(const Grid* grids, uint8_t* codes) {
    ForPieces([&](int64_t b, int64_t begin, int64_t n,
                  const float* values) HWY_ATTR {
      const MinMaxCoder<T, kSymmetric, NearQuotient<T>> first(spec_, grids[b]);
      const SearchCoder second(spec_, scale_.of[b], best_.zero.of[b]);
      const Decoder<T, kTable> first_value(grids[b].scale, grids[b].zero_point);
      const Decoder<T, kTable> second_value(scale_.of[b], best_.zero.of[b]);
      uint8_t* out = codes + b * group_size_ + begin;
      for (int64_t part = 0; part < kParts; ++part) {
        VF sums[2] = {hn::Zero(DF()), hn::Zero(DF())};
        if (begin > 0) {
          sums[0] = min_max_error_.Get(b, part);
          sums[1] = searched_error_.Get(b, part);
        }
        for (int64_t i = part * kLanes; i < n; i += 16) {
          const VF x = hn::Load(DF(), values + i);
          const VU code = second.Code(x);
          const VF d0 = hn::Sub(x, first_value(first.Code(x)));
          const VF d1 = hn::Sub(x, second_value(code));
          sums[0] = hn::Add(sums[0], hn::Mul(d0, d0));
          sums[1] = hn::Add(sums[1], hn::Mul(d1, d1));
          if (i + kLanes <= n) {
            StoreBytes(code, out + i);
          } else {
            uint8_t last[kLanes];
            StoreBytes(code, last);
            std::memcpy(out + i, last, static_cast<size_t>(n - i));
          }
        }
        min_max_error_.Set(b, part, sums[0]);
        searched_error_.Set(b, part, sums[1]);
      }
    });
  }

  const Spec spec_;
  const ShrinkList shrink_;
  const int64_t group_size_;
  const T* w_ = nullptr;
  int64_t count_ = 0;
  Row width_, sum_;  // of the ranges: high - low, high + low
  struct {
    Row gain, step, fitted, zero;
  } best_;      // so far
  Row scale_;   // of the best, as stored
  Row better_;  // 1 where it beats min-max
  Candidate candidates_[kMost];
  PartialSums min_max_error_, searched_error_;
  const bool whole_;      // groups fit the buffer
  const int64_t stride_;  // of groups in it
  alignas(64) float values_[kBatchElements];
};

}  // namespace HWY_NAMESPACE
}  // namespace qs::affine
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target

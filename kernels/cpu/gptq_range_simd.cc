// The grid of one group of a row, one text for every instruction set: the same
// bytes as the reference's everywhere. Sums have sixteen parts (simd-inl.h).
// Tested by tests/kernels/gptq_differential_test.cc.
#include <algorithm>
#include <cmath>

#include "kernels/affine_math.h"
#include "kernels/cpu/gptq_simd.h"
#include "kernels/gptq_tables.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gptq_range_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::gptq {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

struct Extent {
  float low = 0;
  float high = 0;
};

HWY_INLINE Extent FindExtent(const float* w, int64_t count) {
  VF low = hn::Zero(DF());
  VF high = hn::Zero(DF());
  ForVectors(w, count, [&](int64_t, VF x) HWY_ATTR {
    low = hn::Min(low, x);
    high = hn::Max(high, x);
  });
  return {hn::GetLane(hn::MinOfLanes(DF(), low)),
          hn::GetLane(hn::MaxOfLanes(DF(), high))};
}

class Finder {
 public:
  Finder(const GptqGrid& grid, GptqRange range, double norm, const float* w,
         const float* curvature, int64_t count)
      : grid_(grid),
        range_(range),
        norm_(static_cast<float>(norm)),
        max_code_(static_cast<float>((1 << grid.bits) - 1)),
        w_(w),
        curvature_(curvature),
        count_(count) {}

  HWY_INLINE GroupGrid Find() const {
    const Extent full = Stretched(FindExtent(w_, count_));
    switch (range_) {
      case GptqRange::kMse:
        return Search(kMseRanges, full,
                      [&](const GroupGrid& g) { return PowerError(g); });
      case GptqRange::kCurvature:
        return Search(kCurvatureRanges, full, [&](const GroupGrid& g) HWY_ATTR {
          return WeightedError(g);
        });
      default:
        return Grid(full, 0);
    }
  }

 private:
  Extent Stretched(Extent e) const {
    if (grid_.symmetric) {
      const bool both = e.low < 0 || range_ == GptqRange::kCurvature;
      e.high = std::max(-e.low, e.high);
      if (both) e.low = -e.high;
    }
    return e.low == 0 && e.high == 0 ? Extent{-1, 1} : e;
  }

  float Stored(float scale) const {
    const bool f16 = grid_.scale_dtype == DType::kF16;
    float least = grid_.min_scale;
    if (!(least > 0)) least = f16 ? 0x1p-14f : 0x1p-126f;
    // The largest that is finite.
    const float top =
        affine::RoundTo(grid_.scale_dtype, f16 ? 65504.0f
                                           : grid_.scale_dtype == DType::kBF16
                                               ? 0x1.fep127f
                                               : 0x1.fffffep127f);
    return std::clamp(affine::RoundTo(grid_.scale_dtype, scale), least, top);
  }

  GroupGrid Grid(const Extent& e, float shift) const {
    const float scale = (e.high - e.low) / max_code_;
    if (grid_.symmetric) return {Stored(scale), (max_code_ + 1) / 2};
    const float zero = std::nearbyint(-e.low / scale) + shift;
    return {Stored(scale), std::clamp(zero, 0.0f, max_code_)};
  }

  template <class Error>
  HWY_INLINE GroupGrid Search(int ranges, const Extent& full,
                              const Error& error) const {
    GroupGrid best;
    float least = INFINITY;
    const auto offer = [&](const GroupGrid& g) HWY_ATTR {
      const float e = error(g);
      if (!(e < least)) return;
      least = e;
      best = g;
    };
    for (int i = 0; i < ranges; ++i) {
      const auto part = static_cast<float>(1 - i / 100.0);
      const Extent e = {part * full.low, part * full.high};
      offer(Grid(e, 0));
      if (grid_.symmetric || grid_.bits != 2) continue;
      const float exact = -e.low / ((e.high - e.low) / max_code_);
      offer(Grid(e, exact > std::nearbyint(exact) ? 1.0f : -1.0f));
    }
    return best;
  }

  float PowerError(const GroupGrid& g) const {
    float sum = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const float code = std::clamp(
          std::nearbyint(w_[i] / g.scale) + g.zero_point, 0.0f, max_code_);
      sum += std::pow(std::abs(g.scale * (code - g.zero_point) - w_[i]), norm_);
    }
    return sum;
  }

  HWY_INLINE float WeightedError(const GroupGrid& g) const {
    const VF scale = hn::Set(DF(), g.scale);
    const VF zero = hn::Set(DF(), g.zero_point);
    const VF low = hn::Zero(DF());
    const VF high = hn::Set(DF(), max_code_);
    VF sums[kParts];
    for (int64_t p = 0; p < kParts; ++p) sums[p] = hn::Zero(DF());
    const auto add = [&](int64_t part, VF x, VF weight) HWY_ATTR {
      const VF code = hn::Min(
          hn::Max(hn::Add(hn::Round(hn::Div(x, scale)), zero), low), high);
      const VF d = hn::Sub(x, hn::Mul(scale, hn::Sub(code, zero)));
      sums[part] = hn::Add(sums[part], hn::Mul(hn::Mul(d, d), weight));
    };
    int64_t i = 0;
    for (; i + 16 <= count_; i += 16) {
      for (int64_t p = 0; p < kParts; ++p) {
        add(p, hn::LoadU(DF(), w_ + i + p * kLanes),
            hn::LoadU(DF(), curvature_ + i + p * kLanes));
      }
    }
    if (i < count_) {
      float w[16] = {}, weights[16] = {};
      std::copy_n(w_ + i, count_ - i, w);
      std::copy_n(curvature_ + i, count_ - i, weights);
      for (int64_t p = 0; p < kParts; ++p) {
        add(p, hn::LoadU(DF(), w + p * kLanes),
            hn::LoadU(DF(), weights + p * kLanes));
      }
    }
    return Fold(sums);
  }

  const GptqGrid& grid_;
  const GptqRange range_;
  const float norm_;
  const float max_code_;
  const float* const w_;
  const float* const curvature_;
  const int64_t count_;
};

GroupGrid FindGrid(const GptqGrid& grid, GptqRange range, double norm,
                   const float* weights, const float* curvature,
                   int64_t count) {
  return Finder(grid, range, norm, weights, curvature, count).Find();
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::gptq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::gptq {

HWY_EXPORT(FindGrid);

GroupGrid FindGrid(const GptqGrid& grid, GptqRange range, double norm,
                   const float* weights, const float* curvature,
                   int64_t count) {
  return HWY_DYNAMIC_DISPATCH(FindGrid)(grid, range, norm, weights, curvature,
                                        count);
}

}  // namespace qs::gptq
#endif  // HWY_ONCE

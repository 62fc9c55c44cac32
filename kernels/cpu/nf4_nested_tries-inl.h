// The tries of NestedRefine (kernels/nf4_nested_math.h, MakeNestedTries) for a
// batch of blocks at once: the same operations. Included once for every target,
// by nf4_nested_simd.cc only.
#if defined(QS_KERNELS_CPU_NF4_NESTED_TRIES_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef QS_KERNELS_CPU_NF4_NESTED_TRIES_INL_H_
#undef QS_KERNELS_CPU_NF4_NESTED_TRIES_INL_H_
#else
#define QS_KERNELS_CPU_NF4_NESTED_TRIES_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "kernels/cpu/nested_simd.h"
#include "kernels/cpu/nf4_search-inl.h"
#include "kernels/nf4_nested_math.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
// What a batch's blocks may be stored as, a lane each.
struct BatchTries {
  alignas(64) float none[kBatch] = {};  // NoneAbsmax
  // MakeNestedTries: the nearest, then the other.
  alignas(64) int32_t code[2][kBatch];
  alignas(64) float absmax[2][kBatch];
  alignas(64) int32_t any[kBatch];   // -1 or 0
  alignas(64) int32_t wide[kBatch];  // -1 or 0

  NestedTry Get(int64_t b, int which) const {
    return {code[which][b], absmax[which][b]};
  }
};

// All levels of a run, for its blocks, which share them.
class RunLevels {
 public:
  void Fill(const NestedRun<const float*>& run) {
    offset_ = run.offset;
    reciprocal_ = 1.0f / run.nested_absmax;
    for (int code = 0; code <= kGreatestCode; ++code) {
      levels_[code] = run.LevelOf(code);
    }
  }
  float LevelOf(int code) const { return levels_[code]; }

  // Nothing in it branches on what is one way as often as the other.
  HWY_INLINE void MakeTries(const float (&fitted)[kBatch],
                            BatchTries* tries) const {
    for (int64_t b = 0; b < kBatch; b += hn::MaxLanes(D())) {
      const V wanted = hn::LoadU(D(), fitted + b);
      I code = Nearest(wanted);
      const auto up = hn::And(
          hn::Not(hn::Gt(LevelsOf(code), hn::Zero(D()))),
          hn::RebindMask(D(), hn::Lt(code, hn::Set(DInt(), kGreatestCode))));
      code = hn::Sub(code, AsInt(up));  // a true mask is -1
      const V level = LevelsOf(code);
      const auto any = IsSearchable(level);
      const V absmax = hn::IfThenElse(any, level, hn::Set(D(), 1.0f));
      const auto at_top =
          hn::RebindMask(D(), hn::Eq(code, hn::Set(DInt(), kGreatestCode)));
      const auto wide = hn::And(any, hn::And(at_top, hn::Gt(wanted, level)));
      // -1 below, or 1.
      const I step =
          hn::Or(hn::IfThenElseZero(
                     hn::Not(hn::RebindMask(DInt(), hn::Lt(level, wanted))),
                     hn::Set(DInt(), -1)),
                 hn::Set(DInt(), 1));
      const I beside = hn::Add(code, step);
      const I inside = hn::Min(hn::Max(beside, hn::Zero(DInt())),
                               hn::Set(DInt(), kGreatestCode));
      const V other = LevelsOf(inside);
      const auto is_one = hn::And(IsSearchable(other),
                                  hn::RebindMask(D(), hn::Eq(beside, inside)));
      hn::Store(code, DInt(), tries->code[0] + b);
      hn::Store(hn::IfThenElse(hn::RebindMask(DInt(), is_one), beside, code),
                DInt(), tries->code[1] + b);
      hn::Store(absmax, D(), tries->absmax[0] + b);
      hn::Store(hn::IfThenElse(is_one, other, absmax), D(),
                tries->absmax[1] + b);
      hn::Store(AsInt(any), DInt(), tries->any + b);
      hn::Store(AsInt(wide), DInt(), tries->wide + b);
    }
  }

 private:
  using D = hn::CappedTag<float, kBatch>;
  using DInt = hn::RebindToSigned<D>;
  using V = hn::Vec<D>;
  using I = hn::Vec<DInt>;

  static HWY_INLINE I AsInt(hn::Mask<D> mask) {
    return hn::VecFromMask(DInt(), hn::RebindMask(DInt(), mask));
  }
  static HWY_INLINE hn::Mask<D> IsSearchable(V absmax) {
    return hn::And(hn::Ge(absmax, hn::Set(D(), kSearchMin)),
                   hn::Le(absmax, hn::Set(D(), kSearchMax)));
  }
  HWY_INLINE V LevelsOf(I codes) const {
    return hn::GatherIndex(D(), levels_, codes);
  }

  // NearestByCells of what `fitted` is on the map's scale.
  HWY_INLINE I Nearest(V fitted) const {
    const V d = hn::Sub(fitted, hn::Set(D(), offset_));
    const V on_map = hn::IfThenZeroElse(hn::Eq(d, hn::Zero(D())),
                                        hn::Mul(d, hn::Set(D(), reciprocal_)));
    const auto set = [](int32_t value)
                         HWY_ATTR { return hn::Set(DInt(), value); };
    const I bits = hn::BitCast(DInt(), on_map);
    const I magnitude = hn::Min(
        hn::Max(hn::And(bits, set(0x7fffffff)), set(NestedCells::kSmallest)),
        set(NestedCells::kLargest));
    const I cell =
        hn::GatherIndex(DInt(), cells_.cells.data(),
                        hn::Sub(hn::ShiftRight<NestedCells::kShift>(magnitude),
                                set(NestedCells::kFirst)));
    const I base = hn::And(cell, set(255));
    const I low = hn::Add(hn::And(magnitude, set(NestedCells::kLowMask)),
                          hn::And(base, set(1)));
    // A true mask is -1.
    const I code = hn::Sub(
        base, hn::VecFromMask(DInt(), hn::Gt(low, hn::ShiftRight<8>(cell))));
    const I mirrored = hn::Max(hn::Sub(set(254), code), hn::Zero(DInt()));
    return hn::IfThenElse(hn::Lt(bits, hn::Zero(DInt())), mirrored, code);
  }

  const NestedCells& cells_ = GetNestedCells();
  float offset_ = 0;
  float reciprocal_ = 0;
  alignas(64) float levels_[kGreatestCode + 1];
};
#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace qs::nf4
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target

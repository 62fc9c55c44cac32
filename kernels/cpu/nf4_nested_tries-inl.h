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

// The better of two tries for each block, where that is to be stored.
struct BatchChoices {
  alignas(64) int32_t which[kBatch];  // -1: the other, 0: the nearest
  alignas(64) int32_t taken[kBatch];  // -1; 0: None is no worse, or WideTry is
                                      // to be seen first
};

// Of `errors` the first are None's, the others those of the tries.
HWY_INLINE void ChooseTries(const BatchTries& tries,
                            const float (&errors)[3][kBatch],
                            int64_t block_size, BatchChoices* choices) {
  const hn::CappedTag<float, kBatch> d;
  const hn::RebindToSigned<decltype(d)> di;
  const auto slack = hn::Set(d, affine::SumSlack(block_size));
  for (int64_t b = 0; b < kBatch; b += hn::MaxLanes(d)) {
    const auto nearest = hn::LoadU(d, errors[1] + b);
    const auto other = hn::LoadU(d, errors[2] + b);
    const auto is_other = hn::Lt(other, nearest);
    const auto error = hn::IfThenElse(is_other, other, nearest);
    // IsSurelyBelow.
    const auto bar = hn::Sub(hn::Mul(hn::LoadU(d, errors[0] + b), slack),
                             hn::Set(d, 0x1p-126f));
    const auto below =
        hn::And(hn::Lt(error, bar), hn::Lt(error, hn::Set(d, 0x1p127f)));
    const auto narrow =
        hn::AndNot(hn::Load(di, tries.wide + b), hn::Load(di, tries.any + b));
    hn::Store(hn::VecFromMask(di, hn::RebindMask(di, is_other)), di,
              choices->which + b);
    hn::Store(hn::And(hn::VecFromMask(di, hn::RebindMask(di, below)), narrow),
              di, choices->taken + b);
  }
}

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

  // Nothing in it branches on what is one way as often as the other. Of the
  // blocks, `max_abs` and `none_codes` are kNone's.
  HWY_INLINE void MakeTries(const float (&max_abs)[kBatch],
                            const uint8_t (&none_codes)[kBatch],
                            const float (&fitted)[kBatch],
                            BatchTries* tries) const {
    for (int64_t b = 0; b < kBatch; b += hn::MaxLanes(D())) {
      const V wanted = hn::LoadU(D(), fitted + b);
      const hn::Rebind<uint8_t, DInt> d8;
      const V none =
          LevelsOf(hn::PromoteTo(DInt(), hn::LoadU(d8, none_codes + b)));
      const auto zeros = DoZeroCodes(hn::LoadU(D(), max_abs + b), none);
      hn::Store(hn::IfThenZeroElse(zeros, none), D(), tries->none + b);
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
  // ZeroCodesDo.
  static HWY_INLINE hn::Mask<D> DoZeroCodes(V absmax, V decoded) {
    const V size = hn::Abs(decoded);
    const auto wrong =
        hn::Or(hn::Lt(decoded, hn::Zero(D())),
               hn::Ge(decoded, hn::Mul(hn::Set(D(), 64.0f), absmax)));
    return hn::Or(hn::Eq(size, hn::Zero(D())),
                  hn::And(hn::Ge(size, hn::Set(D(), kSearchMin)), wrong));
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

// Numbers of a batch of groups: vectors have a group in each lane. Included
// once for every target, by affine_simd.cc only.
#if defined(QS_KERNELS_CPU_AFFINE_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QS_KERNELS_CPU_AFFINE_SUMS_INL_H_
#undef QS_KERNELS_CPU_AFFINE_SUMS_INL_H_
#else
#define QS_KERNELS_CPU_AFFINE_SUMS_INL_H_
#endif

#include <hwy/highway.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::affine {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

constexpr int64_t kBatch = 16;  // groups

// A number of each group.
struct Row {
  alignas(64) float of[kBatch] = {};

  HWY_INLINE VF Get(int64_t b) const { return hn::Load(DF(), of + b); }
  HWY_INLINE void Set(int64_t b, VF v) { hn::Store(v, DF(), of + b); }
};

// Sixteen partial sums of each group.
struct PartialSums {
  alignas(64) float of[kBatch][16] = {};

  HWY_INLINE void Set(int64_t group, int64_t part, VF sum) {
    hn::Store(sum, DF(), of[group] + part * kLanes);
  }
  HWY_INLINE VF Get(int64_t group, int64_t part) const {
    return hn::Load(DF(), of[group] + part * kLanes);
  }
  // Of kLanes groups from b on: each in its lane.
  HWY_INLINE VF Fold(int64_t b) const;
};

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE VF PartialSums::Fold(int64_t b) const {
  VF sums[16];
  for (int i = 0; i < 16; ++i) sums[i] = hn::Set(DF(), of[b][i]);
  return hn::Set(DF(), HWY_NAMESPACE::Fold(sums));
}
#else
// Every step adds the halves of what is left of each set, and puts two sets
// into the place of one.
class Folder {
 public:
  explicit Folder(const float (*sets)[16]) : sets_(sets) {}

  HWY_INLINE VF All() const {
    const VF x = Pairs(Quads(0), Quads(2));
    const VF y = Pairs(Quads(1), Quads(3));
    return hn::Add(hn::OddEven(y, x), hn::Shuffle2301(hn::OddEven(x, y)));
  }

 private:
  // Four sums are left of each set: those of set 4 * block + i in each block.
  HWY_INLINE VF Quads(int i) const {
    if constexpr (kLanes == 16) {
      return Blocks(Halves(Load(i), Load(i + 8)),
                    Halves(Load(i + 4), Load(i + 12)));
    } else if constexpr (kLanes == 8) {
      return Blocks(Load(i), Load(i + 4));
    } else {
      return Load(i);
    }
  }
  HWY_INLINE VF Load(int i) const {
    VF part[kParts];
    for (int64_t p = 0; p < kParts; ++p) {
      part[p] = hn::Load(DF(), sets_[i] + p * kLanes);
    }
    for (int64_t half = kParts / 2; half > 0; half /= 2) {
      for (int64_t p = 0; p < half; ++p) {
        part[p] = hn::Add(part[p], part[p + half]);
      }
    }
    return part[0];
  }
  static HWY_INLINE VF Halves(VF x, VF y) {
    return hn::Add(hn::ConcatLowerLower(DF(), y, x),
                   hn::ConcatUpperUpper(DF(), y, x));
  }
  static HWY_INLINE VF Blocks(VF x, VF y) {
    return hn::Add(hn::OddEvenBlocks(y, x),
                   hn::SwapAdjacentBlocks(hn::OddEvenBlocks(x, y)));
  }
  static HWY_INLINE VF Pairs(VF x, VF y) {
    const hn::Repartition<double, DF> d64;
    const auto x64 = hn::BitCast(d64, x);
    const auto y64 = hn::BitCast(d64, y);
    return hn::Add(hn::BitCast(DF(), hn::InterleaveLower(d64, x64, y64)),
                   hn::BitCast(DF(), hn::InterleaveUpper(d64, x64, y64)));
  }
  const float (*const sets_)[16];
};

HWY_INLINE VF PartialSums::Fold(int64_t b) const {
  return Folder(of + b).All();
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace qs::affine
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target

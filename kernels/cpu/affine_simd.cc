// The affine loops, one text for every instruction set.
// Tested by tests/kernels/affine_differential_test.cc.
//
// A clamped quotient becomes a code by one addition: 1.5 * 2^23 pushes the
// fraction out of the mantissa, rounding half to even, and leaves the integer
// in the lowest byte. The end of a group that fills no vector is taken through
// a buffer padded with zeros, which add nothing to any sum.
#include "kernels/cpu/affine_simd.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/affine_math.h"
#include "kernels/base/dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/affine_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::affine {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

constexpr float kMagic = 0x1.8p23f;

// Floats as integers of the same order, and back.
template <class I>
constexpr I Ordered(I bits) {
  constexpr I kMagnitude = static_cast<I>(~(I{1} << (8 * sizeof(I) - 1)));
  return static_cast<I>(bits ^ ((bits >> (8 * sizeof(I) - 1)) & kMagnitude));
}

template <class I>
struct Extremes {
  I low = 0;
  I high = 0;
};

// Least and greatest of 0 and the elements, in integer order.
template <class I>
HWY_INLINE Extremes<I> FindExtremes(const I* w, int64_t count) {
  const hn::CappedTag<I, 64 / sizeof(I)> d;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  constexpr int kSign = 8 * sizeof(I) - 1;
  const auto magnitude = hn::Set(d, static_cast<I>(~(I{1} << kSign)));
  auto low = hn::Zero(d);
  auto high = hn::Zero(d);
  int64_t i = 0;
  for (; i + n <= count; i += n) {
    const auto bits = hn::LoadU(d, w + i);
    const auto ordered =
        hn::Xor(bits, hn::And(hn::ShiftRight<kSign>(bits), magnitude));
    low = hn::Min(low, ordered);
    high = hn::Max(high, ordered);
  }
  Extremes<I> e = {hn::GetLane(hn::MinOfLanes(d, low)),
                   hn::GetLane(hn::MaxOfLanes(d, high))};
  for (; i < count; ++i) {
    e.low = std::min(e.low, Ordered(w[i]));
    e.high = std::max(e.high, Ordered(w[i]));
  }
  return e;
}

template <class T>
HWY_INLINE Range FindRange(const T* w, int64_t count, bool magnitude_only) {
  Range range;
  if (magnitude_only) {  // all that a symmetric min-max grid needs
    range.high = MaxAbs(w, count);
    range.low = -range.high;
  } else {
    using I = std::conditional_t<sizeof(T) == 2, int16_t, int32_t>;
    const Extremes<I> e = FindExtremes(reinterpret_cast<const I*>(w), count);
    const I low = Ordered(e.low);
    range.low = LoadOne<T>(&low, 0);
    range.high = LoadOne<T>(&e.high, 0);
  }
  range.finite = std::isfinite(range.low) && std::isfinite(range.high);
  return range;
}

// Codes and decoded values of a min-max grid, in the type's own arithmetic.
template <class T, bool kSymmetric>
class MinMaxCoder {
 public:
  MinMaxCoder(const Spec& spec, const Grid& grid)
      : scale_(hn::Set(DF(), grid.scale)),
        zero_(hn::Set(DF(), grid.zero_point - spec.offset())),
        low_(hn::Set(DF(), -spec.offset())),
        high_(hn::Set(DF(), spec.offset() - 1)),
        magic_(hn::Set(DF(), kMagic + spec.offset())) {}
  HWY_INLINE VU Code(VF x) const {
    return hn::BitCast(DU(), hn::Add(Steps(x), magic_));
  }
  HWY_INLINE VF Decoded(VF x) const {
    const VF steps = hn::Sub(hn::Round(Steps(x)), zero_);
    return RoundVector<T>(hn::Mul(steps, scale_));
  }

 private:
  HWY_INLINE VF Steps(VF x) const {
    VF t = RoundVector<T>(hn::Div(x, scale_));
    if constexpr (!kSymmetric) t = RoundVector<T>(hn::Add(t, zero_));
    return hn::Min(hn::Max(t, low_), high_);
  }
  const VF scale_, zero_, low_, high_, magic_;
};

// The same for a grid that was searched, in F32.
template <class T>
class SearchCoder {
 public:
  SearchCoder(const Spec& spec, const Grid& grid)
      : scale_(hn::Set(DF(), grid.scale)),
        reciprocal_(hn::Set(DF(), 1.0f / grid.scale)),
        zero_(hn::Set(DF(), grid.zero_point)),
        low_(hn::Set(DF(), -grid.zero_point)),
        high_(hn::Set(DF(), spec.max_code() - grid.zero_point)) {}
  // Two additions: the zero point may be odd, and must not decide ties.
  HWY_INLINE VU Code(VF x) const {
    const VF rounded = hn::Add(Steps(x), hn::Set(DF(), kMagic));
    return hn::BitCast(DU(), hn::Add(rounded, zero_));
  }
  HWY_INLINE VF Decoded(VF x) const {
    return RoundVector<T>(hn::Mul(hn::Round(Steps(x)), scale_));
  }

 private:
  HWY_INLINE VF Steps(VF x) const {
    return hn::Min(hn::Max(hn::Mul(x, reciprocal_), low_), high_);
  }
  const VF scale_, reciprocal_, zero_, low_, high_;
};

template <class T, class Coder>
HWY_INLINE void StoreCodes(const Coder& coder, const T* w, int64_t count,
                           uint8_t* codes) {
  int64_t i = 0;
  if constexpr (kDType<T> == DType::kBF16) {
    // A 32-bit lane holds two elements, and a BF16 is the upper half of its
    // F32: no widening, and half the packing.
    const hn::Rebind<uint16_t, DU> d16;
    const auto* pairs = reinterpret_cast<const uint32_t*>(w);
    for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
      const VU pair = hn::LoadU(DU(), pairs + i / 2);
      const VU first = coder.Code(hn::BitCast(DF(), hn::ShiftLeft<16>(pair)));
      const VU second = coder.Code(
          hn::BitCast(DF(), hn::And(pair, hn::Set(DU(), 0xffff0000u))));
      const VU both =
          hn::Or(hn::And(first, hn::Set(DU(), 0xff)), hn::ShiftLeft<8>(second));
      hn::StoreU(hn::TruncateTo(d16, both), d16,
                 reinterpret_cast<uint16_t*>(codes + i));
    }
  }
  for (; i + kLanes <= count; i += kLanes) {
    StoreBytes(coder.Code(LoadVector(w + i)), codes + i);
  }
  if (i >= count) return;
  uint8_t last[16];
  ForVectors(w + i, count - i, [&](int64_t part, VF x) HWY_ATTR {
    StoreBytes(coder.Code(x), last + part * kLanes);
  });
  std::memcpy(codes + i, last, static_cast<size_t>(count - i));
}

// What SearchGrid needs of a group, for vectors.
template <class T, bool kSymmetric>
class VectorScorer {
 public:
  VectorScorer(const Spec& spec, const T* w, int64_t count)
      : spec_(spec), w_(w), count_(count) {}

  // Called from SearchGrid, which is compiled for the baseline: no inlining.
  template <int kCount>
  HWY_NOINLINE void Fit(const Candidates<kCount>& candidates,
                        float (&fitted)[kCount], float (&gain)[kCount]) const {
    VF cross[kCount][kParts], square[kCount][kParts];
    VF reciprocal[kCount], low[kCount], high[kCount];
    for (int k = 0; k < kCount; ++k) {
      for (int64_t p = 0; p < kParts; ++p) {
        cross[k][p] = square[k][p] = hn::Zero(DF());
      }
      reciprocal[k] = hn::Set(DF(), 1.0f / candidates.step[k]);
      low[k] = hn::Set(DF(), candidates.low[k]);
      high[k] = hn::Set(DF(), candidates.high[k]);
    }
    ForVectors(w_, count_, [&](int64_t p, VF x) HWY_ATTR {
      for (int k = 0; k < kCount; ++k) {
        // A symmetric grid has one range for all.
        const int range = kSymmetric ? 0 : k;
        const VF q = hn::Round(hn::Min(
            hn::Max(hn::Mul(x, reciprocal[k]), low[range]), high[range]));
        cross[k][p] = hn::Add(cross[k][p], hn::Mul(x, q));
        square[k][p] = hn::Add(square[k][p], hn::Mul(q, q));
      }
    });
    for (int k = 0; k < kCount; ++k) {
      const float weight_code = Fold(cross[k]);
      fitted[k] = weight_code / Fold(square[k]);
      gain[k] = weight_code * fitted[k];
    }
  }

  HWY_NOINLINE void Errors(const Grid& min_max, const Grid& searched,
                           float (&errors)[2]) const {
    const MinMaxCoder<T, kSymmetric> first(spec_, min_max);
    const SearchCoder<T> second(spec_, searched);
    VF sums[2][kParts];
    for (int64_t p = 0; p < kParts; ++p) {
      sums[0][p] = sums[1][p] = hn::Zero(DF());
    }
    ForVectors(w_, count_, [&](int64_t p, VF x) HWY_ATTR {
      const VF d0 = hn::Sub(x, first.Decoded(x));
      const VF d1 = hn::Sub(x, second.Decoded(x));
      sums[0][p] = hn::Add(sums[0][p], hn::Mul(d0, d0));
      sums[1][p] = hn::Add(sums[1][p], hn::Mul(d1, d1));
    });
    errors[0] = Fold(sums[0]);
    errors[1] = Fold(sums[1]);
  }

 private:
  const Spec& spec_;
  const T* const w_;
  const int64_t count_;
};

template <class T, bool kSymmetric>
void EncodeGroup(const AffineEncodeArgs& args, const Spec& spec,
                 const Range& range, Grid grid, int64_t g) {
  const T* w = static_cast<const T*>(args.weight.data) + g * args.group_size;
  uint8_t* codes = args.codes + g * args.group_size;
  if (args.search == AffineSearch::kBestRange && Searchable(range)) {
    grid = SearchGrid(spec, kShrink[spec.bits], range, grid, args.group_size,
                      VectorScorer<T, kSymmetric>(spec, w, args.group_size));
  }
  StoreFromFloat(args.scales, kDType<T>, g, grid.scale);
  if (args.zero_points != nullptr) {
    args.zero_points[g] = static_cast<uint8_t>(grid.zero_point);
  }
  if (grid.searched) {
    StoreCodes(SearchCoder<T>(spec, grid), w, args.group_size, codes);
  } else {
    StoreCodes(MinMaxCoder<T, kSymmetric>(spec, grid), w, args.group_size,
               codes);
  }
}

template <class T, bool kSymmetric>
int64_t EncodeTyped(const AffineEncodeArgs& args, int64_t first, int64_t last) {
  // Grids of a few groups first: codes wait for a chain of divisions, and this
  // way the waiting of one group overlaps with the work on the others.
  constexpr int64_t kAhead = 8;
  const Spec spec = {kDType<T>, args.bits, kSymmetric};
  const T* weight = static_cast<const T*>(args.weight.data);
  const bool magnitude_only =
      kSymmetric && args.search == AffineSearch::kMinMax;
  int64_t bad_group = -1;
  for (int64_t begin = first; begin < last; begin += kAhead) {
    const int64_t count = std::min(kAhead, last - begin);
    Range ranges[kAhead];
    Grid grids[kAhead];
    for (int64_t i = 0; i < count; ++i) {
      ranges[i] = FindRange(weight + (begin + i) * args.group_size,
                            args.group_size, magnitude_only);
      if (!ranges[i].finite && bad_group < 0) bad_group = begin + i;
      grids[i] = MinMaxGrid(spec, ranges[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      EncodeGroup<T, kSymmetric>(args, spec, ranges[i], grids[i], begin + i);
    }
  }
  if (bad_group < 0) return -1;
  int64_t i = bad_group * args.group_size;
  while (std::isfinite(LoadOne<T>(weight, i))) ++i;
  return i;
}

template <class T>
void DecodeTyped(const AffineDecodeArgs& args, int64_t first, int64_t last) {
  T* weight = static_cast<T*>(args.weight.data);
  const hn::Rebind<uint8_t, DI> d8;
  for (int64_t g = first; g < last; ++g) {
    const int32_t zero = args.zero_points == nullptr ? 1 << (args.bits - 1)
                                                     : args.zero_points[g];
    const float scale = LoadOne<T>(args.scales, g);
    const int64_t end = (g + 1) * args.group_size;
    int64_t i = g * args.group_size;
    for (; i + kLanes <= end; i += kLanes) {
      const auto codes = hn::PromoteTo(DI(), hn::LoadU(d8, args.codes + i));
      const auto steps = hn::Sub(codes, hn::Set(DI(), zero));
      StoreVector(hn::Mul(hn::ConvertTo(DF(), steps), hn::Set(DF(), scale)),
                  weight + i);
    }
    for (; i < end; ++i) {
      const auto steps = static_cast<float>(args.codes[i] - zero);
      StoreFromFloat(weight, kDType<T>, i, steps * scale);
    }
  }
}

int64_t EncodeGroups(const AffineEncodeArgs& args, int64_t first,
                     int64_t last) {
  return WithType(args.weight.dtype, [&]<class T>(T*) {
    return args.symmetric ? EncodeTyped<T, true>(args, first, last)
                          : EncodeTyped<T, false>(args, first, last);
  });
}

void DecodeGroups(const AffineDecodeArgs& args, int64_t first, int64_t last) {
  WithType(args.weight.dtype,
           [&]<class T>(T*) { DecodeTyped<T>(args, first, last); });
}

#if HWY_TARGET != HWY_SCALAR
using D16 = hn::CappedTag<uint16_t, 32>;
constexpr int64_t kPairs = hn::MaxLanes(D16());
#endif

void PackNibbles(const uint8_t* codes, int64_t count, uint8_t* packed) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::Repartition<uint8_t, D16> d8;
  const hn::Rebind<uint8_t, D16> d8_half;
  for (; i + 2 * kPairs <= count; i += 2 * kPairs) {
    const auto pair = hn::BitCast(D16(), hn::LoadU(d8, codes + i));
    const auto low = hn::And(pair, hn::Set(D16(), 0x0f));
    const auto high = hn::And(hn::ShiftRight<4>(pair), hn::Set(D16(), 0xf0));
    hn::StoreU(hn::TruncateTo(d8_half, hn::Or(low, high)), d8_half,
               packed + i / 2);
  }
#endif
  for (; i < count; i += 2) {
    packed[i / 2] =
        static_cast<uint8_t>((codes[i] & 0x0f) | (codes[i + 1] << 4));
  }
}

void UnpackNibbles(const uint8_t* packed, int64_t count, uint8_t* codes) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::Repartition<uint8_t, D16> d8;
  const hn::Rebind<uint8_t, D16> d8_half;
  for (; i + 2 * kPairs <= count; i += 2 * kPairs) {
    const auto byte = hn::PromoteTo(D16(), hn::LoadU(d8_half, packed + i / 2));
    const auto pair =
        hn::And(hn::Or(byte, hn::ShiftLeft<4>(byte)), hn::Set(D16(), 0x0f0f));
    hn::StoreU(hn::BitCast(d8, pair), d8, codes + i);
  }
#endif
  for (; i < count; i += 2) {
    codes[i] = packed[i / 2] & 0x0f;
    codes[i + 1] = packed[i / 2] >> 4;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::affine
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::affine {

HWY_EXPORT(EncodeGroups);
HWY_EXPORT(DecodeGroups);
HWY_EXPORT(PackNibbles);
HWY_EXPORT(UnpackNibbles);

int64_t EncodeGroups(const AffineEncodeArgs& args, int64_t first,
                     int64_t last) {
  return HWY_DYNAMIC_DISPATCH(EncodeGroups)(args, first, last);
}

void DecodeGroups(const AffineDecodeArgs& args, int64_t first, int64_t last) {
  HWY_DYNAMIC_DISPATCH(DecodeGroups)(args, first, last);
}

void PackNibbles(const uint8_t* codes, int64_t count, uint8_t* packed) {
  HWY_DYNAMIC_DISPATCH(PackNibbles)(codes, count, packed);
}

void UnpackNibbles(const uint8_t* packed, int64_t count, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(UnpackNibbles)(packed, count, codes);
}

}  // namespace qs::affine
#endif  // HWY_ONCE

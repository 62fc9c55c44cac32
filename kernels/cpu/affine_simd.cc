// The affine loops, one text for every instruction set.
// Tested by tests/kernels/affine_differential_test.cc.
#include "kernels/cpu/affine_simd.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/affine_math.h"
#include "kernels/base/dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/affine_simd.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/affine-inl.h"
#include "kernels/cpu/affine_search-inl.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::affine {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

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
  if (magnitude_only) {  // all that a symmetric grid needs
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

template <class T, bool kSymmetric>
void StoreGroup(const AffineEncodeArgs& args, const Spec& spec,
                const Grid& grid, int64_t g) {
  StoreFromFloat(args.scales, kDType<T>, g, grid.scale);
  if (args.zero_points != nullptr) {
    args.zero_points[g] = static_cast<uint8_t>(grid.zero_point);
  }
  if (grid.searched) return;  // the search has stored the codes
  StoreCodes(MinMaxCoder<T, kSymmetric>(spec, grid),
             static_cast<const T*>(args.weight.data) + g * args.group_size,
             args.group_size, args.codes + g * args.group_size);
}

// Calls search(first group, count, ranges, min-max grids), which may replace
// grids, for every `batch` <= kBatch groups, and stores grids and codes.
//
// Grids of a few groups first: codes wait for a chain of divisions, and this
// way the waiting of one group overlaps with the work on the others.
template <class T, bool kSymmetric, class Search>
HWY_INLINE int64_t EncodeBatches(const AffineEncodeArgs& args, int64_t first,
                                 int64_t last, int64_t batch,
                                 const Search& search) {
  const Spec spec = {kDType<T>, args.bits, kSymmetric};
  const T* weight = static_cast<const T*>(args.weight.data);
  int64_t bad_group = -1;
  for (int64_t begin = first; begin < last; begin += batch) {
    const int64_t count = std::min(batch, last - begin);
    Range ranges[kBatch];
    Grid grids[kBatch];
    for (int64_t i = 0; i < count; ++i) {
      ranges[i] = FindRange(weight + (begin + i) * args.group_size,
                            args.group_size, kSymmetric);
      if (!ranges[i].finite && bad_group < 0) bad_group = begin + i;
      grids[i] = MinMaxGrid(spec, ranges[i]);
    }
    search(begin, count, ranges, grids);
    for (int64_t i = 0; i < count; ++i) {
      StoreGroup<T, kSymmetric>(args, spec, grids[i], begin + i);
    }
  }
  if (bad_group < 0) return -1;
  int64_t i = bad_group * args.group_size;
  while (std::isfinite(LoadOne<T>(weight, i))) ++i;
  return i;
}

// Asks for the elements of the next batch: a search takes so long that the
// processor does not by itself.
template <class T>
HWY_INLINE void PrefetchBatch(const T* w, int64_t count) {
  const int64_t end = std::min(count, kBatchElements);
  for (int64_t i = 0; i < end; i += 64 / sizeof(T)) hwy::Prefetch(w + i);
}

template <class T, bool kSymmetric>
int64_t EncodeTyped(const AffineEncodeArgs& args, int64_t first, int64_t last) {
  if (args.search == AffineSearch::kMinMax) {
    constexpr int64_t kAhead = 8;
    return EncodeBatches<T, kSymmetric>(
        args, first, last, kAhead,
        [](int64_t, int64_t, const Range*, const Grid*) HWY_ATTR {});
  }
  const Spec spec = {kDType<T>, args.bits, kSymmetric};
  BatchSearch<T, kSymmetric> search(spec, args.group_size);
  return EncodeBatches<T, kSymmetric>(
      args, first, last, SearchBatch(args.group_size),
      [&](int64_t group, int64_t count, const Range* ranges,
          Grid* grids) HWY_ATTR {
        const int64_t begin = group * args.group_size;
        const int64_t end = begin + count * args.group_size;
        const T* weight = static_cast<const T*>(args.weight.data);
        PrefetchBatch(weight + end, last * args.group_size - end);
        search.Run(weight + begin, count, ranges, grids, args.codes + begin);
      });
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

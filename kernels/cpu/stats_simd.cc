// The loops of the error statistics, one text for every instruction set.
// Tested by tests/kernels/stats_test.cc.
//
// Segments of up to 128 elements are summed in sixteen F32 partial sums (at
// most eight additions each), folded, and added up in double: the relative
// error stays below 2^-20 at the speed of F32. Where squares could leave the
// range of F32 the segment is summed again in double. No operation is
// contracted, so every instruction set gives the same bytes.
#include "kernels/cpu/stats_simd.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/base/dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/stats_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::stats {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

constexpr int64_t kSegment = 128;

// Decoded values from memory.
template <class T>
struct Stored {
  const T* v;

  HWY_INLINE VF At(int64_t i, VF) const { return LoadVector(v + i); }
  float One(int64_t i, float) const { return LoadOne<T>(v, i); }
  // For the elements from `i` on, in vectors that `count` does not fill.
  Stored Padded(int64_t i, int64_t count, T (&buffer)[16]) const {
    std::memset(static_cast<void*>(buffer), 0, sizeof(buffer));
    std::memcpy(static_cast<void*>(buffer), v + i,
                static_cast<size_t>(count) * sizeof(T));
    return {buffer};
  }
};

// Decoded values of round to nearest.
struct Rounded {
  float scale, half, inv_scale;

  Rounded(float s, float h)
      : scale(s), half(h), inv_scale(s >= 0x1p-126f ? 1.0f / s : 0.0f) {}

  HWY_INLINE VF At(int64_t, VF x) const {
    const VF s = hn::Set(DF(), scale);
    const VF t =
        hn::Max(hn::Mul(x, hn::Set(DF(), inv_scale)), hn::Set(DF(), -half));
    return hn::Mul(hn::Round(hn::Min(t, hn::Set(DF(), half - 1))), s);
  }
  float One(int64_t, float w) const {
    return std::nearbyint(std::clamp(w * inv_scale, -half, half - 1)) * scale;
  }
  template <class T>
  Rounded Padded(int64_t, int64_t, T (&)[16]) const {
    return *this;
  }
};

// One segment's sums, as they are added to an ErrorSums.
struct Sums {
  double squared = 0, absolute = 0, weight = 0, decoded = 0, dot = 0;

  void AddTo(ErrorSums* sums) const {
    sums->squared_error += squared;
    sums->absolute_error += absolute;
    sums->weight_squared += weight;
    sums->decoded_squared += decoded;
    sums->dot += dot;
  }
};

template <class T, class Decoder>
HWY_NOINLINE Sums SumInDouble(const T* w, int64_t count,
                              const Decoder& decoder) {
  Sums sums;
  for (int64_t i = 0; i < count; ++i) {
    const float one = LoadOne<T>(w, i);
    const double x = one;
    const double v = decoder.One(i, one);
    sums.squared += (x - v) * (x - v);
    sums.absolute += std::fabs(x - v);
    sums.weight += x * x;
    sums.decoded += v * v;
    sums.dot += x * v;
  }
  return sums;
}

// No square was lost below or above the range of F32.
bool WithinRange(const Sums& s) {
  return s.weight >= 0x1p-60 && s.weight <= 0x1p100 && s.decoded <= 0x1p100 &&
         s.squared <= 0x1p100 && (s.squared >= 0x1p-90 || s.absolute == 0);
}

// 32 + bin, with bin below 32, is an F32 whose exponent is that of 32 and whose
// upper five mantissa bits are the bin; shifted down, its lowest byte is the
// bin plus kBinBase.
constexpr int kBinShift = 18;
constexpr uint8_t kBinBase = 0x80;

// Bins of |w - v|, one a byte.
struct Binner {
  float per_step = 0;
  uint8_t* bins = nullptr;

  explicit Binner(uint8_t* out, float step) : bins(out) {
    if (step > 0) {
      per_step =
          std::min(static_cast<float>(kHistogramBins) / step, 0x1.fffffep127f);
    }
  }
  HWY_INLINE void Put(int64_t i, VF distance) const {
    const VF bin = hn::Add(hn::Mul(distance, hn::Set(DF(), per_step)),
                           hn::Set(DF(), kHistogramBins));
    const VF last = hn::Set(DF(), 2 * kHistogramBins - 0.5f);
    StoreBytes(hn::ShiftRight<kBinShift>(hn::BitCast(DU(), hn::Min(bin, last))),
               bins + i);
  }
};
struct NoBinner {
  HWY_INLINE void Put(int64_t, VF) const {}
};

// Sixteen partial sums of each of what Sums has, and the greatest |w - v| so
// far. One array each: of an array of arrays GCC 12 keeps every sum in memory,
// at 1.3 times the time.
struct Lanes {
  VF squared[kParts], absolute[kParts], weight[kParts], decoded[kParts],
      dot[kParts];
  VF max;
};

// Sixteen elements at `w`, decoded as `at` and on.
template <class T, class Decoder, class Bins>
HWY_INLINE void AddSixteen(const T* w, const Decoder& decoder, int64_t at,
                           const Bins& bins, int64_t bin, Lanes& lanes) {
  for (int64_t p = 0; p < kParts; ++p) {
    const VF a = LoadVector(w + p * kLanes);
    const VF b = decoder.At(at + p * kLanes, a);
    const VF d = hn::Sub(a, b);
    const VF distance = hn::Abs(d);
    bins.Put(bin + p * kLanes, distance);
    lanes.max = hn::Max(lanes.max, distance);
    lanes.squared[p] = hn::Add(lanes.squared[p], hn::Mul(d, d));
    lanes.absolute[p] = hn::Add(lanes.absolute[p], distance);
    lanes.weight[p] = hn::Add(lanes.weight[p], hn::Mul(a, a));
    lanes.decoded[p] = hn::Add(lanes.decoded[p], hn::Mul(b, b));
    lanes.dot[p] = hn::Add(lanes.dot[p], hn::Mul(a, b));
  }
}

// The last `count` elements, from `i` on. Out of line, or the sums of the loop
// before it live in memory, at twice the time.
template <class T, class Decoder, class Bins>
HWY_NOINLINE Lanes AddTail(const T* w, int64_t i, int64_t count,
                           const Decoder& decoder, const Bins& bins,
                           Lanes lanes) {
  T weights[16], decoded[16];
  const Stored<T> padded = Stored<T>{w}.Padded(i, count, weights);
  AddSixteen(padded.v, decoder.Padded(i, count, decoded), 0, bins, i, lanes);
  return lanes;
}

template <class T, class Decoder, class Bins>
HWY_INLINE Sums SumSegment(const T* w, int64_t count, const Decoder& decoder,
                           const Bins& bins, VF* max) {
  Lanes lanes;
  lanes.max = *max;
  for (int64_t p = 0; p < kParts; ++p) {
    lanes.squared[p] = lanes.absolute[p] = lanes.weight[p] = lanes.decoded[p] =
        lanes.dot[p] = hn::Zero(DF());
  }
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    AddSixteen(w + i, decoder, i, bins, i, lanes);
  }
  if (i < count) lanes = AddTail(w, i, count - i, decoder, bins, lanes);
  *max = lanes.max;
  const Sums segment = {Fold(lanes.squared), Fold(lanes.absolute),
                        Fold(lanes.weight), Fold(lanes.decoded),
                        Fold(lanes.dot)};
  return WithinRange(segment) ? segment : SumInDouble(w, count, decoder);
}

#if HWY_TARGET == HWY_SCALAR
void CountBins(const uint8_t* bins, int64_t count,
               std::array<int64_t, kHistogramBins>* histogram) {
  for (int64_t i = 0; i < count; ++i) ++(*histogram)[bins[i] - kBinBase];
}
#else
// `counters` plus one in every byte that is equal.
template <class V>
HWY_INLINE V Count(V counters, V bins, V bin) {
  const hn::DFromV<V> d;
#if HWY_TARGET <= HWY_AVX3
  return hn::IfThenElse(hn::Eq(bins, bin), hn::Add(counters, hn::Set(d, 1)),
                        counters);
#else
  return hn::Sub(counters, hn::VecFromMask(d, hn::Eq(bins, bin)));
#endif
}

// Adds the bins of `count` bytes; the 64 bytes after them are overwritten.
void CountBins(uint8_t* bins, int64_t count,
               std::array<int64_t, kHistogramBins>* histogram) {
  const hn::CappedTag<uint8_t, 64> d;
  const hn::Repartition<uint64_t, decltype(d)> d64;
  constexpr int64_t kBytes = hn::MaxLanes(d);
  constexpr int64_t kChunk = 2048;  // at most 128 in a byte of a counter
  std::memset(bins + count, 0xff, 64);
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t end = std::min(count, begin + kChunk);
    int64_t left = end - begin;
    for (int bin = 0; left > 0; bin += 4) {
      auto c0 = hn::Zero(d), c1 = c0, c2 = c0, c3 = c0;
      const auto low = hn::Set(d, static_cast<uint8_t>(kBinBase + bin));
      const auto b1 = hn::Add(low, hn::Set(d, 1));
      const auto b2 = hn::Add(low, hn::Set(d, 2));
      const auto b3 = hn::Add(low, hn::Set(d, 3));
      for (int64_t i = begin; i < end; i += kBytes) {
        const auto x = hn::LoadU(d, bins + i);
        c0 = Count(c0, x, low);
        c1 = Count(c1, x, b1);
        c2 = Count(c2, x, b2);
        c3 = Count(c3, x, b3);
      }
      const auto total = [&](auto c) HWY_ATTR {
        return static_cast<int64_t>(
            hn::GetLane(hn::SumOfLanes(d64, hn::SumsOf8(c))));
      };
      const int64_t counts[4] = {total(c0), total(c1), total(c2), total(c3)};
      for (int k = 0; k < 4; ++k) {
        (*histogram)[static_cast<size_t>(bin + k)] += counts[k];
        left -= counts[k];
      }
    }
  }
}

#endif

template <class T>
void AddRun(const ErrorSumsArgs& args, int64_t begin, int64_t end,
            ErrorSums* sums) {
  const T* w = static_cast<const T*>(args.weight.data);
  const T* v = static_cast<const T*>(args.decoded.data);
  uint8_t bins[kStatsRun + 64];
  VF max = hn::Zero(DF());
  ErrorSums run;
  run.count = end - begin;
  for (int64_t i = begin; i < end;) {
    const int64_t group = i / args.group_size;
    const int64_t stop =
        std::min({end, (group + 1) * args.group_size, i + kSegment});
    const Stored<T> decoded = {v + i};
    const Sums segment =
        args.steps == nullptr
            ? SumSegment(w + i, stop - i, decoded, NoBinner(), &max)
            : SumSegment(w + i, stop - i, decoded,
                         Binner(bins + (i - begin), args.steps[group]), &max);
    segment.AddTo(&run);
    if (args.group_squared_error != nullptr) {
      double& error = args.group_squared_error[group];
      error = (i == group * args.group_size ? 0 : error) + segment.squared;
    }
    i = stop;
  }
  run.max_absolute_error = hn::GetLane(hn::MaxOfLanes(DF(), max));
  if (args.steps != nullptr) CountBins(bins, end - begin, &run.histogram);
  sums->Add(run);
}

// Scales of groups that are summed together: a group's sums wait for its scale,
// and this way the waiting of one overlaps with the work on the others.
constexpr int64_t kBatch = 16;

template <class T>
void AddRtnTyped(const RtnSumsArgs& args, int64_t begin, int64_t end,
                 ErrorSums* sums) {
  const T* w = static_cast<const T*>(args.weight.data);
  const float half = static_cast<float>(1 << (args.bits - 1));
  const auto end_of = [&](int64_t i) {
    return std::min(end, i + args.group_size);
  };
  VF max = hn::Zero(DF());
  float scales[kBatch];
  for (int64_t i = begin; i < end;) {
    int64_t at = i;
    for (int64_t k = 0; k < kBatch && at < end; ++k, at = end_of(at)) {
      scales[k] = MaxAbs(w + at, end_of(at) - at) / (half - 0.5f);
    }
    for (int64_t k = 0; i < at; ++k) {
      const Rounded rounded(scales[k], half);
      for (const int64_t stop = end_of(i); i < stop;) {
        const int64_t count = std::min(kSegment, stop - i);
        SumSegment(w + i, count, rounded, NoBinner(), &max).AddTo(sums);
        i += count;
      }
    }
  }
  ErrorSums rest;
  rest.count = end - begin;
  rest.max_absolute_error = hn::GetLane(hn::MaxOfLanes(DF(), max));
  sums->Add(rest);
}

void AddErrors(const ErrorSumsArgs& args, int64_t begin, int64_t end,
               ErrorSums* sums) {
  WithType(args.weight.dtype, [&]<class T>(T*) {
    for (int64_t i = begin; i < end; i += kStatsRun) {
      AddRun<T>(args, i, std::min(end, i + kStatsRun), sums);
    }
  });
}

void AddRtnErrors(const RtnSumsArgs& args, int64_t begin, int64_t end,
                  ErrorSums* sums) {
  WithType(args.weight.dtype,
           [&]<class T>(T*) { AddRtnTyped<T>(args, begin, end, sums); });
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::stats
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::stats {

HWY_EXPORT(AddErrors);
HWY_EXPORT(AddRtnErrors);

void AddErrors(const ErrorSumsArgs& args, int64_t begin, int64_t end,
               ErrorSums* sums) {
  HWY_DYNAMIC_DISPATCH(AddErrors)(args, begin, end, sums);
}

void AddRtnErrors(const RtnSumsArgs& args, int64_t begin, int64_t end,
                  ErrorSums* sums) {
  HWY_DYNAMIC_DISPATCH(AddRtnErrors)(args, begin, end, sums);
}

}  // namespace qs::stats
#endif  // HWY_ONCE

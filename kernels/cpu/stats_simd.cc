// The loops of the error statistics, one text for every instruction set.
// Tested by tests/kernels/stats_test.cc.
//
// A weight is read once for everything that is measured. Sums are sixteen F32
// partial sums, added up in double after at most kMostAdded additions: the
// relative error stays below 2^-20 at the speed of F32. Where squares could
// leave the range of F32 a run, or a group's part, is summed again in double.
// Sums are fused multiply-adds where the machine has them: the same bytes on a
// rerun, and within the tolerance on another instruction set. What a histogram
// counts is not fused and is the same everywhere.
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
#include "kernels/cpu/stats_bins-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::stats {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

constexpr int64_t kStep = 32;      // elements at a time: two vectors of sixteen
constexpr int64_t kSegment = 128;  // of a group, with one sum of squares
// The roundings of tolerance.h: three in a term and, as the first addition is
// exact, eleven here and one in HalfSum.
constexpr int64_t kMostAdded = 12;

// What a group's elements are measured with.
struct Group {
  VF scale, inv_scale, last;  // of round to nearest, and its last code
  VF per_step;                // bins in the unit of the weights
};

// Sixteen partial sums each. One array each: of an array of arrays GCC 12 keeps
// every sum in memory.
struct Lanes {
  VF weight[kParts], absolute[kParts], decoded[kParts], dot[kParts];
  VF rtn_squared[kParts], rtn_absolute[kParts], rtn_decoded[kParts],
      rtn_dot[kParts];
  VF max, rtn_max;
  VU ones[kParts];

  void Clear() {
    for (int64_t p = 0; p < kParts; ++p) {
      weight[p] = absolute[p] = decoded[p] = dot[p] = hn::Zero(DF());
      rtn_squared[p] = rtn_absolute[p] = rtn_decoded[p] = rtn_dot[p] =
          hn::Zero(DF());
    }
  }
};

// Part `p` of each of the two vectors at `w`. A 32-bit word holds two BF16, and
// a BF16 is the upper half of its F32: no widening, in an order of its own.
template <class T>
HWY_INLINE void LoadTwo(const T* w, int64_t p, VF& first, VF& second) {
  if constexpr (std::is_same_v<T, hwy::bfloat16_t>) {
    const auto* words = reinterpret_cast<const uint32_t*>(w);
    const VU both = hn::LoadU(DU(), words + p * kLanes);
    first = hn::BitCast(DF(), hn::ShiftLeft<16>(both));
    second = hn::BitCast(DF(), hn::And(both, hn::Set(DU(), 0xffff0000u)));
  } else {
    first = LoadVector(w + p * kLanes);
    second = LoadVector(w + 16 + p * kLanes);
  }
}

// Part `p` of `count` elements, a multiple of kStep. Returns the sums of (w -
// v)^2; words of the histogram go to `words`.
template <class T>
HWY_INLINE VF AddPart(const T* w, const T* v, int64_t count, int64_t p,
                      const Group& group, Lanes& lanes, uint32_t* words) {
  VF squared = hn::Zero(DF());
  VF weight = lanes.weight[p], absolute = lanes.absolute[p],
     decoded = lanes.decoded[p], dot = lanes.dot[p];
  VF rtn_squared = lanes.rtn_squared[p], rtn_absolute = lanes.rtn_absolute[p],
     rtn_decoded = lanes.rtn_decoded[p], rtn_dot = lanes.rtn_dot[p];
  VF max = lanes.max, rtn_max = lanes.rtn_max;
  VU ones = lanes.ones[p];
  // Returns the element's bit of the histogram.
  const auto add = [&](VF a, VF b) HWY_ATTR {
    const VF d = hn::Sub(a, b);
    const VF distance = hn::Abs(d);
    squared = hn::MulAdd(d, d, squared);
    weight = hn::MulAdd(a, a, weight);
    decoded = hn::MulAdd(b, b, decoded);
    dot = hn::MulAdd(a, b, dot);
    absolute = hn::Add(absolute, distance);
    max = hn::Max(max, distance);
    // absmax / scale is half - 0.5: nothing to clamp at the lower end.
    const VF code = hn::Round(hn::Min(hn::Mul(a, group.inv_scale), group.last));
    const VF r = hn::Mul(code, group.scale);
    const VF e = hn::Sub(a, r);
    const VF rtn_distance = hn::Abs(e);
    rtn_squared = hn::MulAdd(e, e, rtn_squared);
    rtn_decoded = hn::MulAdd(r, r, rtn_decoded);
    rtn_dot = hn::MulAdd(a, r, rtn_dot);
    rtn_absolute = hn::Add(rtn_absolute, rtn_distance);
    rtn_max = hn::Max(rtn_max, rtn_distance);
    return BitOf(hn::Mul(distance, group.per_step));
  };
  for (int64_t i = 0; i < count; i += kStep) {
    VF a[2], b[2];
    LoadTwo(w + i, p, a[0], a[1]);
    LoadTwo(v + i, p, b[0], b[1]);
    const VU first = add(a[0], b[0]);
    const VU carry = FullAdd(&ones, first, add(a[1], b[1]));
    hn::StoreU(carry, DU(), words + i / 2 + p * kLanes);
  }
  lanes.weight[p] = weight, lanes.absolute[p] = absolute;
  lanes.decoded[p] = decoded, lanes.dot[p] = dot;
  lanes.rtn_squared[p] = rtn_squared, lanes.rtn_absolute[p] = rtn_absolute;
  lanes.rtn_decoded[p] = rtn_decoded, lanes.rtn_dot[p] = rtn_dot;
  lanes.max = max, lanes.rtn_max = rtn_max;
  lanes.ones[p] = ones;
  return squared;
}

// Lanes j and j + 8 of sixteen partial sums.
HWY_INLINE void HalfSum(const VF (&s)[kParts], float* out) {
#if HWY_TARGET <= HWY_AVX3
  const hn::Half<DF> half;
  hn::StoreU(hn::Add(hn::LowerHalf(half, s[0]), hn::UpperHalf(half, s[0])),
             half, out);
#else
  for (int64_t p = 0; p < kParts / 2; ++p) {
    hn::StoreU(hn::Add(s[p], s[p + kParts / 2]), DF(), out + p * kLanes);
  }
#endif
}

// Sums of a run in double, eight lanes each.
struct Doubles {
  double lanes[8] = {};

  HWY_INLINE void Add(const VF (&s)[kParts]) {
    const hn::CappedTag<double, 8> d;
    const hn::Rebind<float, decltype(d)> d32;
    float sums[8];
    HalfSum(s, sums);
    for (size_t i = 0; i < 8; i += hn::Lanes(d)) {
      const auto more = hn::PromoteTo(d, hn::LoadU(d32, sums + i));
      hn::StoreU(hn::Add(hn::LoadU(d, lanes + i), more), d, lanes + i);
    }
  }
  double Total() const {
    double total = 0;
    for (double lane : lanes) total += lane;
    return total;
  }
};

// No square was lost below or above the range of F32.
bool WithinRange(const ErrorSums& s) {
  return s.weight_squared >= 0x1p-60 && s.weight_squared <= 0x1p100 &&
         s.decoded_squared <= 0x1p100 && s.squared_error <= 0x1p100 &&
         (s.squared_error >= 0x1p-90 || s.absolute_error == 0);
}

void AddInDouble(double w, double v, ErrorSums* sums) {
  sums->squared_error += (w - v) * (w - v);
  sums->absolute_error += std::fabs(w - v);
  sums->weight_squared += w * w;
  sums->decoded_squared += v * v;
  sums->dot += w * v;
}

// The elements [begin, end) of whole groups.
template <class T>
class Summer {
 public:
  Summer(const ErrorSumsArgs& args, int64_t end)
      : args_(args),
        w_(static_cast<const T*>(args.weight.data)),
        v_(static_cast<const T*>(args.decoded.data)),
        end_(end),
        half_(static_cast<float>(
            1 << ((args.rtn == nullptr ? kAnyBits : args.rtn_bits) - 1))),
        batch_groups_(
            std::clamp<int64_t>(kBatchElements / args.group_size, 1, kBatch)) {
    lanes_.max = lanes_.rtn_max = hn::Zero(DF());
    for (VU& ones : lanes_.ones) ones = hn::Zero(DU());
  }

  // Runs come in order.
  void AddRun(int64_t begin, int64_t end) {
    for (Doubles& sum : sums_) sum = Doubles();
    lanes_.Clear();
    added_ = 0;
    double squared = 0;
    int64_t g = begin / args_.group_size;
    int64_t group_begin = g * args_.group_size;
    for (int64_t i = begin; i < end;) {
      if (batch_ < 0 || g >= batch_ + batch_groups_) StartBatch(g);
      const int64_t group_end = group_begin + args_.group_size;
      const int64_t stop = std::min({end, group_end, i + kSegment});
      const double segment = AddSegment(i, stop - i, GroupAt(g));
      squared += segment;
      if (args_.group_squared_error != nullptr) {
        double& error = args_.group_squared_error[g];
        error = (i == group_begin ? 0 : error) + segment;
      }
      i = stop;
      if (i < group_end) continue;
      ++g;
      group_begin = group_end;
    }
    Flush();
    FinishRun(begin, end, squared);
  }

  void Finish(int64_t begin, ErrorSums* sums, ErrorSums* rtn) {
    all_.count = rtn_.count = end_ - begin;
    all_.max_absolute_error = hn::GetLane(hn::MaxOfLanes(DF(), lanes_.max));
    rtn_.max_absolute_error = hn::GetLane(hn::MaxOfLanes(DF(), lanes_.rtn_max));
    if (args_.steps != nullptr) {
      bins_.AddTo(lanes_.ones, &all_.histogram);
      all_.histogram[0] -= padding_;
      int64_t counted = 0;
      for (int64_t count : all_.histogram) counted += count;
      // Beyond the last bin.
      all_.histogram[kHistogramBins - 1] += all_.count - counted;
    }
    sums->Add(all_);
    if (rtn != nullptr) rtn->Add(rtn_);
  }

 private:
  // Groups whose scales are computed together: one division for all, and the
  // search for one maximum overlaps with the next.
  static constexpr int64_t kBatch = 16;
  static constexpr int64_t kBatchElements = 4096;  // that stay in cache
  // Without a yardstick its sums are computed and dropped.
  static constexpr int kAnyBits = 4;

  void StartBatch(int64_t first_group) {
    batch_ = first_group;
    float max_abs[kBatch] = {};
    float steps[kBatch] = {};
    const int64_t size = args_.group_size;
    for (int64_t k = 0; k < batch_groups_; ++k) {
      const int64_t begin = (batch_ + k) * size;
      if (begin >= end_) break;
      max_abs[k] = MaxAbs(w_ + begin, std::min(size, end_ - begin));
      if (args_.steps != nullptr) steps[k] = args_.steps[batch_ + k];
    }
    for (int64_t i = 0; i < kBatch; i += kLanes) {
      const VF one = hn::Set(DF(), 1.0f);
      const VF scale =
          hn::Div(hn::LoadU(DF(), max_abs + i), hn::Set(DF(), half_ - 0.5f));
      hn::StoreU(scale, DF(), scale_ + i);
      hn::StoreU(hn::IfThenElseZero(hn::Ge(scale, hn::Set(DF(), 0x1p-126f)),
                                    hn::Div(one, scale)),
                 DF(), inv_scale_ + i);
      const VF step = hn::LoadU(DF(), steps + i);
      const VF per_step = hn::Min(
          hn::Div(hn::Set(DF(), static_cast<float>(kHistogramBins)), step),
          hn::Set(DF(), 0x1.fffffep127f));
      hn::StoreU(hn::IfThenElseZero(hn::Gt(step, hn::Zero(DF())), per_step),
                 DF(), per_step_ + i);
    }
  }

  Group GroupAt(int64_t g) const {
    const int64_t k = g - batch_;
    return {hn::Set(DF(), scale_[k]), hn::Set(DF(), inv_scale_[k]),
            hn::Set(DF(), half_ - 1), hn::Set(DF(), per_step_[k])};
  }

  // At most kSegment elements of one group; returns the sum of (w - v)^2.
  double AddSegment(int64_t begin, int64_t count, const Group& group) {
    const int64_t whole = count / kStep * kStep;
    VF squared[kParts];
    for (VF& part : squared) part = hn::Zero(DF());
    if (whole > 0) AddSteps(w_ + begin, v_ + begin, whole, group, squared);
    if (whole < count) AddTail(begin + whole, count - whole, group, squared);
    const double sum = Fold(squared);
    if (sum >= 0x1p-90 && sum <= 0x1p100) return sum;
    double exact = 0;
    for (int64_t i = begin; i < begin + count; ++i) {
      const double d =
          static_cast<double>(LoadOne<T>(w_, i)) - LoadOne<T>(v_, i);
      exact += d * d;
    }
    return exact;
  }

  HWY_INLINE void AddSteps(const T* w, const T* v, int64_t count,
                           const Group& group, VF (&squared)[kParts]) {
    if (added_ + 2 * (count / kStep) > kMostAdded) Flush();
    added_ += 2 * (count / kStep);
    uint32_t* const words = bins_.Next(count / kStep);
    for (int64_t p = 0; p < kParts; ++p) {
      squared[p] =
          hn::Add(squared[p], AddPart(w, v, count, p, group, lanes_, words));
    }
  }

  // Fewer than kStep elements: zeros follow them, which add nothing but to the
  // first bin. Out of line, or the sums of the loop before it live in memory.
  HWY_NOINLINE void AddTail(int64_t begin, int64_t count, const Group& group,
                            VF (&squared)[kParts]) {
    T weight[kStep], decoded[kStep];
    const auto pad = [count](const T* from, T* to) {
      std::memset(static_cast<void*>(to), 0, kStep * sizeof(T));
      std::memcpy(static_cast<void*>(to), from,
                  static_cast<size_t>(count) * sizeof(T));
    };
    pad(w_ + begin, weight);
    pad(v_ + begin, decoded);
    AddSteps(weight, decoded, kStep, group, squared);
    padding_ += kStep - count;
  }

  void Flush() {
    sums_[0].Add(lanes_.weight);
    sums_[1].Add(lanes_.absolute);
    sums_[2].Add(lanes_.decoded);
    sums_[3].Add(lanes_.dot);
    sums_[4].Add(lanes_.rtn_squared);
    sums_[5].Add(lanes_.rtn_absolute);
    sums_[6].Add(lanes_.rtn_decoded);
    sums_[7].Add(lanes_.rtn_dot);
    lanes_.Clear();
    added_ = 0;
  }

  void FinishRun(int64_t begin, int64_t end, double squared) {
    ErrorSums run, rtn;
    run.squared_error = squared;
    run.absolute_error = sums_[1].Total();
    run.weight_squared = rtn.weight_squared = sums_[0].Total();
    run.decoded_squared = sums_[2].Total();
    run.dot = sums_[3].Total();
    rtn.squared_error = sums_[4].Total();
    rtn.absolute_error = sums_[5].Total();
    rtn.decoded_squared = sums_[6].Total();
    rtn.dot = sums_[7].Total();
    if (!WithinRange(run) || !WithinRange(rtn)) {
      run = rtn = ErrorSums();
      AddRunInDouble(begin, end, &run, &rtn);
    }
    all_.Add(run);
    rtn_.Add(rtn);
  }

  HWY_NOINLINE void AddRunInDouble(int64_t begin, int64_t end, ErrorSums* run,
                                   ErrorSums* rtn) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i / args_.group_size;
      if (g < batch_ || g >= batch_ + batch_groups_) StartBatch(g);
      const float w = LoadOne<T>(w_, i);
      AddInDouble(w, LoadOne<T>(v_, i), run);
      const float code = w * inv_scale_[g - batch_];
      const float rounded =
          std::nearbyint(std::clamp(code, -half_, half_ - 1)) *
          scale_[g - batch_];
      AddInDouble(w, rounded, rtn);
    }
  }

  const ErrorSumsArgs& args_;
  const T* const w_;
  const T* const v_;
  const int64_t end_;
  const float half_;  // of round to nearest: codes from -half to half - 1
  const int64_t batch_groups_;  // at most kBatch

  Lanes lanes_;
  int64_t added_ = 0;  // to every F32 partial sum
  Doubles sums_[8];    // of the run
  BinCounter bins_;
  int64_t padding_ = 0;  // zeros in the first bin
  ErrorSums all_, rtn_;

  int64_t batch_ = -1;  // its first group; -1: none yet
  float scale_[kBatch], inv_scale_[kBatch], per_step_[kBatch];
};

void AddErrors(const ErrorSumsArgs& args, int64_t begin, int64_t end,
               ErrorSums* sums, ErrorSums* rtn) {
  WithType(args.weight.dtype, [&]<class T>(T*) {
    Summer<T> summer(args, end);
    for (int64_t i = begin; i < end; i += kStatsRun) {
      summer.AddRun(i, std::min(end, i + kStatsRun));
    }
    summer.Finish(begin, sums, rtn);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::stats
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::stats {

HWY_EXPORT(AddErrors);

void AddErrors(const ErrorSumsArgs& args, int64_t begin, int64_t end,
               ErrorSums* sums, ErrorSums* rtn) {
  HWY_DYNAMIC_DISPATCH(AddErrors)(args, begin, end, sums, rtn);
}

}  // namespace qs::stats
#endif  // HWY_ONCE

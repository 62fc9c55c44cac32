// The AWQ loops, one text for every instruction set.
// Tested by tests/kernels/awq_differential_test.cc.
//
// A group is taken through a buffer of F32 that is padded to whole vectors with
// copies of its first element: they move neither extreme.
#include "kernels/cpu/awq_simd.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/base/dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/awq_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::awq {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

// Codes and values of one group's grid. A is the dtype that kAutoAwq rounds to;
// kBest's arithmetic is F32's.
template <class A, bool kAutoAwq>
class Coder {
 public:
  Coder(const AwqGridSpec& spec, const Grid& grid)
      : symmetric_(spec.symmetric),
        scale_(hn::Set(DF(), grid.scale)),
        zero_(hn::Set(DF(), grid.zero)),
        top_(hn::Set(DF(), static_cast<float>((1 << spec.bits) - 1))) {}

  HWY_INLINE VF Code(VF x) const {
    const VF low = hn::Zero(DF());
    if constexpr (!kAutoAwq) {
      const VF steps = hn::Round(hn::Div(x, scale_));
      return hn::Min(hn::Max(hn::Add(steps, zero_), low), top_);
    }
    const VF steps = hn::Round(RoundVector<A>(hn::Div(x, scale_)));
    const VF code = symmetric_ ? hn::Add(steps, zero_)
                               : RoundVector<A>(hn::Add(steps, zero_));
    return hn::Min(hn::Max(code, low), top_);
  }
  HWY_INLINE VF Decoded(VF code) const {
    return RoundVector<A>(hn::Mul(hn::Sub(code, zero_), scale_));
  }

 private:
  const bool symmetric_;
  const VF scale_, zero_, top_;
};

// Calls run(A* null, bool_constant of kAutoAwq).
template <class Run>
HWY_INLINE void WithRule(const AwqGridSpec& spec, const Run& run) {
  if (spec.rule == AwqRule::kBest) {
    run(static_cast<float*>(nullptr), std::false_type());
    return;
  }
  WithType(spec.scale_dtype,
           [&]<class A>(A* type) { run(type, std::true_type()); });
}

template <class Body>
HWY_INLINE void ForBuffer(int64_t count, const Body& body) {
  for (int64_t i = 0; i < count; i += kLanes) body(i);
}

Limits FindRange(const float* w, int64_t count) {
  VF low = hn::LoadU(DF(), w);
  VF high = low;
  ForBuffer(PaddedCount(count), [&](int64_t i) HWY_ATTR {
    const VF x = hn::LoadU(DF(), w + i);
    low = hn::Min(low, x);
    high = hn::Max(high, x);
  });
  return {hn::GetLane(hn::MinOfLanes(DF(), low)),
          hn::GetLane(hn::MaxOfLanes(DF(), high))};
}

// The grid of a padded buffer whose values are what is quantized.
Grid GridOf(const AwqGridSpec& spec, const float* w, int64_t count) {
  Limits range = FindRange(w, count);
  if (spec.rule == AwqRule::kBest) {
    range = {std::min(range.low, 0.0f), std::max(range.high, 0.0f)};
  }
  return MakeGrid(spec, range.low, range.high);
}

template <class T>
HWY_INLINE void ScaleTyped(bool rounded, const T* w, const float* scales,
                           int64_t count, float* out) {
  int64_t at = 0;
  const VF one = hn::Set(DF(), 1.0f);
  ForVectors(w, count, [&](int64_t, VF x) HWY_ATTR {
    VF s = one;
    if (scales != nullptr) {
      if (at + kLanes <= count) {
        s = hn::LoadU(DF(), scales + at);
      } else {
        float last[16] = {};
        for (int64_t i = at; i < count; ++i) last[i - at] = scales[i];
        s = hn::LoadU(DF(), last);
      }
    }
    const VF scaled = hn::Mul(x, s);
    hn::StoreU(rounded ? RoundVector<T>(scaled) : scaled, DF(), out + at);
    at += kLanes;
  });
  std::fill(out + count, out + PaddedCount(count), out[0]);
}

void ScaleColumns(const AwqGridSpec& spec, const TensorView& weight,
                  const float* scales, int64_t row, int64_t first,
                  int64_t count, float* out) {
  const float* part = scales == nullptr ? nullptr : scales + first;
  WithType(weight.dtype, [&]<class T>(T*) {
    ScaleTyped(spec.rule == AwqRule::kAutoAwq,
               static_cast<const T*>(weight.data) + row * weight.cols + first,
               part, count, out);
  });
}

// To scale_dtype, in place; kBest keeps F32.
template <class A>
HWY_INLINE void RoundBuffer(float* w, int64_t count) {
  if constexpr (kDType<A> == DType::kF32) return;
  ForBuffer(PaddedCount(count), [&](int64_t i) HWY_ATTR {
    hn::StoreU(RoundVector<A>(hn::LoadU(DF(), w + i)), DF(), w + i);
  });
}

template <class T>
HWY_INLINE void AddMeansTyped(const TensorView& weight, int64_t first,
                              int64_t count, double* sums) {
  std::vector<float> part(static_cast<size_t>(PaddedCount(count)));
  for (int64_t row = 0; row < weight.rows; ++row) {
    const T* w = static_cast<const T*>(weight.data) + row * weight.cols + first;
    const float top = affine::RoundTo(weight.dtype, MaxAbs(w, count) + 1e-6f);
    const VF divisor = hn::Set(DF(), top);
    int64_t at = 0;
    ForVectors(w, count, [&](int64_t, VF x) HWY_ATTR {
      hn::StoreU(RoundVector<T>(hn::Div(hn::Abs(x), divisor)), DF(),
                 part.data() + at);
      at += kLanes;
    });
    for (int64_t i = 0; i < count; ++i) sums[i] += part[static_cast<size_t>(i)];
  }
}

void AddColumnMeans(const TensorView& weight, int64_t first, int64_t count,
                    double* sums) {
  WithType(weight.dtype,
           [&]<class T>(T*) { AddMeansTyped<T>(weight, first, count, sums); });
}

template <class T, class A, bool kAutoAwq>
HWY_INLINE void DeltaGroup(const AwqGridSpec& spec, const T* w,
                           const float* scales, int64_t count, float* scaled,
                           float* delta) {
  ScaleTyped(kAutoAwq, w, scales, count, scaled);
  if constexpr (kAutoAwq) RoundBuffer<A>(scaled, count);
  const Coder<A, kAutoAwq> coder(spec, GridOf(spec, scaled, count));
  const auto value = [&](VF x, VF s) HWY_ATTR {
    const VF v = hn::Div(coder.Decoded(coder.Code(x)), s);
    return kAutoAwq ? RoundVector<T>(v) : v;
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const VF v =
        value(hn::LoadU(DF(), scaled + i), hn::LoadU(DF(), scales + i));
    hn::StoreU(hn::Sub(v, LoadVector(w + i)), DF(), delta + i);
  }
  for (; i < count; ++i) {
    const VF v = value(hn::Set(DF(), scaled[i]), hn::Set(DF(), scales[i]));
    delta[i] = hn::GetLane(v) - LoadOne<T>(w, i);
  }
}

void DeltaRows(const AwqGridSpec& spec, const TensorView& weight,
               const float* scales, int64_t first, int64_t count,
               int64_t stride, float* delta) {
  std::vector<float> scaled(static_cast<size_t>(PaddedCount(spec.group_size)));
  WithType(weight.dtype, [&]<class T>(T*) {
    WithRule(spec, [&]<class A, class Rule>(A*, Rule) {
      for (int64_t r = 0; r < count; ++r) {
        const T* w = static_cast<const T*>(weight.data) +
                     (first + r * stride) * weight.cols;
        float* out = delta + r * weight.cols;
        for (int64_t col = 0; col < weight.cols; col += spec.group_size) {
          DeltaGroup<T, A, Rule::value>(spec, w + col, scales + col,
                                        spec.group_size, scaled.data(),
                                        out + col);
        }
      }
    });
  });
}

void SquaredSteps(const AwqGridSpec& spec, const TensorView& weight,
                  const float* scales, int64_t row, double* out) {
  const int64_t count = spec.group_size;
  std::vector<float> w(static_cast<size_t>(PaddedCount(count)));
  WithRule(spec, [&]<class A, class Rule>(A*, Rule) {
    for (int64_t g = 0; g < weight.cols / count; ++g) {
      ScaleColumns(spec, weight, scales, row, g * count, count, w.data());
      if constexpr (Rule::value) RoundBuffer<A>(w.data(), count);
      const double step = GridOf(spec, w.data(), count).scale;
      out[g] = step * step;
    }
  });
}

void ClipDeltas(const AwqGridSpec& spec, const float* w, int64_t count,
                const Limits* limits, int candidates, float* deltas) {
  std::vector<float> clamped(static_cast<size_t>(PaddedCount(count)));
  WithRule(spec, [&]<class A, class Rule>(A*, Rule) {
    for (int c = 0; c < candidates; ++c) {
      const VF low = hn::Set(DF(), limits[c].low);
      const VF high = hn::Set(DF(), limits[c].high);
      ForBuffer(PaddedCount(count), [&](int64_t i) HWY_ATTR {
        const VF x = hn::LoadU(DF(), w + i);
        hn::StoreU(hn::Min(hn::Max(x, low), high), DF(), clamped.data() + i);
      });
      if constexpr (Rule::value) RoundBuffer<A>(clamped.data(), count);
      const Coder<A, Rule::value> coder(spec,
                                        GridOf(spec, clamped.data(), count));
      float* out = deltas + c * count;
      ForBuffer(PaddedCount(count), [&](int64_t i) HWY_ATTR {
        const VF v =
            coder.Decoded(coder.Code(hn::LoadU(DF(), clamped.data() + i)));
        hn::StoreU(hn::Sub(v, hn::LoadU(DF(), w + i)), DF(), out + i);
      });
    }
  });
}

// Codes and values of a padded buffer.
template <class A, bool kAutoAwq>
HWY_INLINE void Encode(const Coder<A, kAutoAwq>& coder, const float* w,
                       int64_t count, uint8_t* codes, float* decoded) {
  const VF magic = hn::Set(DF(), 0x1p23f);  // the integer to the lowest byte
  uint8_t bytes[16];
  float values[16];
  for (int64_t i = 0; i < count; i += 16) {
    for (int64_t j = 0; j < 16; j += kLanes) {
      const VF code = coder.Code(hn::LoadU(DF(), w + i + j));
      StoreBytes(hn::BitCast(DU(), hn::Add(code, magic)), bytes + j);
      hn::StoreU(coder.Decoded(code), DF(), values + j);
    }
    const auto n = static_cast<size_t>(std::min<int64_t>(16, count - i));
    std::memcpy(codes + i, bytes, n);
    if (decoded != nullptr) std::memcpy(decoded + i, values, n * sizeof(float));
  }
}

void QuantizeRow(const AwqQuantizeArgs& args, int64_t row) {
  const AwqGridSpec& spec = args.grid;
  const int64_t count = spec.group_size;
  const int64_t groups = args.weight.cols / count;
  std::vector<float> buffer(static_cast<size_t>(PaddedCount(count)));
  float* const w = buffer.data();
  WithRule(spec, [&]<class A, class Rule>(A*, Rule) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t at = row * groups + g;
      ScaleColumns(spec, args.weight, args.scales, row, g * count, count, w);
      if (args.low != nullptr) {
        const VF low = hn::Set(DF(), args.low[at]);
        const VF high = hn::Set(DF(), args.high[at]);
        ForBuffer(PaddedCount(count), [&](int64_t i) HWY_ATTR {
          const VF x = hn::LoadU(DF(), w + i);
          hn::StoreU(hn::Min(hn::Max(x, low), high), DF(), w + i);
        });
      }
      if constexpr (Rule::value) RoundBuffer<A>(w, count);
      const Grid grid = GridOf(spec, w, count);
      StoreFromFloat(args.group_scales, spec.scale_dtype, at, grid.scale);
      args.zero_points[at] = static_cast<uint8_t>(grid.zero);
      Encode(Coder<A, Rule::value>(spec, grid), w, count,
             args.codes + at * count,
             args.decoded == nullptr ? nullptr : args.decoded + at * count);
    }
  });
}

double DotRow(const float* a, const float* b, int64_t count) {
  // Runs of 1024 in F32, their sums in double.
  double sum = 0;
  for (int64_t first = 0; first < count; first += 1024) {
    const int64_t n = std::min<int64_t>(1024, count - first);
    VF parts[kParts];
    for (int64_t p = 0; p < kParts; ++p) parts[p] = hn::Zero(DF());
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
      for (int64_t p = 0; p < kParts; ++p) {
        const int64_t at = first + i + p * kLanes;
        parts[p] = hn::Add(parts[p], hn::Mul(hn::LoadU(DF(), a + at),
                                             hn::LoadU(DF(), b + at)));
      }
    }
    float run = Fold(parts);
    for (; i < n; ++i) run += a[first + i] * b[first + i];
    sum += static_cast<double>(run);
  }
  return sum;
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::awq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::awq {

HWY_EXPORT(AddColumnMeans);
HWY_EXPORT(DeltaRows);
HWY_EXPORT(SquaredSteps);
HWY_EXPORT(ScaleColumns);
HWY_EXPORT(FindRange);
HWY_EXPORT(ClipDeltas);
HWY_EXPORT(QuantizeRow);
HWY_EXPORT(DotRow);

void AddColumnMeans(const TensorView& weight, int64_t first, int64_t count,
                    double* sums) {
  HWY_DYNAMIC_DISPATCH(AddColumnMeans)(weight, first, count, sums);
}

void DeltaRows(const AwqGridSpec& spec, const TensorView& weight,
               const float* scales, int64_t first, int64_t count,
               int64_t stride, float* delta) {
  HWY_DYNAMIC_DISPATCH(DeltaRows)
  (spec, weight, scales, first, count, stride, delta);
}

void SquaredSteps(const AwqGridSpec& spec, const TensorView& weight,
                  const float* scales, int64_t row, double* out) {
  HWY_DYNAMIC_DISPATCH(SquaredSteps)(spec, weight, scales, row, out);
}

void ScaleColumns(const AwqGridSpec& spec, const TensorView& weight,
                  const float* scales, int64_t row, int64_t first,
                  int64_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(ScaleColumns)
  (spec, weight, scales, row, first, count, out);
}

Limits FindRange(const float* w, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(FindRange)(w, count);
}

void ClipDeltas(const AwqGridSpec& spec, const float* w, int64_t count,
                const Limits* limits, int candidates, float* deltas) {
  HWY_DYNAMIC_DISPATCH(ClipDeltas)(spec, w, count, limits, candidates, deltas);
}

void QuantizeRow(const AwqQuantizeArgs& args, int64_t row) {
  HWY_DYNAMIC_DISPATCH(QuantizeRow)(args, row);
}

double DotRow(const float* a, const float* b, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(DotRow)(a, b, count);
}

}  // namespace qs::awq
#endif  // HWY_ONCE

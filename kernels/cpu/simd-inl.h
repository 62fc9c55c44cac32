// Vectors of up to sixteen F32 lanes and what the reductions over them share:
// loading in order, sums whose order no instruction set changes. Included once
// for every target, by *_simd.cc only.
#if defined(QS_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QS_KERNELS_CPU_SIMD_INL_H_
#undef QS_KERNELS_CPU_SIMD_INL_H_
#else
#define QS_KERNELS_CPU_SIMD_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/base/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace qs {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DI = hn::RebindToSigned<DF>;
using DU = hn::RebindToUnsigned<DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;
constexpr int64_t kLanes = hn::MaxLanes(DF());
constexpr int64_t kParts = 16 / kLanes;
template <class T>
inline constexpr DType kDType = DType::kF32;
template <>
inline constexpr DType kDType<hwy::float16_t> = DType::kF16;
template <>
inline constexpr DType kDType<hwy::bfloat16_t> = DType::kBF16;

template <class T>
HWY_INLINE float LoadOne(const void* data, int64_t i) {
  if constexpr (kDType<T> == DType::kBF16) {  // once a block: no call
    return Bf16ToFloat(static_cast<const uint16_t*>(data)[i]);
  }
  return LoadAsFloat(data, kDType<T>, i);
}

HWY_INLINE VF LoadVector(const float* p) { return hn::LoadU(DF(), p); }
template <class T>
HWY_INLINE VF LoadVector(const T* p) {
  return hn::PromoteTo(DF(), hn::LoadU(hn::Rebind<T, DF>(), p));
}

// `v` rounded to the type, still as F32: RoundTo for vectors.
template <class T>
HWY_INLINE VF RoundVector(VF v) {
  if constexpr (kDType<T> == DType::kBF16) {
    const VU bits = hn::BitCast(DU(), v);
    const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(DU(), 1));
    const VU sum = hn::Add(hn::Add(bits, hn::Set(DU(), 0x7fff)), odd);
    return hn::BitCast(DF(), hn::And(sum, hn::Set(DU(), 0xffff0000u)));
  } else if constexpr (kDType<T> == DType::kF16) {
#if HWY_TARGET <= HWY_AVX2
    const hn::Rebind<hwy::float16_t, DF> d16;
    return hn::PromoteTo(DF(), hn::DemoteTo(d16, v));
#else
    const auto top = hn::And(hn::BitCast(DI(), v), hn::Set(DI(), 0x7f800000));
    const auto least = hn::Max(top, hn::Set(DI(), 0x38800000));
    const VF shift =
        hn::BitCast(DF(), hn::Add(least, hn::Set(DI(), (13 << 23) + 0x400000)));
    const VF rounded = hn::Sub(hn::Add(v, shift), shift);
    const auto over = hn::Or(hn::Gt(hn::Abs(rounded), hn::Set(DF(), 65504.0f)),
                             hn::Ge(hn::Abs(v), hn::Set(DF(), 65536.0f)));
    return hn::IfThenElse(over, hn::Mul(v, hn::Set(DF(), INFINITY)), rounded);
#endif
  } else {
    return v;
  }
}

// `v` rounded to the element type, to memory.
HWY_INLINE void StoreVector(VF v, float* p) { hn::StoreU(v, DF(), p); }
HWY_INLINE void StoreVector(VF v, hwy::bfloat16_t* p) {
  const VU bits = hn::BitCast(DU(), RoundVector<hwy::bfloat16_t>(v));
  const hn::Rebind<uint16_t, DU> d16;
  hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(bits)), d16,
             reinterpret_cast<uint16_t*>(p));
}
HWY_INLINE void StoreVector(VF v, hwy::float16_t* p) {
#if HWY_TARGET <= HWY_AVX2
  const hn::Rebind<hwy::float16_t, DF> d16;
  hn::StoreU(hn::DemoteTo(d16, v), d16, p);
#else
  float values[kLanes];
  hn::StoreU(v, DF(), values);
  for (int64_t i = 0; i < kLanes; ++i) {
    StoreFromFloat(p, DType::kF16, i, values[i]);
  }
#endif
}

// Calls body(part, vector) for every kLanes elements, part counting modulo
// kParts: lane l of part p holds elements i with i mod 16 = p * kLanes + l.
template <class T, class Body>
HWY_INLINE void ForVectors(const T* w, int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int64_t p = 0; p < kParts; ++p) {
      body(p, LoadVector(w + i + p * kLanes));
    }
  }
  if (i >= count) return;
  T padded[16];
  std::memset(static_cast<void*>(padded), 0, sizeof(padded));
  std::memcpy(static_cast<void*>(padded), w + i,
              static_cast<size_t>(count - i) * sizeof(T));
  for (int64_t p = 0; p < kParts; ++p) {
    body(p, LoadVector(padded + p * kLanes));
  }
}

template <class T>
using MagnitudeBits = std::conditional_t<sizeof(T) == 2, int16_t, int32_t>;

// The greatest magnitude's bits. REQUIRES: count is a multiple of 32.
template <class I>
HWY_INLINE I FindMagnitude(const I* w, int64_t count) {
  const hn::CappedTag<I, 64 / sizeof(I)> d;
  const auto mask = hn::Set(d, hwy::LimitsMax<I>());
  auto top = hn::Zero(d);
  for (int64_t i = 0; i < count; i += static_cast<int64_t>(hn::Lanes(d))) {
    top = hn::Max(top, hn::And(hn::LoadU(d, w + i), mask));
  }
  return hn::GetLane(hn::MaxOfLanes(d, top));
}

// max |w|; infinite or NaN when an element is. MaxAbs32 is for whole blocks:
// REQUIRES: count is a multiple of 32.
template <class T>
HWY_INLINE float MaxAbs32(const T* w, int64_t count) {
  using I = MagnitudeBits<T>;
  const I bits = FindMagnitude(reinterpret_cast<const I*>(w), count);
  return LoadOne<T>(&bits, 0);
}
template <class T>
HWY_INLINE float MaxAbs(const T* w, int64_t count) {
  using I = MagnitudeBits<T>;
  const auto* bits = reinterpret_cast<const I*>(w);
  const int64_t whole = count / 32 * 32;
  I high = FindMagnitude(bits, whole);
  for (int64_t i = whole; i < count; ++i) {
    high = std::max(high, static_cast<I>(bits[i] & hwy::LimitsMax<I>()));
  }
  return LoadOne<T>(&high, 0);
}

// The lowest byte of every lane.
HWY_INLINE void StoreBytes(VU codes, uint8_t* out) {
  const hn::Rebind<uint8_t, DU> d8;
  hn::StoreU(hn::TruncateTo(d8, codes), d8, out);
}

// The fold of sixteen partial sums: s[j] + s[j + half], half = 8, 4, 2, 1.
#if HWY_TARGET == HWY_SCALAR
inline float Fold(const VF (&s)[16]) {
  float sums[16];
  for (size_t j = 0; j < 16; ++j) sums[j] = hn::GetLane(s[j]);
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}
#else
template <class D>
HWY_INLINE float FoldLanes(D, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(D()) > 4) {
    const hn::Half<D> half;
    return FoldLanes(half,
                     hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  } else {
    const auto two = hn::Add(v, hn::Shuffle1032(v));
    return hn::GetLane(hn::Add(two, hn::Shuffle2301(two)));
  }
}
HWY_INLINE float Fold(const VF (&s)[1]) { return FoldLanes(DF(), s[0]); }
HWY_INLINE float Fold(const VF (&s)[2]) {
  return FoldLanes(DF(), hn::Add(s[0], s[1]));
}
HWY_INLINE float Fold(const VF (&s)[4]) {
  return FoldLanes(DF(), hn::Add(hn::Add(s[0], s[2]), hn::Add(s[1], s[3])));
}
#endif

// Calls `run` with the element type as a null pointer of it.
template <class Run>
auto WithType(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::kF32:
      return run(static_cast<float*>(nullptr));
    case DType::kF16:
      return run(static_cast<hwy::float16_t*>(nullptr));
    default:
      return run(static_cast<hwy::bfloat16_t*>(nullptr));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace qs
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target

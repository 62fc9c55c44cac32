// Codes of affine grids and their values, for vectors of up to sixteen F32
// lanes. Included once for every target, by affine_simd.cc only.
//
// A clamped quotient becomes a code by one addition: 1.5 * 2^23 pushes the
// fraction out of the mantissa, rounding half to even, and leaves the integer
// in the lowest byte.
#if defined(QS_KERNELS_CPU_AFFINE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QS_KERNELS_CPU_AFFINE_INL_H_
#undef QS_KERNELS_CPU_AFFINE_INL_H_
#else
#define QS_KERNELS_CPU_AFFINE_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>

#include "kernels/affine_math.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::affine {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

constexpr float kMagic = 0x1.8p23f;

// x / scale, rounded to the type.
template <class T>
class Quotient {
 public:
  explicit Quotient(float scale) : scale_(hn::Set(DF(), scale)) {}
  HWY_INLINE VF operator()(VF x) const {
    return RoundVector<T>(hn::Div(x, scale_));
  }

 private:
  const VF scale_;
};

// Codes of a min-max grid, in the type's own arithmetic.
template <class T, bool kSymmetric, class Divide = Quotient<T>>
class MinMaxCoder {
 public:
  MinMaxCoder(const Spec& spec, const Grid& grid)
      : divide_(grid.scale),
        zero_(hn::Set(DF(), grid.zero_point - spec.offset())),
        low_(hn::Set(DF(), -spec.offset())),
        high_(hn::Set(DF(), spec.offset() - 1)),
        magic_(hn::Set(DF(), kMagic + spec.offset())) {}
  HWY_INLINE VU Code(VF x) const {
    return hn::BitCast(DU(), hn::Add(Steps(x), magic_));
  }

 private:
  HWY_INLINE VF Steps(VF x) const {
    VF t = divide_(x);
    if constexpr (!kSymmetric) t = RoundVector<T>(hn::Add(t, zero_));
    return hn::Min(hn::Max(t, low_), high_);
  }
  const Divide divide_;
  const VF zero_, low_, high_, magic_;
};

// x / scale rounded to the type, for the scale and the elements of a group that
// is searched.
//
// A quotient of two numbers of n bits is no midpoint m between two others: that
// has n + 1 bits and is odd, so x = m scale would have more than n bits. As
// integers x and m scale differ by 1 at least, so that the quotient is farther
// from m than one part in 2^(2n + 1): 2^-17 of it for BF16, 2^-23 for F16. The
// product with the reciprocal is nearer than 2^-23 to it, hence on the same
// side of every midpoint. Only a quotient that is subnormal may differ, and has
// the code of 0 either way.
template <class T>
class NearQuotient {
 public:
  explicit NearQuotient(float scale)
      : factor_(
            hn::Set(DF(), kDType<T> == DType::kF32 ? scale : 1.0f / scale)) {}
  HWY_INLINE VF operator()(VF x) const {
    if constexpr (kDType<T> == DType::kF32) return hn::Div(x, factor_);
    const VF near = hn::Mul(x, factor_);
    if constexpr (kDType<T> == DType::kF16) return RoundVector<T>(near);
    // To the nearest of 8 bits, of which there is one (Veltkamp's splitting).
    const VF wide = hn::Mul(near, hn::Set(DF(), 65537.0f));
    return hn::Sub(wide, hn::Sub(wide, near));
  }

 private:
  const VF factor_;
};

// Codes of a grid that was searched, in F32.
class SearchCoder {
 public:
  SearchCoder(const Spec& spec, float scale, float zero_point)
      : reciprocal_(hn::Set(DF(), 1.0f / scale)),
        low_(hn::Set(DF(), -zero_point)),
        high_(hn::Set(DF(), spec.max_code() - zero_point)),
        zero_(hn::Set(DU(), static_cast<uint32_t>(zero_point))) {}
  // Two additions: the zero point may be odd, and must not decide ties.
  HWY_INLINE VU Code(VF x) const {
    const VF steps = hn::Min(hn::Max(hn::Mul(x, reciprocal_), low_), high_);
    const VF rounded = hn::Add(steps, hn::Set(DF(), kMagic));
    return hn::Add(hn::BitCast(DU(), rounded), zero_);
  }

 private:
  const VF reciprocal_, low_, high_;
  const VU zero_;
};

constexpr bool kDecoderTables = HWY_TARGET <= HWY_AVX2;

// Decoded values of the codes that the coders give; with kTable, of codes of
// four bits at most.
template <class T, bool kTable>
class Decoder {
 public:
  Decoder(float scale, float zero_point)
      : scale_(hn::Set(DF(), scale)),
        zero_(hn::Set(DF(), kMagic + zero_point)),
        levels_(Level(hn::Iota(DF(), kMagic))),
        upper_levels_(Level(hn::Iota(DF(), kMagic + 8))) {}
  HWY_INLINE VF operator()(VU code) const {
    if constexpr (!kTable) return Level(hn::BitCast(DF(), code));
#if HWY_TARGET <= HWY_AVX3  // looks at the lowest four bits
    return VF{_mm512_permutexvar_ps(code.raw, levels_.raw)};
#elif HWY_TARGET == HWY_AVX2  // the look-ups see three, the choice the fourth
    return hn::IfNegativeThenElse(
        hn::BitCast(DF(), hn::ShiftLeft<28>(code)),
        VF{_mm256_permutevar8x32_ps(upper_levels_.raw, code.raw)},
        VF{_mm256_permutevar8x32_ps(levels_.raw, code.raw)});
#endif
  }

 private:
  HWY_INLINE VF Level(VF code) const {
    return RoundVector<T>(hn::Mul(hn::Sub(code, zero_), scale_));
  }
  const VF scale_, zero_, levels_, upper_levels_;
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

}  // namespace HWY_NAMESPACE
}  // namespace qs::affine
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target

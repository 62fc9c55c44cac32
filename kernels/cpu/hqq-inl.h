// hqq's step on vectors: codes, errors, the shrink term, torch's sums. Included
// once for every target, by hqq_*_simd.cc only.
#if defined(QS_KERNELS_CPU_HQQ_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QS_KERNELS_CPU_HQQ_INL_H_
#undef QS_KERNELS_CPU_HQQ_INL_H_
#else
#define QS_KERNELS_CPU_HQQ_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>

#include "kernels/cpu/simd-inl.h"
#include "kernels/hqq_math.h"
#include "kernels/hqq_sums.h"
#include "kernels/hqq_tables.h"

HWY_BEFORE_NAMESPACE();
namespace qs::hqq {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

// Vectors in a row of 32 elements.
constexpr int64_t kRowVectors = kSumQuad / kLanes;

// Adds `rows` rows of 32 elements to 32 sums.
HWY_INLINE void AddRows(const float* rows, int64_t count, float* sums) {
  VF acc[kRowVectors];
  for (int64_t j = 0; j < kRowVectors; ++j) {
    acc[j] = hn::LoadU(DF(), sums + j * kLanes);
  }
  for (int64_t i = 0; i < count; ++i, rows += kSumQuad) {
    for (int64_t j = 0; j < kRowVectors; ++j) {
      acc[j] = hn::Add(acc[j], hn::LoadU(DF(), rows + j * kLanes));
    }
  }
  for (int64_t j = 0; j < kRowVectors; ++j) {
    hn::StoreU(acc[j], DF(), sums + j * kLanes);
  }
}

inline void AddLevel(float* to, float* from) {
  for (int64_t j = 0; j < kSumQuad; ++j) {
    to[j] += from[j];
    from[j] = 0;
  }
}

// CascadeSum of 32 columns down `count` rows, into `sums`.
inline void CascadeRows(const float* rows, int64_t count, float* sums) {
  const int power = CascadePower(count);
  const int64_t run = int64_t{1} << power;
  alignas(64) float level[kSumLevels][kSumQuad] = {};
  int64_t i = 0;
  while (i + run <= count) {
    AddRows(rows + i * kSumQuad, run, level[0]);
    i += run;
    for (int k = 1; k < kSumLevels; ++k) {
      AddLevel(level[k], level[k - 1]);
      if ((i & ((run - 1) << (k * power))) != 0) break;
    }
  }
  AddRows(rows + i * kSumQuad, count - i, level[0]);
  for (int k = 1; k < kSumLevels; ++k) AddLevel(level[0], level[k]);
  std::memcpy(sums, level[0], sizeof(level[0]));
}

// ContiguousSum from the sums of its whole rows and the elements after them.
inline float FinishRows(float* sums, const float* rest, int64_t rest_count) {
  int64_t i = 0;
  for (; i + kSumLanes <= rest_count; i += kSumLanes) {
    for (int64_t l = 0; l < kSumLanes; ++l) sums[l] += rest[i + l];
  }
  for (int64_t k = 1; k < 4; ++k) {
    for (int64_t l = 0; l < kSumLanes; ++l) {
      sums[l] += sums[k * kSumLanes + l];
    }
  }
  float sum = 0;
  for (; i < rest_count; ++i) sum += rest[i];
  for (int64_t l = 0; l < kSumLanes; ++l) sum += sums[l];
  return sum;
}

inline float TorchSum(const float* v, int64_t count) {
  if (count < kSumQuad) {
    return ContiguousSum(count, [v](int64_t i) { return v[i]; });
  }
  alignas(64) float sums[kSumQuad];
  CascadeRows(v, count / kSumQuad, sums);
  const int64_t whole = count / kSumQuad * kSumQuad;
  return FinishRows(sums, v + whole, count - whole);
}

// |e|^-0.3 (hqq_tables.h). REQUIRES: normal numbers.
HWY_INLINE VF ShrinkPowers(VF a) {
  using D64 = hn::CappedTag<double, 8>;
  const D64 d;
  const hn::Rebind<float, D64> half;
  const hn::RebindToUnsigned<D64> d_bits;
  constexpr int64_t kDoubles = hn::MaxLanes(D64());
  static const struct Terms {
    double log[kLogTerms], exp[kExpTerms];
    Terms() {
      double factorial = 1;
      for (int i = 0; i < kLogTerms; ++i) log[i] = kTwoOverLn2 / (2 * i + 1);
      for (int i = 0; i < kExpTerms; ++i) {
        exp[i] = 1 / factorial;
        factorial *= i + 1;
      }
    }
  } terms;
  // m in [3/4, 3/2) and the exponent, in F32.
  const auto bits = hn::BitCast(DI(), a);
  const auto exponent =
      hn::ShiftRight<23>(hn::Sub(bits, hn::Set(DI(), 0x3f400000)));
  const auto mantissa = hn::Sub(bits, hn::ShiftLeft<23>(exponent));
  alignas(64) float m[16], k[16], power[16];
  hn::StoreU(hn::BitCast(DF(), mantissa), DF(), m);
  hn::StoreU(hn::ConvertTo(DF(), exponent), DF(), k);
  const auto one = hn::Set(d, 1.0);
  const auto magic = hn::Set(d, 0x1.8p52);
  for (int64_t i = 0; i < kLanes; i += kDoubles) {
    const auto md = hn::PromoteTo(d, hn::LoadU(half, m + i));
    const auto kd = hn::PromoteTo(d, hn::LoadU(half, k + i));
    const auto r = hn::Div(hn::Sub(md, one), hn::Add(md, one));
    const auto square = hn::Mul(r, r);
    auto log = hn::Zero(d);
    for (int j = kLogTerms - 1; j >= 0; --j) {
      log = hn::Add(hn::Mul(log, square), hn::Set(d, terms.log[j]));
    }
    const auto y = hn::Mul(hn::Set(d, static_cast<double>(kShrinkPower)),
                           hn::Add(hn::Mul(log, r), kd));
    const auto shifted = hn::Add(y, magic);
    const auto whole = hn::Sub(shifted, magic);
    const auto f = hn::Mul(hn::Sub(y, whole), hn::Set(d, kLn2));
    auto p = hn::Zero(d);
    for (int j = kExpTerms - 1; j >= 0; --j) {
      p = hn::Add(hn::Mul(p, f), hn::Set(d, terms.exp[j]));
    }
    // The lowest bits of `shifted` are the integer.
    const auto scale = hn::ShiftLeft<52>(
        hn::Add(hn::BitCast(d_bits, shifted), hn::Set(d_bits, 1023)));
    hn::StoreU(hn::DemoteTo(half, hn::Mul(p, hn::BitCast(d, scale))), half,
               power + i);
  }
  return hn::LoadU(DF(), power);
}

// The shrink term of errors e.
HWY_INLINE VF ShrinkTerms(VF e) {
  const VF a = hn::Abs(e);
  const auto active = hn::Gt(a, hn::Set(DF(), kNoShrink));
  if (hn::AllFalse(DF(), active)) return hn::Zero(DF());
  // Lanes at rest get a harmless argument.
  const VF safe = hn::IfThenElse(active, a, hn::Set(DF(), 1.0f));
  const VF shrunk =
      hn::Sub(a, hn::Mul(hn::Set(DF(), kShrinkFactor), ShrinkPowers(safe)));
  const VF o = hn::IfThenElseZero(active, hn::Max(shrunk, hn::Zero(DF())));
  return hn::CopySign(o, e);
}

HWY_INLINE VF CodesOf(VF t, VF zero, VF max_code) {
  const VF u = hn::Add(t, zero);
  return hn::Round(hn::Min(hn::Max(u, hn::Zero(DF())), max_code));
}

// code - fl(fl(w - o) * s), with the shrink term where it is not zero.
HWY_INLINE VF Residuals(VF w, VF inverse, VF zero, VF max_code) {
  const VF t = hn::Mul(w, inverse);
  const VF code = CodesOf(t, zero, max_code);
  const VF e = hn::Sub(w, hn::Div(hn::Sub(code, zero), inverse));
  if (hn::AllTrue(DF(), hn::Le(hn::Abs(e), hn::Set(DF(), kNoShrink)))) {
    return hn::Sub(code, t);
  }
  return hn::Sub(code, hn::Mul(hn::Sub(w, ShrinkTerms(e)), inverse));
}

// body(vector of w, first lane's index, store(vector)) for a run of n elements;
// the last ones through a padded copy.
template <class T, class Body>
HWY_INLINE void MapRun(const T* w, int64_t n, float* out, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(body(LoadVector(w + i), i), DF(), out + i);
  }
  if (i >= n) return;
  T padded[16] = {};
  float last[16];
  std::memcpy(static_cast<void*>(padded), w + i,
              static_cast<size_t>(n - i) * sizeof(T));
  hn::StoreU(body(LoadVector(padded), i), DF(), last);
  std::memcpy(out + i, last, static_cast<size_t>(n - i) * sizeof(float));
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::hqq
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target

// What the HQQ kernels share: their arguments, access by element type at run
// time, and hqq's step of one element. Equations: kernels/hqq_math.h.
// Tested by tests/kernels/hqq_cuda_test.cc.
#ifndef QS_KERNELS_CUDA_HQQ_DEVICE_H_
#define QS_KERNELS_CUDA_HQQ_DEVICE_H_

#include <cstdint>

#include "kernels/cuda/affine_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/vocabulary.h"
#include "kernels/hqq_math.h"
#include "kernels/hqq_sums.h"

namespace qs::cuda {

struct HqqParams {
  const void* weight;
  DType dtype;
  int64_t count;
  int64_t group_size;
  int64_t groups;
  int axis;
  DType stored;
  int bits;
  bool round_zero;
  int iterations;
  uint8_t* codes;
  void* scales;
  void* zeros;           // null: zero_points
  uint8_t* zero_points;  // null: zeros
  Counter* first_non_finite;
  // Workspace.
  float* inverse;  // [groups]
  float* zero;     // [groups]
  int32_t* still;  // [groups]: steps until zero stood still
  HqqDeviceFacts* facts;

  QS_HD int64_t Index(int64_t g, int64_t k) const {
    return axis == 1 ? g * group_size + k : k * groups + g;
  }
  QS_HD int64_t GroupOf(int64_t i) const {
    return axis == 1 ? i / group_size : i % groups;
  }
  QS_HD hqq::Spec spec() const {
    return {stored, bits, round_zero, iterations};
  }
};

// Elements of a type that is known when the kernel runs.
class Elements {
 public:
  template <class Thread>
  QS_KERNEL Elements(const Thread& t, const void* data, DType dtype,
                     int64_t count)
      : dtype_(dtype),
        f32_(t.Global(static_cast<const float*>(data), Of(DType::kF32, count))),
        f16_(t.Global(static_cast<const F16*>(data), Of(DType::kF16, count))),
        bf16_(t.Global(static_cast<const BF16*>(data),
                       Of(DType::kBF16, count))) {}

  QS_KERNEL float Get(int64_t i) const {
    if (dtype_ == DType::kBF16) return Widen(bf16_.Get(i));
    if (dtype_ == DType::kF16) return Widen(f16_.Get(i));
    return f32_.Get(i);
  }

 private:
  QS_KERNEL int64_t Of(DType dtype, int64_t count) const {
    return dtype == dtype_ ? count : 0;
  }

  DType dtype_;
  GlobalMemory<const float> f32_;
  GlobalMemory<const F16> f16_;
  GlobalMemory<const BF16> bf16_;
};

// Element i of `count` of a type that is known when the kernel runs.
template <class Thread>
QS_KERNEL void StoreElement(const Thread& t, void* data, DType dtype,
                            int64_t count, int64_t i, float value) {
  if (dtype == DType::kBF16) {
    BF16 narrow;
    Narrow(value, &narrow);
    t.Global(static_cast<BF16*>(data), count).Set(i, narrow);
  } else if (dtype == DType::kF16) {
    F16 narrow;
    Narrow(value, &narrow);
    t.Global(static_cast<F16*>(data), count).Set(i, narrow);
  } else {
    t.Global(static_cast<float*>(data), count).Set(i, value);
  }
}

// A float grid: scale and zero of hqq's.
template <class Thread>
QS_KERNEL void StoreFloats(const Thread& t, const HqqParams& a, int64_t g,
                           float inverse, float zero) {
  StoreElement(t, a.scales, a.stored, a.groups, g,
               hqq::Storable(a.stored, 1.0f / inverse));
  StoreElement(t, a.zeros, a.stored, a.groups, g,
               hqq::Storable(a.stored, zero));
}

// a^-0.3 for a normal a: hqq_tables.h.
QS_KERNEL float ShrinkPowerOf(float a) {
  const uint32_t bits = FloatBits(a);
  const int32_t exponent = static_cast<int32_t>(bits - 0x3f400000u) >> 23;
  // In [3/4, 3/2).
  const auto m = static_cast<double>(
      BitsFloat(bits - (static_cast<uint32_t>(exponent) << 23)));
  const double r = (m - 1.0) / (m + 1.0);
  const double square = r * r;
  double log = 0.0;
  QS_UNROLL
  for (int i = hqq::kLogTerms - 1; i >= 0; --i) {
    log = log * square + hqq::kTwoOverLn2 / (2 * i + 1);
  }
  const double y = static_cast<double>(hqq::kShrinkPower) *
                   (log * r + static_cast<double>(exponent));
  const double whole = rint(y);
  const double f = (y - whole) * hqq::kLn2;
  // 1 / i!, i from high to low; factorials up to 13! are exact.
  double factorial = 6227020800.0;
  double power = 0.0;
  QS_UNROLL
  for (int i = hqq::kExpTerms - 1; i >= 0; --i) {
    power = power * f + 1.0 / factorial;
    if (i > 0) factorial /= i;
  }
  const auto scale_bits = static_cast<uint64_t>(static_cast<int>(whole) + 1023)
                          << 52;
  double scale;
  memcpy(&scale, &scale_bits, sizeof(scale));
  return static_cast<float>(power * scale);
}

// hqq's shrink_lp_op for lp_norm 0.7 and beta 10.
QS_KERNEL float Shrink(float e) {
  const float a = fabsf(e);
  if (!(a > hqq::kNoShrink)) return 0.0f;
  const float cut = a - hqq::kShrinkFactor * ShrinkPowerOf(a);
  const float o = cut > 0.0f ? cut : 0.0f;
  return e < 0.0f ? -o : o;
}

// What a group's elements are coded with.
struct HqqGrid {
  float inverse;
  float zero;
  float max_code;

  QS_KERNEL float Code(float w) const {
    return affine::RoundEven(affine::Clamp(w * inverse + zero, 0.0f, max_code));
  }
  QS_KERNEL float Error(float w) const {
    return w - (Code(w) - zero) / inverse;
  }
  // What the next zero is the mean of.
  QS_KERNEL float Residual(float w) const {
    const float code = Code(w);
    const float o = Shrink(w - (code - zero) / inverse);
    return code - (w - o) * inverse;
  }
};

// Of all lanes of a warp, in lane 0 and everywhere.
template <class Thread>
QS_KERNEL Counter AddCountsOverWarp(Thread& t, Counter count) {
  QS_UNROLL
  for (int mask = 1; mask < kWarpSize; mask *= 2) {
    count += t.ShuffleXor(count, mask);
  }
  return count;
}

// Adds to the facts' sum of steps.
template <class Thread>
QS_KERNEL void AddSteps(const Thread& t, const HqqParams& a, Counter steps) {
  if (steps == 0) return;
  auto* sum = reinterpret_cast<Counter*>(&a.facts->group_iterations);
  t.Global(sum, 1).AtomicAdd(0, steps);
}

template <class Thread>
QS_KERNEL void ReportNonFinite(const Thread& t, const HqqParams& a, float w,
                               int64_t i) {
  if (!IsNonFinite(FloatBits(w) & 0x7fffffffu)) return;
  t.Global(a.first_non_finite, 1).AtomicMin(0, static_cast<Counter>(i));
}

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_HQQ_DEVICE_H_

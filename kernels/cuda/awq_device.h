// One group of a row as a warp of the AWQ kernels has it: scaled, clamped and
// rounded values, their grid, codes. Equations: kernels/awq_ops.h; arithmetic
// of grids: kernels/awq_math.h.
// Tested by tests/kernels/awq_cuda_test.cc.
#ifndef QS_KERNELS_CUDA_AWQ_DEVICE_H_
#define QS_KERNELS_CUDA_AWQ_DEVICE_H_

#include <cmath>
#include <cstdint>

#include "kernels/awq_math.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {

// To 11 significant bits, half to even. REQUIRES: x is finite.
QS_HD float RoundToTf32(float x) {
  const uint32_t u = FloatBits(x);
  const uint32_t rounded = u + 0xfffu + ((u >> 13) & 1u);
  return BitsFloat(rounded & 0xffffe000u);
}

QS_KERNEL bool IsAutoAwq(const AwqGridSpec& spec) {
  return spec.rule == AwqRule::kAutoAwq;
}

// Scaled weights of one group.
template <class Thread, class T>
class GroupValues {
 public:
  QS_KERNEL GroupValues(const Thread& t, const TensorView& weight,
                        const AwqGridSpec& spec, const float* scales,
                        int64_t row, int64_t first_col)
      : weight_(t.Global(static_cast<const T*>(weight.data),
                         weight.rows * weight.cols)),
        scales_(t.Global(scales, scales == nullptr ? 0 : weight.cols)),
        scaled_(scales != nullptr),
        dtype_(weight.dtype),
        rounded_(IsAutoAwq(spec)),
        first_col_(first_col),
        at_(row * weight.cols + first_col) {}

  QS_KERNEL float Weight(int64_t i) const {
    return Widen(weight_.Get(at_ + i));
  }
  QS_KERNEL float Scale(int64_t i) const {
    return scaled_ ? scales_.Get(first_col_ + i) : 1.0f;
  }
  QS_KERNEL float At(int64_t i) const {
    const float x = Weight(i) * Scale(i);
    return rounded_ ? affine::RoundTo(dtype_, x) : x;
  }

 private:
  const GlobalMemory<const T> weight_;
  const GlobalMemory<const float> scales_;
  const bool scaled_;
  const DType dtype_;
  const bool rounded_;
  const int64_t first_col_;
  const int64_t at_;
};

// What is quantized: clamped, and with kAutoAwq rounded to the scale's dtype.
QS_KERNEL float Clamped(const AwqGridSpec& spec, const awq::Limits& limits,
                        float x) {
  const float raised = x > limits.low ? x : limits.low;
  const float clamped = raised < limits.high ? raised : limits.high;
  return IsAutoAwq(spec) ? affine::RoundTo(spec.scale_dtype, clamped) : clamped;
}

QS_KERNEL awq::Limits NoLimits() { return {-INFINITY, INFINITY}; }

// The extremes of value(i), i < count, over a warp. By all of its lanes.
template <class Thread, class Value>
QS_KERNEL awq::Limits ExtremesOverWarp(Thread& t, int64_t count,
                                       const Value& value) {
  float low = INFINITY, high = -INFINITY;
  for (int64_t i = t.ThreadIndex() % kWarpSize; i < count; i += kWarpSize) {
    const float x = value(i);
    low = x < low ? x : low;
    high = x > high ? x : high;
  }
  QS_UNROLL
  for (int mask = 1; mask < kWarpSize; mask *= 2) {
    const float other_low = t.ShuffleXor(low, mask);
    const float other_high = t.ShuffleXor(high, mask);
    low = other_low < low ? other_low : low;
    high = other_high > high ? other_high : high;
  }
  return {low, high};
}

// The range of a group, with 0 in it.
QS_KERNEL awq::Limits WithZero(const awq::Limits& extremes) {
  return {extremes.low < 0 ? extremes.low : 0.0f,
          extremes.high > 0 ? extremes.high : 0.0f};
}

// The grid of a group within limits. By all lanes of the warp.
template <class Thread, class Values>
QS_KERNEL awq::Grid GridOf(Thread& t, const AwqGridSpec& spec,
                           const Values& values, const awq::Limits& limits) {
  awq::Limits extremes =
      ExtremesOverWarp(t, spec.group_size, [&](int64_t i) {
        return Clamped(spec, limits, values.At(i));
      });
  if (!IsAutoAwq(spec)) extremes = WithZero(extremes);
  return awq::MakeGrid(spec, extremes.low, extremes.high);
}

QS_KERNEL float CodeOf(const AwqGridSpec& spec, const awq::Grid& grid,
                       float x) {
  const auto top = static_cast<float>((1 << spec.bits) - 1);
  const float quotient = x / grid.scale;
  if (!IsAutoAwq(spec)) {
    return affine::Clamp(rintf(quotient) + grid.zero, 0.0f, top);
  }
  const DType dtype = spec.scale_dtype;
  const float steps = rintf(affine::RoundTo(dtype, quotient));
  const float code = steps + grid.zero;
  return affine::Clamp(
      spec.symmetric ? code : affine::RoundTo(dtype, code), 0.0f, top);
}

QS_KERNEL float DecodedOf(const AwqGridSpec& spec, const awq::Grid& grid,
                          float code) {
  const float value = (code - grid.zero) * grid.scale;
  return IsAutoAwq(spec) ? affine::RoundTo(spec.scale_dtype, value) : value;
}

// Calls body(unit) for every unit of this warp.
template <class Thread, class Body>
QS_KERNEL void ForWarpUnits(const Thread& t, int64_t units, const Body& body) {
  const int64_t warps = t.BlockSize() / kWarpSize;
  for (int64_t unit = t.BlockIndex() * warps + t.ThreadIndex() / kWarpSize;
       unit < units; unit += t.GridSize() * warps) {
    body(unit);
  }
}

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_AWQ_DEVICE_H_

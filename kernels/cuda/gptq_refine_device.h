// What the kernels of Refine share.
// Tested by tests/kernels/gptq_refine_cuda_test.cc.
#ifndef QS_KERNELS_CUDA_GPTQ_REFINE_DEVICE_H_
#define QS_KERNELS_CUDA_GPTQ_REFINE_DEVICE_H_

#include <cmath>
#include <cstdint>

#include "kernels/affine_math.h"
#include "kernels/cuda/gptq_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda::refine {

template <class Thread>
QS_KERNEL float ScaleAt(const Thread& t, const RefineState& a, int64_t at) {
  const int64_t count = a.weight.rows * a.groups;
  if (a.grid.scale_dtype == DType::kF32) {
    return t.Global(static_cast<const float*>(a.scales), count).Get(at);
  }
  if (a.grid.scale_dtype == DType::kF16) {
    return Widen(t.Global(static_cast<const F16*>(a.scales), count).Get(at));
  }
  return Widen(t.Global(static_cast<const BF16*>(a.scales), count).Get(at));
}

template <class Thread>
QS_KERNEL void StoreScale(const Thread& t, const RefineState& a, int64_t at,
                          float scale) {
  const int64_t count = a.weight.rows * a.groups;
  if (a.grid.scale_dtype == DType::kF32) {
    t.Global(static_cast<float*>(a.scales), count).Set(at, scale);
  } else if (a.grid.scale_dtype == DType::kF16) {
    F16 narrow;
    Narrow(scale, &narrow);
    t.Global(static_cast<F16*>(a.scales), count).Set(at, narrow);
  } else {
    BF16 narrow;
    Narrow(scale, &narrow);
    t.Global(static_cast<BF16*>(a.scales), count).Set(at, narrow);
  }
}

template <class Thread>
QS_KERNEL float ZeroAt(const Thread& t, const RefineState& a, int64_t at) {
  if (a.zero_points == nullptr) {
    return static_cast<float>(1 << (a.grid.bits - 1));
  }
  return static_cast<float>(
      t.Global(a.zero_points, a.weight.rows * a.groups).Get(at));
}

QS_KERNEL float Decoded(const RefineState& a, float steps, float scale) {
  return affine::RoundTo(a.grid.decoded_dtype, steps * scale);
}

template <class Thread>
QS_KERNEL float SumOverWarp(Thread& t, float sum) {
  QS_UNROLL
  for (int mask = 1; mask < kWarpSize; mask *= 2) {
    sum += t.ShuffleXor(sum, mask);
  }
  return sum;
}

// A scale that is one of its dtype and may replace `scale`.
QS_KERNEL bool IsUsable(const RefineState& a, float wanted, float scale) {
  return wanted > 0 && wanted < INFINITY && !(wanted < a.grid.min_scale) &&
         wanted != scale;
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

template <class Thread>
QS_KERNEL void MarkChanged(const Thread& t, const RefineState& a, int64_t row) {
  if (t.ThreadIndex() % kWarpSize != 0) return;
  t.Global(a.changed, a.weight.rows).AtomicMax(row, 1);
  t.Global(a.any_changed, 1).AtomicMax(0, 1);
}

template <class Thread>
QS_KERNEL bool IsActive(const Thread& t, const RefineState& a, int64_t row) {
  return a.changed_before == nullptr ||
         t.Global(a.changed_before, a.weight.rows).Get(row) != 0;
}

inline bool IsServableState(const RefineState& s) {
  return s.weight.rows >= 1 && s.weight.cols >= 1 && s.groups >= 1 &&
         s.grid.group_size >= 1 && s.codes != nullptr && s.scales != nullptr &&
         IsPointer(s.hessian) && IsPointer(s.gradient) &&
         IsPointer(s.changed) && IsPointer(s.any_changed);
}

}  // namespace qs::cuda::refine

#endif  // QS_KERNELS_CUDA_GPTQ_REFINE_DEVICE_H_

// The loops beside the products of second moments, one text for every
// instruction set. Tested by tests/kernels/gram_test.cc.
#include "kernels/cpu/gram_simd.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gram_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::gram {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

void ConvertToF32(const TensorView& view, int64_t begin, int64_t count,
                  float* out) {
  WithType(view.dtype, [&]<class T>(T*) {
    const T* const data = static_cast<const T*>(view.data) + begin;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      hn::StoreU(LoadVector(data + i), DF(), out + i);
    }
    for (; i < count; ++i) out[i] = LoadOne<T>(data, i);
  });
}

#if HWY_TARGET == HWY_SCALAR
void AddToF64(const float* values, int64_t count, double* sums) {
  for (int64_t i = 0; i < count; ++i) sums[i] += static_cast<double>(values[i]);
}
#else
void AddToF64(const float* values, int64_t count, double* sums) {
  const hn::CappedTag<double, 8> d64;
  const hn::Rebind<float, decltype(d64)> d32;
  const auto n = static_cast<int64_t>(hn::Lanes(d64));
  int64_t i = 0;
  for (; i + n <= count; i += n) {
    const auto wide = hn::PromoteTo(d64, hn::LoadU(d32, values + i));
    hn::StoreU(hn::Add(hn::LoadU(d64, sums + i), wide), d64, sums + i);
  }
  for (; i < count; ++i) sums[i] += static_cast<double>(values[i]);
}
#endif

void AddAbsColumns(const float* x, int64_t stride, int64_t rows, int64_t cols,
                   double* sums) {
  constexpr int64_t kRun = 64;
  alignas(64) float part[16];
  for (int64_t r = 0; r < rows; r += kRun) {
    const int64_t end = std::min(r + kRun, rows);
    int64_t c = 0;
    for (; c + kLanes <= cols; c += kLanes) {
      VF sum = hn::Zero(DF());
      for (int64_t t = r; t < end; ++t) {
        sum = hn::Add(sum, hn::Abs(hn::LoadU(DF(), x + t * stride + c)));
      }
      hn::StoreU(sum, DF(), part);
      AddToF64(part, kLanes, sums + c);
    }
    for (; c < cols; ++c) {
      float sum = 0;
      for (int64_t t = r; t < end; ++t) sum += std::abs(x[t * stride + c]);
      sums[c] += static_cast<double>(sum);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::gram
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::gram {

HWY_EXPORT(ConvertToF32);
HWY_EXPORT(AddAbsColumns);
HWY_EXPORT(AddToF64);

void ConvertToF32(const TensorView& view, int64_t begin, int64_t count,
                  float* out) {
  HWY_DYNAMIC_DISPATCH(ConvertToF32)(view, begin, count, out);
}

void AddAbsColumns(const float* x, int64_t stride, int64_t rows, int64_t cols,
                   double* sums) {
  HWY_DYNAMIC_DISPATCH(AddAbsColumns)(x, stride, rows, cols, sums);
}

void AddToF64(const float* values, int64_t count, double* sums) {
  HWY_DYNAMIC_DISPATCH(AddToF64)(values, count, sums);
}

}  // namespace qs::gram
#endif  // HWY_ONCE

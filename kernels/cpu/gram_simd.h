// SIMD entry points of the second moments; plain functions, the instruction set
// is chosen inside. Used by gram_cpu.cc only.
#ifndef QS_KERNELS_CPU_GRAM_SIMD_H_
#define QS_KERNELS_CPU_GRAM_SIMD_H_

#include <cstdint>

#include "kernels/base/tensor_view.h"

namespace qs::gram {

// Elements [begin, begin + count) of a view.
void ConvertToF32(const TensorView& view, int64_t begin, int64_t count,
                  float* out);
// sums[c] += sum over `rows` rows of |x[r * stride + c]|, c < cols: F32 over 64
// rows, then F64.
void AddAbsColumns(const float* x, int64_t stride, int64_t rows, int64_t cols,
                   double* sums);
// sums[i] += values[i].
void AddToF64(const float* values, int64_t count, double* sums);

}  // namespace qs::gram

#endif  // QS_KERNELS_CPU_GRAM_SIMD_H_

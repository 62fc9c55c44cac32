// Scaling rows of weights as a group's solution says, and back.
// Thread: pure functions.
#ifndef QS_QUANT_AWQ_TRANSFORM_H_
#define QS_QUANT_AWQ_TRANSFORM_H_

#include <cstdint>
#include <span>

#include "kernels/base/tensor_view.h"
#include "quant/awq_solution.h"

namespace qs {

// out[r, k] = in[r, k] * column_scales[k] / row_divisors[first_row + r], or
// values, in out's dtype. `rounded`: each of the two operations is rounded to
// in's dtype, as a library that scales in place does.
void TransformRows(const AwqTransform& transform, const TensorView& in,
                   int64_t first_row, bool rounded, MutableTensorView out);

// out[r, k] = in[r, k] / column_scales[k] * row_divisors[first_row + r].
void RestoreRows(const AwqTransform& transform, const TensorView& in,
                 int64_t first_row, MutableTensorView out);

// 1 for none.
double GeometricMean(std::span<const float> values);

}  // namespace qs

#endif  // QS_QUANT_AWQ_TRANSFORM_H_

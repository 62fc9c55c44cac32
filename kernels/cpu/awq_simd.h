// SIMD entry points of the AWQ family; plain functions, the instruction set is
// chosen inside. Used by awq_cpu.cc only.
#ifndef QS_KERNELS_CPU_AWQ_SIMD_H_
#define QS_KERNELS_CPU_AWQ_SIMD_H_

#include <cstdint>

#include "kernels/awq_math.h"
#include "kernels/awq_ops.h"

namespace qs::awq {

// Floats that a buffer of `count` takes here: sixteen at a time.
constexpr int64_t PaddedCount(int64_t count) { return (count + 15) / 16 * 16; }

// sums[i] += R(|w| / R(max + 1e-6)) of the columns [first, first + count), one
// group, over all rows in order.
void AddColumnMeans(const TensorView& weight, int64_t first, int64_t count,
                    double* sums);

// D = Q(W s) / s - W of `count` rows, every `stride`-th from `first`, to
// delta [count, cols].
void DeltaRows(const AwqGridSpec& spec, const TensorView& weight,
               const float* scales, int64_t first, int64_t count,
               int64_t stride, float* delta);

// The squares of the steps of all groups of a row, to `out` [groups].
void SquaredSteps(const AwqGridSpec& spec, const TensorView& weight,
                  const float* scales, int64_t row, double* out);

// The scaled, rounded weights of columns [first, first + count) of a row, to
// PaddedCount(count) floats; what pads repeats the first.
void ScaleColumns(const AwqGridSpec& spec, const TensorView& weight,
                  const float* scales, int64_t row, int64_t first,
                  int64_t count, float* out);

// The extremes of a padded buffer.
Limits FindRange(const float* w, int64_t count);

// Q(clamp(w)) - w of one group for each of `candidates` limits, to
// deltas [candidates, count]. `w` is padded; `deltas` has PaddedCount(count) -
// count floats beyond its end.
void ClipDeltas(const AwqGridSpec& spec, const float* w, int64_t count,
                const Limits* limits, int candidates, float* deltas);

// All groups of a row of AwqOps::Quantize.
void QuantizeRow(const AwqQuantizeArgs& args, int64_t row);

// sum a[i] b[i], in a fixed order.
double DotRow(const float* a, const float* b, int64_t count);

}  // namespace qs::awq

#endif  // QS_KERNELS_CPU_AWQ_SIMD_H_

// Launchers of the AWQ family's kernels (awq.cu, awq_clip.cu). Contract:
// cuda_ops.h. Used by awq_cuda.cc only. All pointers are device memory.
#ifndef QS_KERNELS_CUDA_AWQ_LAUNCH_H_
#define QS_KERNELS_CUDA_AWQ_LAUNCH_H_

#include <cstdint>

#include "kernels/awq_ops.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/tiles.h"

namespace qs::cuda {

// Partial sums of a loss, always as many.
constexpr int64_t kLossParts = kTiles.loss_parts;
// Rows of the clip search's products, always as many.
constexpr int64_t kClipRows = kTiles.clip_rows;

// R(max |w| of a row's group + 1e-6).
struct AwqDivisorArgs {
  TensorView weight;
  int64_t group_size = 0;
  float* divisors = nullptr;  // out, [rows, groups]
};
int LaunchAwqDivisors(const AwqDivisorArgs& args, cudaStream_t stream);

// sums[col] += R(|w| / divisor), row after row.
struct AwqMeanArgs {
  TensorView weight;
  int64_t group_size = 0;
  const float* divisors = nullptr;
  double* sums = nullptr;  // in, out, [cols]
};
int LaunchAwqMeans(const AwqMeanArgs& args, cudaStream_t stream);

int LaunchAwqQuantize(const AwqQuantizeArgs& args, cudaStream_t stream);

// D = Q(W s) / s - W of rows first, first + stride, ..., rounded to what TF32
// holds.
struct AwqDeltaArgs {
  TensorView weight;
  AwqGridSpec grid;
  const float* scales = nullptr;  // [cols]
  int64_t first = 0;
  int64_t stride = 1;
  int64_t count = 0;
  float* delta = nullptr;  // out, [count, cols]
};
int LaunchAwqDelta(const AwqDeltaArgs& args, cudaStream_t stream);

// Rounded to what TF32 holds.
int LaunchTf32Copy(const float* from, int64_t count, float* to,
                   cudaStream_t stream);

// Partial sums of product * with, [rows, width] in arrays of these strides.
struct AwqDotArgs {
  const float* product = nullptr;
  int64_t product_stride = 0;
  const float* with = nullptr;
  int64_t with_stride = 0;
  int64_t rows = 0;
  int64_t width = 0;
  double* parts = nullptr;  // out, [kLossParts]
};
int LaunchAwqDot(const AwqDotArgs& args, cudaStream_t stream);

// Partial sums of step^2 / 12 * cost of the group.
struct AwqStepArgs {
  TensorView weight;
  AwqGridSpec grid;
  const float* scales = nullptr;     // [cols]
  int64_t stride = 1;                // of the rows
  const float* curvature = nullptr;  // [cols]
  double* costs = nullptr;           // scratch, [groups]
  double* parts = nullptr;           // out, [kLossParts]
};
int LaunchAwqSteps(const AwqStepArgs& args, cudaStream_t stream);

// The diagonal blocks of S^-1 H S^-1, [groups, group_size, group_size].
struct AwqBlockArgs {
  const float* second_moment = nullptr;
  const float* scales = nullptr;  // null: 1
  int64_t cols = 0;
  int64_t group_size = 0;
  float* blocks = nullptr;  // out
};
int LaunchAwqBlocks(const AwqBlockArgs& args, cudaStream_t stream);

// One round of the clip search on rows [first, first + count), at most
// kClipRows.
struct AwqClipRound {
  TensorView weight;
  AwqGridSpec grid;
  const float* scales = nullptr;  // [cols]; null: 1
  int64_t first = 0;
  int64_t count = 0;
  int round = 0;
  int candidates = 0;
  // Both [groups, kClipRows * candidates, group_size].
  float* deltas = nullptr;  // Q(clamp(w)) - w; of rows behind the last one 0
  const float* products = nullptr;
  double* errors = nullptr;  // in, out, [rows, groups]
  float* low = nullptr;      // in, out, likewise: the best limits so far
  float* high = nullptr;
};
int LaunchAwqClipDeltas(const AwqClipRound& args, cudaStream_t stream);
int LaunchAwqClipPick(const AwqClipRound& args, cudaStream_t stream);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_AWQ_LAUNCH_H_

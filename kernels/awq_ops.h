// AwqOps: what AWQ asks of the linears that read one input — how large their
// weights are by column, what a vector of column scales costs, how far to clip
// each group, and the integer grid at the end. Source: Lin et al., "AWQ:
// Activation-aware Weight Quantization", arXiv 2306.00978; the arithmetic of
// AwqRule::kAutoAwq is AutoAWQ 0.2.9's (awq/quantize/quantizer.py).
//
// Scales s multiply columns of W [rows, cols] before it is quantized and divide
// the input: the layer then computes Q(W s) / s. With H = sum x x^T of the
// unscaled input, its squared output error is
//   tr(D H D^T),  D = Q(W s) / s - W,
// so that no activations are needed and H is the same for all s.
//
// Grid of a group (one row, group_size columns), codes and zero point unsigned,
// R() rounding to a dtype after every operation:
//   kAutoAwq: w = R_t(W s) clamped to the limits, then rounded to scale_dtype,
//     whose R it is from here on. t is the weight's dtype.
//     asymmetric: s = R(R(max(R(high - low), 1e-5)) / (2^b - 1)) with the true
//       extremes, z = clamp(-rne(R(low / s)), 0, 2^b - 1),
//       q = clamp(R(rne(R(w / s)) + z), 0, 2^b - 1)
//     symmetric: s = R(max(max |w|, 1e-5) / (2^(b-1) - 1)), z = 2^(b-1),
//       q = clamp(rne(R(w / s)), -z, z - 1) + z
//   kBest: w = W s in F32, clamped; low <= 0 <= high;
//     asymmetric: s = R((high - low) / (2^b - 1)), z = clamp(rne(-low / s))
//     symmetric: s = R(2 max |w| / (2^b - 1)), z = 2^(b-1)
//     q = clamp(rne(w / s) + z, 0, 2^b - 1), in F32
//   Q = R((q - z) s), with kBest in F32.
//   Both: s below min_scale becomes min_scale before anything is divided by it.
//
// Elementwise results (codes, scales, zero points, deltas) are the same bytes
// on every backend, ISA and thread count. Losses and clip errors are
// *reductions*: they go through matrix products in F32 with a fixed partition.
// All pointers are in the backend's device memory but scales, losses and
// w_mean, which are on the host.
//
// Errors: INVALID_ARGUMENT — bits, group size, shape or dtype out of range;
// RESOURCE_EXHAUSTED — no memory for scratch; whatever `checkpoint` returned.
// Thread: thread-compatible; distinct calls on distinct memory may run at once.
#ifndef QS_KERNELS_AWQ_OPS_H_
#define QS_KERNELS_AWQ_OPS_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/base/content_id.h"
#include "kernels/base/tensor_view.h"
#include "kernels/gptq_ops.h"  // PanelCheck
#include "kernels/stream.h"

namespace qs {

enum class AwqRule {
  kAutoAwq,  // REFERENCE
  kBest,
};

struct AwqGridSpec {
  int bits = 4;              // 2..8
  int64_t group_size = 128;  // divides cols
  bool symmetric = false;
  AwqRule rule = AwqRule::kBest;
  DType scale_dtype = DType::kBF16;  // F32, F16 or BF16
  // What a smaller scale is raised to. 0: with kBest the least normal number
  // of scale_dtype, with kAutoAwq none.
  float min_scale = 0;
};

// w_mean[k] = mean over the rows of all weights of
//   R(|w| / R(max |w| of the row's group + 1e-6)),
// the mean in double, rounded to the dtype of the first weight.
struct AwqStatisticsArgs {
  std::span<const TensorView> weights;  // [rows_i, cols], float dtypes
  int64_t group_size = 128;
  float* w_mean = nullptr;  // out, [cols]
};

struct AwqScaleLossArgs {
  std::span<const TensorView> weights;  // of one input: the same cols
  AwqGridSpec grid;
  const float* scales = nullptr;  // [candidates, cols], all > 0
  int64_t candidates = 0;
  // H [cols, cols], symmetric, or instead its factor R, upper triangular with
  // zeros below, H = R R^T: half the work.
  const float* second_moment = nullptr;
  const float* factor = nullptr;
  ContentId matrix_id = 0;  // of the one that is given
  // Or, [cols], what an error in a column costs when later columns make up for
  // it (R_jj^2 of GPTQ's factor): the loss is then that which solved codes can
  // be expected to leave, the sum over groups of
  //   step^2 / 12 * sum of curvature_j / s_j^2.
  const float* curvature = nullptr;
  // Only rows 0, row_stride, 2 row_stride, ... of each weight.
  int64_t row_stride = 1;
  PanelCheck checkpoint;
  double* losses = nullptr;  // out, [candidates]: sums over all rows
};

// Per row and group, the limits [low, high] that the scaled weights are clamped
// to with the least d H_gg d^T, H_gg the group's diagonal block of S^-1 H S^-1
// and d = Q(clamp(w)) - w: cross terms between groups are left out.
//   kAutoAwq: high = R(max |w| R(1 - i / 20)), i = 0..9, low = -high; the first
//     least.
//   kBest: the range times 1 - i / 20, i = 0..9; then the lower end, then the
//     upper one moved by -0.1, -0.05, 0.05 and 0.1 of the range's width and
//     kept inside it. A symmetric grid has one limit, moved by 0.03 and 0.015,
//     then by a quarter of that. A later candidate must be better to replace.
struct AwqClipArgs {
  TensorView weight;  // [rows, cols], unscaled
  AwqGridSpec grid;
  const float* scales = nullptr;         // [cols]; null: 1
  const float* second_moment = nullptr;  // H of the unscaled input
  ContentId second_moment_id = 0;
  PanelCheck checkpoint;
  float* low = nullptr;   // out, [rows, cols / group_size]
  float* high = nullptr;  // out, likewise
};

struct AwqQuantizeArgs {
  TensorView weight;  // [rows, cols], unscaled
  AwqGridSpec grid;
  const float* scales = nullptr;  // [cols]; null: 1
  const float* low = nullptr;     // [rows, groups]; null: not clipped
  const float* high = nullptr;
  // Out. [rows, cols], [rows, groups] in scale_dtype, [rows, groups].
  uint8_t* codes = nullptr;
  void* group_scales = nullptr;
  uint8_t* zero_points = nullptr;
  // Out, F32 [rows, cols]: Q(W s), not divided. May be null.
  float* decoded = nullptr;
};

class AwqOps {
 public:
  virtual ~AwqOps() = default;
  virtual absl::Status Statistics(const AwqStatisticsArgs& args, Stream& s) = 0;
  virtual absl::Status ScaleLosses(const AwqScaleLossArgs& args, Stream& s) = 0;
  virtual absl::Status ClipSearch(const AwqClipArgs& args, Stream& s) = 0;
  virtual absl::Status Quantize(const AwqQuantizeArgs& args, Stream& s) = 0;
};

}  // namespace qs

#endif  // QS_KERNELS_AWQ_OPS_H_

// GptqOps: integer codes of a weight matrix that keep its outputs, given the
// second moment H of its inputs. (GPTQ, arXiv 2210.17323; the inverse-free form
// with one reversed Cholesky factorisation H = R R^T.)
//
//   error = sum over rows of d H d^T,   d = weight - decoded
//   w ~ scale * (code - zero_point),    code, zero_point in [0, 2^bits - 1]
//
// Columns are taken in an order: position p holds column order[p] (null: as
// stored). In that order, with R upper triangular and P H P^T + damping = R
// R^T,
//   compensated w_p = w_p + sum_{k<p} (w_k - q_k) R[k,p] / R[p,p]
//   e_p = (compensated w_p - q_p) R[p,p],   sum of e_p^2 = d H_damped d^T.
//
// Factor, OutputError and Refine are *reductions*: the same binary and inputs
// give the same bytes at any thread count; implementations agree within
// tolerances. Rows are independent of each other in Solve, Refine, Decode and
// OutputError: a row's results do not depend on which other rows are solved
// with it. All pointers are in the backend's device memory.
//
// Errors of all: INVALID_ARGUMENT — an argument out of range;
// RESOURCE_EXHAUSTED — no memory for scratch; whatever `checkpoint` returned.
// Thread: thread-compatible; distinct calls on distinct memory may run at once.
#ifndef QS_KERNELS_GPTQ_OPS_H_
#define QS_KERNELS_GPTQ_OPS_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "kernels/base/content_id.h"
#include "kernels/base/tensor_view.h"
#include "kernels/stream.h"

namespace qs {

// Called between panels and blocks with the share that is done, in [0, 1];
// another status than OK ends the operation with it. May be null. Called from
// any thread of the operation, one call at a time.
using PanelCheck = std::function<absl::Status(double done)>;

struct GptqFactorFacts {
  double damping = 0;          // used, of the mean diagonal
  int damping_retries = 0;     // steps up from the one asked for
  bool in_f64 = false;         // asked for, or F32 did not suffice
  int64_t dropped_pivots = 0;  // columns that the others determine fully
  bool diagonal_only = false;  // nothing else succeeded
  int64_t dead_columns = 0;    // H_jj == 0
};

// R of P H P^T + damping * mean(diag H) * I.
// The ladder when H cannot be factored: F32; F64; damping x 3, up to 0.3;
// pivots that are lost in rounding set to their least; the diagonal alone.
// Errors: INVALID_ARGUMENT also for NaN or Inf in H and for a negative diagonal
// element.
struct GptqFactorArgs {
  const float* hessian = nullptr;  // [size, size], both triangles, undamped
  int64_t size = 0;
  const int32_t* order = nullptr;  // [size]
  double damping = 0.01;           // of the mean diagonal
  // What H_jj == 0 is replaced by before the mean is taken. The published loops
  // have 1 in H = 2 / tokens * sum x x^T; 0 leaves the damping alone there.
  double dead_diagonal = 0;
  // Without trying F32 first, whose rounding moves codes where H is
  // ill-conditioned, and moves others on another machine.
  bool in_f64 = false;
  PanelCheck checkpoint;
  // Out, [size, size]; zero below the diagonal. May be the memory of `hessian`,
  // which is then lost; the result is the same.
  float* factor = nullptr;
  GptqFactorFacts* facts = nullptr;  // out
};

// What Factor takes on CPUs for a while, at most: F64 above the diagonal, where
// F32 did not suffice.
constexpr int64_t GptqFactorScratchBytes(int64_t size) {
  return 4 * size * size + 2048 * size;
}

// What codes mean.
struct GptqGrid {
  int bits = 4;              // 2..8
  int64_t group_size = 128;  // 1..cols; the last group may be shorter
  bool symmetric = true;
  DType scale_dtype = DType::kF32;  // what scales are rounded to and stored as
  float min_scale = 0;  // least scale; 0: the least normal of scale_dtype
  // What a decoded value (code - zero_point) * scale is rounded to: F32 (not at
  // all), F16 or BF16.
  DType decoded_dtype = DType::kF32;
};

enum class GptqRange {
  kMinMax,
  kMse,        // least sum |w - q|^norm over 80 shrunken ranges
  kCurvature,  // least sum (w - q)^2 R[p,p]^2 over a list of ranges; static
               // groups only
  kGiven,      // scales and zero_points are inputs; static groups only
};

struct GptqSolveArgs {
  TensorView weight;  // [rows, cols] F32, F16 or BF16
  // Null: the identity. Nothing is compensated then: round to nearest.
  const float* factor = nullptr;
  ContentId factor_id = 0;
  const int32_t* order = nullptr;
  GptqGrid grid;
  // Whether groups are runs of stored columns with ranges of the weights as
  // they come (static), or runs of `group_size` positions with ranges of the
  // weights as compensated by all blocks of 128 before (dynamic).
  bool static_groups = true;
  // Dynamic: group of each column [cols], the same for all columns of a run;
  // null: position / group_size.
  const int32_t* group_index = nullptr;
  GptqRange range = GptqRange::kMinMax;
  double norm = 2.4;  // of kMse
  // [cols]; weights of columns that are not 0 here count as zero once whole-row
  // ranges were taken, as the published loops have it for H_jj == 0. Null:
  // none.
  const uint8_t* zeroed = nullptr;
  PanelCheck checkpoint;
  // Out. One code a byte, [rows, cols], as stored.
  uint8_t* codes = nullptr;
  // [rows, groups] in grid.scale_dtype, groups = CeilDiv(cols, group_size).
  void* scales = nullptr;
  uint8_t* zero_points = nullptr;  // [rows, groups]; null when symmetric
  // [rows]: sum of e_p^2. May be null.
  double* row_loss = nullptr;
  // First flat index that is NaN or infinite, -1 when there is none.
  int64_t* first_non_finite = nullptr;
};

// Coordinate descent on the codes and (in the first sweeps) least squares on
// the scales, for static groups, block of columns by block, until a sweep
// changes nothing of a row or `sweeps` have run. But for rounding, the damped
// error of no row rises.
struct GptqRefineArgs {
  TensorView weight;
  const float* hessian = nullptr;  // [cols, cols], undamped
  ContentId hessian_id = 0;
  double damping = 0.01;  // of the mean diagonal
  GptqGrid grid;
  int sweeps = 10;
  bool refit_scales = true;
  PanelCheck checkpoint;
  uint8_t* codes = nullptr;              // in, out
  void* scales = nullptr;                // in, out
  const uint8_t* zero_points = nullptr;  // null when symmetric
  double* row_error = nullptr;  // out, [rows]: undamped d H d^T; may be null
};

// Weights from codes.
struct GptqDecodeArgs {
  const uint8_t* codes = nullptr;
  const void* scales = nullptr;
  const uint8_t* zero_points = nullptr;  // null: 2^(bits-1)
  GptqGrid grid;                         // decoded_dtype is not used
  const int32_t* group_index = nullptr;  // [cols]; null: column / group_size
  MutableTensorView weight;              // out, rounded to its dtype
};

// d H d^T and w H w^T of every row, H undamped.
struct GptqErrorArgs {
  TensorView weight;
  TensorView decoded;              // same shape, F32, F16 or BF16
  const float* hessian = nullptr;  // [cols, cols], undamped
  double* error = nullptr;         // out, [rows]
  double* signal = nullptr;        // out, [rows]; may be null
  ContentId hessian_id = 0;
};

class GptqOps {
 public:
  virtual ~GptqOps() = default;
  virtual absl::Status Factor(const GptqFactorArgs& args, Stream& s) = 0;
  virtual absl::Status Solve(const GptqSolveArgs& args, Stream& s) = 0;
  virtual absl::Status Refine(const GptqRefineArgs& args, Stream& s) = 0;
  virtual absl::Status Decode(const GptqDecodeArgs& args, Stream& s) = 0;
  virtual absl::Status OutputError(const GptqErrorArgs& args, Stream& s) = 0;
};

}  // namespace qs

#endif  // QS_KERNELS_GPTQ_OPS_H_

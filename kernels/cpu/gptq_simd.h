// SIMD entry points of the GPTQ family; plain functions, the instruction set is
// chosen inside. Used by gptq_*_cpu.cc only.
//
// Rows are solved kRowGroup at a time, side by side in vectors: a matrix of
// theirs is [columns][kRowGroup]. A matrix that they are multiplied with is cut
// into panels of kPanel columns, each [rows][kPanel], one after the other. A
// row's results do not depend on its place among the rows.
#ifndef QS_KERNELS_CPU_GPTQ_SIMD_H_
#define QS_KERNELS_CPU_GPTQ_SIMD_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/tensor_view.h"
#include "kernels/gptq_ops.h"

namespace qs::gptq {

constexpr int64_t kRowGroup = 32;
constexpr int64_t kPanel = 8;
// Rows of a panel that are multiplied at a time: with as many rows of the other
// matrix they stay in a core's first cache.
constexpr int64_t kDepth = 128;

// Rows [first, first + rows) of a view as F32: out[position_of[c]][row -
// first]; `position_of` null: c. Up to kRowGroup rows; missing ones become 0.
void LoadRowGroup(const TensorView& view, int64_t first, int64_t rows,
                  const int32_t* position_of, float* out);

// The first NaN or Inf of the elements [begin, end), or -1.
int64_t FindNonFinite(const TensorView& view, int64_t begin, int64_t end);

// Rows [row, row + rows), columns [col, col + cols) of m [.., stride] into
// CeilDiv(cols, kPanel) panels, the last filled up with zeros.
void PackPanels(const float* m, int64_t stride, int64_t row, int64_t rows,
                int64_t col, int64_t cols, float* panels);

// p[c][r] += sum over k < depth of d[k][r] * m[k][c], in order of k, for
// `num_panels` panels of m that are `panel_rows` rows each. `next`: the d of
// the next call, fetched meanwhile; null: unknown.
void AddProduct(const float* d, const float* panels, int64_t panel_rows,
                int64_t depth, int64_t num_panels, float* p,
                const float* next = nullptr);

// Positions [begin, end) of kRowGroup rows.
struct BlockArgs {
  int64_t begin = 0;
  int64_t end = 0;
  const float* panels = nullptr;  // R[begin.., begin..]
  int64_t panel_rows = 0;
  const float* diagonal = nullptr;     // [cols]: R[p,p]
  const int32_t* column_at = nullptr;  // [cols]
  const int32_t* group_at = nullptr;   // [cols]
  const float* scales = nullptr;       // [groups][kRowGroup]
  const float* zero_points = nullptr;  // the same
  float max_code = 15;
  DType decoded_dtype = DType::kF32;
  // [cols][kRowGroup], by position: weights, and what they became less than
  // they were for the positions before.
  float* wd = nullptr;
  // [end - begin, up to a whole panel][kRowGroup]: sum of d R over the
  // positions before `begin`; scratch afterwards.
  float* p = nullptr;
  uint8_t* codes = nullptr;  // [cols][kRowGroup], by stored column
  double* loss = nullptr;    // [kRowGroup], added to
};
void SolveBlock(const BlockArgs& args);

// x with x R = p, R upper in panels: p becomes -x. `count` columns.
void SolveUpper(const float* panels, int64_t panel_rows, const float* diagonal,
                int64_t count, float* p);

// sums[r] += factor * (sum over c < cols of d[c][r] * p[c][r]).
void AddDots(const float* d, const float* p, int64_t cols, double factor,
             double* sums);

// One row in coordinate descent. Arrays of columns are padded to a multiple of
// 16 with zeros.
struct SweepArgs {
  int64_t cols = 0;
  const float* hessian = nullptr;     // [cols, cols], undamped
  float damping = 0;                  // added to its diagonal
  const float* diagonal = nullptr;    // [cols], damped
  const float* reciprocal = nullptr;  // [cols], 1 / diagonal
  DType decoded_dtype = DType::kF32;
  const float* scales = nullptr;  // [cols], the group's
  const float* low = nullptr;     // [cols], least code - zero point
  const float* high = nullptr;    // [cols]
  float* steps = nullptr;         // [cols], code - zero point; in, out
  float* gradient = nullptr;      // [cols], (q - w) H_damped; in, out
};
// Columns [begin, end) in order; begin in multiples of 16. How many changed.
int64_t SweepRow(const SweepArgs& args, int64_t begin, int64_t end);

// A new scale for the columns [begin, end), which are a group: their steps
// stay. False, and nothing changes, unless it lowers the error.
bool MoveScale(const SweepArgs& args, int64_t begin, int64_t end, float scale,
               float* scratch);

// The least-squares change of the scale of the columns [begin, end).
float ScaleChange(const SweepArgs& args, int64_t begin, int64_t end);

// out[c] = steps[c] * scales[c], rounded; whole vectors of 16.
void DecodeSteps(const float* steps, const float* scales, int64_t count,
                 DType dtype, float* out);

// out[c] += factor * in[c].
void AddScaled(float factor, const float* in, int64_t count, float* out);

// out[c] += factor * matrix[c][0] of a matrix [count][kRowGroup].
void AddColumn(const float* matrix, int64_t count, float factor, float* out);

// The grid of `count` weights of one row.
struct GroupGrid {
  float scale = 1;
  float zero_point = 0;
};
GroupGrid FindGrid(const GptqGrid& grid, GptqRange range, double norm,
                   const float* weights, const float* curvature, int64_t count);

}  // namespace qs::gptq

#endif  // QS_KERNELS_CPU_GPTQ_SIMD_H_

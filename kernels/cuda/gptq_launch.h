// Launchers of the GPTQ family's kernels (gptq_*.cu) and the layouts that they
// share. Contract: cuda_ops.h. Used by gptq_*_cuda.cc only.
#ifndef QS_KERNELS_CUDA_GPTQ_LAUNCH_H_
#define QS_KERNELS_CUDA_GPTQ_LAUNCH_H_

#include <cstdint>

#include "kernels/base/checked_math.h"
#include "kernels/base/tensor_view.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/tiles.h"
#include "kernels/gptq_ops.h"
#include "kernels/gptq_tables.h"

namespace qs::cuda {

// Factor (gptq_factor.cu, gptq_factor_block.cu) -------------------------------

// Columns of a panel: its triangle is in the shared memory of one block of
// threads, its rows in registers.
constexpr int kFactorPanel = 64;

// The first flat index that is NaN or Inf, the first diagonal one that is
// negative (-1: none), and the diagonal by position.
struct HessianScanArgs {
  const float* hessian = nullptr;  // [size, size]
  const int32_t* order = nullptr;  // null: the identity
  int64_t size = 0;
  int64_t* first_bad = nullptr;  // out, [2]
  float* diagonal = nullptr;     // out, [size]
};
int LaunchHessianScan(const HessianScanArgs& args, cudaStream_t stream);

// A matrix being factored: P H P^T in and above the diagonal, row-major; what is
// below is of no use.
template <class T>
struct FactorMatrix {
  T* a = nullptr;
  int64_t size = 0;
};

template <class T>
struct FactorFillArgs {
  FactorMatrix<T> matrix;
  const float* hessian = nullptr;
  const int32_t* order = nullptr;
  const double* diagonal = nullptr;  // [size], damped
};
// What a panel does about a pivot that is lost in rounding.
struct PivotRule {
  double least = 0;      // of the diagonal element
  double mean = 0;       // of the diagonal
  bool replace = false;  // or fail
};
template <class T>
struct FactorPanelArgs {
  using Element = T;
  FactorMatrix<T> matrix;
  int64_t begin = 0;
  int64_t end = 0;                   // of the panel
  const double* diagonal = nullptr;  // [size], damped
  PivotRule rule;
  int32_t* state = nullptr;  // in, out, [2]: failed, pivots replaced
};
// The diagonal block [begin, end) mirrored at its other diagonal, in place: by
// columns, its lower triangle is what a library factors, and the other way
// round.
template <class T>
struct FactorMirrorArgs {
  using Element = T;
  FactorMatrix<T> matrix;
  int64_t begin = 0;
  int64_t end = 0;
};
// What a library made of the panel, mirrored back, under the panel's rule
// (which cannot be `replace`).
template <class T>
struct FactorRootsArgs {
  FactorPanelArgs<T> panel;
  const int32_t* info = nullptr;  // the library's; not 0: it failed
};
// Rounded to F32 with zeros below the diagonal. `matrix.a` may be `factor`.
template <class T>
struct FactorStoreArgs {
  FactorMatrix<T> matrix;
  float* factor = nullptr;
};

int LaunchFactorFill(const FactorFillArgs<float>& args, cudaStream_t stream);
int LaunchFactorFill(const FactorFillArgs<double>& args, cudaStream_t stream);
// The triangle of the panel, then the rows above it.
int LaunchFactorPanel(const FactorPanelArgs<float>& args, cudaStream_t stream);
int LaunchFactorPanel(const FactorPanelArgs<double>& args, cudaStream_t stream);
int LaunchFactorMirror(const FactorMirrorArgs<float>& args,
                       cudaStream_t stream);
int LaunchFactorMirror(const FactorMirrorArgs<double>& args,
                       cudaStream_t stream);
int LaunchFactorRoots(const FactorRootsArgs<float>& args, cudaStream_t stream);
int LaunchFactorRoots(const FactorRootsArgs<double>& args, cudaStream_t stream);
int LaunchFactorStore(const FactorStoreArgs<float>& args, cudaStream_t stream);
int LaunchFactorStore(const FactorStoreArgs<double>& args, cudaStream_t stream);
// A factor that is this diagonal, [size].
int LaunchFactorDiagonal(const float* diagonal, int64_t size, float* factor,
                         cudaStream_t stream);

// Solve (gptq_solve.cu, gptq_range.cu) ----------------------------------------

// Rows are solved in tiles of this many, the last filled up with zeros: matrix
// products then always have the same shape, so that no row's bytes depend on
// how many others there are. The emulation has several tiles.
constexpr int64_t kSolveTile = kTiles.solve_rows;

// A matrix of rows that are solved, [tiles][columns][kSolveTile]: neighbouring
// threads have neighbouring rows.
struct RowTiles {
  int64_t rows = 0;
  int64_t cols = 0;

  int64_t tiles() const { return CeilDiv(rows, kSolveTile); }
  int64_t padded_rows() const { return tiles() * kSolveTile; }
  int64_t elements() const { return padded_rows() * cols; }
};

// What all kernels of a call read, by position but for `curvature`.
struct SolvePlan {
  int32_t* column_at = nullptr;  // [cols]
  int32_t* position_of = nullptr;
  int32_t* group_at = nullptr;
  float* curvature = nullptr;  // R[p,p]^2 by column
};
struct SolvePlanArgs {
  SolvePlan plan;  // out
  int64_t cols = 0;
  int64_t group_size = 0;
  bool static_groups = true;
  const float* factor = nullptr;
  const int32_t* order = nullptr;
  const int32_t* group_index = nullptr;
};
int LaunchSolvePlan(const SolvePlanArgs& args, cudaStream_t stream);

// Weights to positions, sums of losses to zero; the first that is not finite.
struct SolveLoadArgs {
  TensorView weight;
  const int32_t* position_of = nullptr;
  const uint8_t* zeroed = nullptr;
  float* wd = nullptr;                  // out, RowTiles
  float* sum = nullptr;                 // out, RowTiles of zeros
  int64_t* first_non_finite = nullptr;  // out
};
int LaunchSolveLoad(const SolveLoadArgs& args, cudaStream_t stream);

// Grids as the loop reads them: [tiles][groups][kSolveTile].
struct SolveGrids {
  float* scales = nullptr;
  float* zero_points = nullptr;
};
struct SolveRangeArgs {
  TensorView weight;
  GptqGrid grid;
  GptqRange range = GptqRange::kMinMax;
  float norm = 0;
  int64_t groups = 0;
  SolveGrids grids;                // out
  void* scales = nullptr;          // out, [rows, groups]; kGiven: in
  uint8_t* zero_points = nullptr;  // likewise; null when symmetric
  // Static: of the weights as stored.
  const uint8_t* zeroed = nullptr;   // counts as zero; null: none
  const float* curvature = nullptr;  // [cols]
  // Dynamic: of the runs at positions first_run, + group_size, ... below
  // `end`, from wd - x.
  const float* wd = nullptr;          // RowTiles
  const float* x = nullptr;           // RowTiles of the window; null: zeros
  int64_t window_begin = 0;           // its first position
  int64_t window = 0;                 // its positions
  const int32_t* group_at = nullptr;  // [cols]
  int64_t first_run = 0;
  int64_t end = 0;
};
int LaunchStaticRanges(const SolveRangeArgs& args, cudaStream_t stream);
int LaunchDynamicRanges(const SolveRangeArgs& args, cudaStream_t stream);
int LaunchGivenRanges(const SolveRangeArgs& args, cudaStream_t stream);

// Positions [begin, end), at most gptq::kBlock, of all rows.
struct SolveBlockArgs {
  RowTiles shape;
  int64_t begin = 0;
  int64_t end = 0;
  const float* factor = nullptr;  // null: the identity
  const int32_t* group_at = nullptr;
  int64_t groups = 0;
  SolveGrids grids;
  float max_code = 0;
  DType decoded_dtype = DType::kF32;
  float* wd = nullptr;         // in: weights, out: what they lost
  const float* sum = nullptr;  // of d R over the positions before `begin`
  uint8_t* codes = nullptr;    // out, RowTiles by position
  double* row_loss = nullptr;  // in, out, [rows]; may be null
};
int LaunchSolveBlock(const SolveBlockArgs& args, cudaStream_t stream);

// x with -x R = sum for positions [begin, end) of a window, in place.
struct SolveUpperArgs {
  RowTiles shape;            // of the window
  int64_t window_begin = 0;  // in R
  int64_t begin = 0;         // in the window
  int64_t end = 0;
  const float* factor = nullptr;
  int64_t cols = 0;  // of the factor
  float* x = nullptr;
};
int LaunchSolveUpper(const SolveUpperArgs& args, cudaStream_t stream);

// Positions [begin, begin + window.cols) of `from`.
struct WindowCopyArgs {
  RowTiles shape;
  const float* from = nullptr;
  int64_t begin = 0;
  RowTiles window;
  float* to = nullptr;
};
int LaunchWindowCopy(const WindowCopyArgs& args, cudaStream_t stream);

struct SolveStoreArgs {
  RowTiles shape;
  const int32_t* position_of = nullptr;
  const uint8_t* by_position = nullptr;  // RowTiles
  uint8_t* codes = nullptr;              // out, [rows, cols]
};
int LaunchSolveStore(const SolveStoreArgs& args, cudaStream_t stream);

// Errors and decoding (gptq_error.cu) -----------------------------------------

// weight - decoded (null: the weight itself) of rows [first, first + count), up
// to kSolveTile rows with zeros, row-major.
struct DifferenceArgs {
  TensorView weight;
  TensorView decoded;
  int64_t first = 0;
  int64_t count = 0;
  float* d = nullptr;  // out, [kSolveTile, cols]
};
int LaunchDifference(const DifferenceArgs& args, cudaStream_t stream);

// out[row] = sum of d p over a row, `rows` of them, in F64.
struct RowDotArgs {
  const float* d = nullptr;  // [rows, cols]
  const float* p = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  double* out = nullptr;
};
int LaunchRowDot(const RowDotArgs& args, cudaStream_t stream);

int LaunchGptqDecode(const GptqDecodeArgs& args, cudaStream_t stream);

// Refine (gptq_refine.cu, gptq_refine_scales.cu) ------------------------------

// What all its kernels read and change. Matrices are row-major, their rows
// filled up with zeros to whole tiles of kSolveTile.
struct RefineState {
  TensorView weight;
  GptqGrid grid;
  int64_t groups = 0;
  const float* hessian = nullptr;        // [cols, cols], undamped
  float damping = 0;                     // added to its diagonal
  uint8_t* codes = nullptr;              // in, out, [rows, cols]
  void* scales = nullptr;                // in, out, [rows, groups]
  const uint8_t* zero_points = nullptr;  // null when symmetric
  float* gradient = nullptr;  // [padded rows, cols]: (q - w) H_damped
  // [rows]: whether a row changed in the sweep before and in this one.
  const int32_t* changed_before = nullptr;  // null: yes
  int32_t* changed = nullptr;
  int32_t* any_changed = nullptr;  // [1]
};

// d = q - w of rows [first, first + kSolveTile), and gradient = damping d.
struct RefineStartArgs {
  RefineState state;
  int64_t first = 0;
  float* d = nullptr;  // out, [kSolveTile, cols]
};
int LaunchRefineStart(const RefineStartArgs& args, cudaStream_t stream);

// Columns [begin, end), at most gptq::kBlock, of all rows; with whole groups
// their scales, too.
struct RefineBlockArgs {
  RefineState state;
  int64_t begin = 0;
  int64_t end = 0;
  bool refits = false;
  float* d = nullptr;  // out, [padded rows, kBlock]: what q grew by
};
int LaunchRefineBlock(const RefineBlockArgs& args, cudaStream_t stream);

// gradient += damping d for columns [begin, begin + width) of d [padded rows,
// stride].
struct RefineDampArgs {
  RefineState state;
  const float* d = nullptr;
  int64_t stride = 0;
  int64_t begin = 0;
  int64_t width = 0;
};
int LaunchRefineDamp(const RefineDampArgs& args, cudaStream_t stream);

// Scales of groups wider than a block, rows [first, first + kSolveTile).
struct RefineScaleArgs {
  RefineState state;
  int64_t first = 0;
  float* steps = nullptr;    // [kSolveTile, cols]: code - zero point
  float* product = nullptr;  // [kSolveTile, cols]: times the group's H
  float* wanted = nullptr;   // [kSolveTile, groups]: 0: stays
  float* d = nullptr;        // [kSolveTile, cols]: what q grows by
};
int LaunchRefineSteps(const RefineScaleArgs& args, cudaStream_t stream);
// From steps and their products: `wanted` and `d`.
int LaunchRefinePropose(const RefineScaleArgs& args, cudaStream_t stream);
// From d and its products: scales, and zeros in `d` where they stay.
int LaunchRefineAccept(const RefineScaleArgs& args, cudaStream_t stream);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_GPTQ_LAUNCH_H_

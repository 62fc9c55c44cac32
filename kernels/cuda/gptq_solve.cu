// The GPTQ loop beside the library's products: weights to positions, the
// columns of a block one after the other, codes back to columns. Equations:
// kernels/gptq_ops.h; layouts: gptq_launch.h.
//
// In a block a thread has a row. R's triangle is in shared memory, cut into
// panels of 16 columns; sixteen sums are in registers, and what the columns
// before a panel lost comes back from the cache. Rows never wait for each
// other.
// Tested by tests/kernels/gptq_cuda_test.cc.
#include <cmath>

#include "kernels/affine_math.h"
#include "kernels/cuda/gptq_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {
namespace {

using Counter = unsigned long long;  // what atomicMin takes

constexpr int kBlock = static_cast<int>(gptq::kBlock);
constexpr int kPanel = 16;
constexpr int kPanels = kBlock / kPanel;
constexpr int kTile = 32;  // of a transposition
// Rows of one block of threads: few, so that all multiprocessors take part.
constexpr int kRows = 64;
static_assert(kSolveTile % kRows == 0);

template <class T>
struct LoadParams {
  using Element = T;
  SolveLoadArgs args;
  Counter* first_non_finite;
};
struct ResetParams {
  Counter* first_non_finite;
};

struct TransposeShared {
  float tile[kTile][kTile + 1];
};
struct BytesShared {
  uint8_t tile[kTile][kTile + 4];
};

// Panel s holds rows [0, 16 (s + 1)) of columns [16 s, 16 (s + 1)).
struct PanelShared {
  alignas(16) float values[kPanel * kPanel * kPanels * (kPanels + 1) / 2];

  static QS_KERNEL int PanelAt(int s) {
    return kPanel * kPanel * (s * (s + 1) / 2);
  }
  QS_KERNEL const float* Row(int s, int k) const {
    return values + PanelAt(s) + kPanel * k;
  }
};

template <class Thread>
QS_KERNEL void ResetKernel(Thread& t, NoShared&, const ResetParams& a) {
  if (t.ThreadIndex() == 0) {
    t.Global(a.first_non_finite, 1).Set(0, ~Counter{0});
  }
}

template <class Thread>
QS_KERNEL void PlanKernel(Thread& t, NoShared&, const SolvePlanArgs& a) {
  const int64_t n = a.cols;
  const auto column_at = t.Global(a.plan.column_at, n);
  const auto position_of = t.Global(a.plan.position_of, n);
  const auto group_at = t.Global(a.plan.group_at, n);
  const auto curvature = t.Global(a.plan.curvature, n);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t p = t.BlockIndex() * t.BlockSize() + t.ThreadIndex(); p < n;
       p += stride) {
    const int64_t column =
        a.order == nullptr ? p : t.Global(a.order, n).Get(p);
    column_at.Set(p, column);
    position_of.Set(column, p);
    int64_t group = (a.static_groups ? column : p) / a.group_size;
    if (!a.static_groups && a.group_index != nullptr) {
      group = t.Global(a.group_index, n).Get(column);
    }
    group_at.Set(p, group);
    const float r = a.factor == nullptr
                        ? 1.0f
                        : t.Global(a.factor, n * n).Get(p * (n + 1));
    curvature.Set(column, r * r);
  }
}

QS_KERNEL int64_t TileAt(int64_t cols, int64_t row, int64_t position) {
  return (row / kSolveTile * cols + position) * kSolveTile + row % kSolveTile;
}

// A tile of 32 rows and columns a block of threads: read along rows, written
// along columns.
template <class Thread, class Params>
QS_KERNEL void LoadKernel(Thread& t, TransposeShared& shared,
                          const Params& params) {
  using T = typename Params::Element;
  const SolveLoadArgs& a = params.args;
  const int64_t rows = a.weight.rows, cols = a.weight.cols;
  const int64_t padded = (rows + kSolveTile - 1) / kSolveTile * kSolveTile;
  const int64_t across = (cols + kTile - 1) / kTile;
  const auto weight =
      t.Global(static_cast<const T*>(a.weight.data), rows * cols);
  const auto wd = t.Global(a.wd, padded * cols);
  const auto sum = t.Global(a.sum, padded * cols);
  const auto position_of = t.Global(a.position_of, cols);
  const int x = t.ThreadIndex() % kTile;
  const int step = t.BlockSize() / kTile;
  for (int64_t index = t.BlockIndex(); index < padded / kTile * across;
       index += t.GridSize()) {
    const int64_t top = index / across * kTile;
    const int64_t left = index % across * kTile;
    for (int y = t.ThreadIndex() / kTile; y < kTile; y += step) {
      const int64_t row = top + y, col = left + x;
      const bool there = row < rows && col < cols;
      const float w = there ? Widen(weight.Get(row * cols + col)) : 0.0f;
      if (IsNonFinite(FloatBits(w) & 0x7fffffffu)) {
        t.Global(params.first_non_finite, 1)
            .AtomicMin(0, static_cast<Counter>(row * cols + col));
      }
      const bool zero = there && a.zeroed != nullptr &&
                        t.Global(a.zeroed, cols).Get(col) != 0;
      shared.tile[y][x] = zero ? 0.0f : w;
    }
    t.Barrier();
    for (int y = t.ThreadIndex() / kTile; y < kTile; y += step) {
      if (left + y >= cols) continue;
      const int64_t at = TileAt(cols, top + x, position_of.Get(left + y));
      wd.Set(at, shared.tile[x][y]);
      sum.Set(at, 0.0f);
    }
    t.Barrier();
  }
}

// R of positions [begin, begin + size), the identity where there is none.
template <class Thread>
QS_KERNEL void FillPanels(Thread& t, PanelShared& shared, const float* factor,
                          int64_t cols, int64_t begin, int size) {
  for (int s = 0; s < kPanels; ++s) {
    for (int i = t.ThreadIndex(); i < kPanel * kPanel * (s + 1);
         i += t.BlockSize()) {
      const int k = i / kPanel, c = s * kPanel + i % kPanel;
      const bool stored = factor != nullptr && k <= c && c < size;
      shared.values[PanelShared::PanelAt(s) + i] =
          stored ? t.Global(factor, cols * cols)
                       .Get((begin + k) * cols + begin + c)
                 : (k == c ? 1.0f : 0.0f);
    }
  }
  t.Barrier();
}

// The panels of one row, one after the other. `get` and `sum_at` give what a
// column before lost and the sum that a column starts from; `visit(c, sum,
// diagonal)` returns what column c lost.
template <class Get, class SumAt, class Visit>
QS_KERNEL void ForColumns(const PanelShared& shared, int size, const Get& get,
                          const SumAt& sum_at, const Visit& visit) {
  for (int s = 0; s * kPanel < size; ++s) {
    float sums[kPanel];
    QS_UNROLL
    for (int j = 0; j < kPanel; ++j) {
      const int c = s * kPanel + j;
      sums[j] = c < size ? sum_at(c) : 0.0f;
    }
    for (int k = 0; k < s * kPanel; ++k) {
      const float lost = get(k);
      const float* const r = shared.Row(s, k);
      QS_UNROLL
      for (int j = 0; j < kPanel; ++j) sums[j] = fmaf(lost, r[j], sums[j]);
    }
    QS_UNROLL
    for (int j = 0; j < kPanel; ++j) {
      const int c = s * kPanel + j;
      if (c >= size) continue;
      const float* const r = shared.Row(s, c);
      const float lost = visit(c, sums[j], r[j]);
      QS_UNROLL
      for (int i = j + 1; i < kPanel; ++i) sums[i] = fmaf(lost, r[i], sums[i]);
    }
  }
}

template <class Thread>
QS_KERNEL void BlockKernel(Thread& t, PanelShared& shared,
                           const SolveBlockArgs& a) {
  const int64_t cols = a.shape.cols;
  const int size = static_cast<int>(a.end - a.begin);
  const int64_t padded =
      (a.shape.rows + kSolveTile - 1) / kSolveTile * kSolveTile;
  FillPanels(t, shared, a.factor, cols, a.begin, size);
  const auto wd = t.Global(a.wd, padded * cols);
  const auto sum = t.Global(a.sum, padded * cols);
  const auto codes = t.Global(a.codes, padded * cols);
  const auto group_at = t.Global(a.group_at, cols);
  const auto scales = t.Global(a.grids.scales, padded * a.groups);
  const auto zero_points = t.Global(a.grids.zero_points, padded * a.groups);
  for (int64_t row = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       row < a.shape.rows; row += t.GridSize() * t.BlockSize()) {
    double loss = 0;
    const int64_t at = TileAt(cols, row, a.begin);
    ForColumns(
        shared, size,
        [&](int k) { return wd.Get(at + k * kSolveTile); },
        [&](int c) { return sum.Get(at + c * kSolveTile); },
        [&](int c, float lost_before, float diagonal) {
          const int64_t grid =
              TileAt(a.groups, row, group_at.Get(a.begin + c));
          const float scale = scales.Get(grid);
          const float zero = zero_points.Get(grid);
          const float weight = wd.Get(at + c * kSolveTile);
          const float w = weight + lost_before / diagonal;
          const float code =
              affine::Clamp(rintf(w / scale) + zero, 0.0f, a.max_code);
          const float q = affine::RoundTo(a.decoded_dtype,
                                          (code - zero) * scale);
          const float e = (w - q) * diagonal;
          loss += static_cast<double>(e) * static_cast<double>(e);
          codes.Set(at + c * kSolveTile,
                    static_cast<uint8_t>(static_cast<int>(code)));
          wd.Set(at + c * kSolveTile, weight - q);
          return weight - q;
        });
    if (a.row_loss == nullptr) continue;
    const auto row_loss = t.Global(a.row_loss, a.shape.rows);
    row_loss.Set(row, a.begin == 0 ? loss : row_loss.Get(row) + loss);
  }
}

template <class Thread>
QS_KERNEL void UpperKernel(Thread& t, PanelShared& shared,
                           const SolveUpperArgs& a) {
  const int64_t cols = a.shape.cols;
  const int size = static_cast<int>(a.end - a.begin);
  const int64_t padded =
      (a.shape.rows + kSolveTile - 1) / kSolveTile * kSolveTile;
  FillPanels(t, shared, a.factor, a.cols, a.window_begin + a.begin, size);
  const auto x = t.Global(a.x, padded * cols);
  for (int64_t row = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       row < a.shape.rows; row += t.GridSize() * t.BlockSize()) {
    const int64_t at = TileAt(cols, row, a.begin);
    const auto value = [&](int c) { return x.Get(at + c * kSolveTile); };
    ForColumns(shared, size, value, value,
               [&](int c, float sum, float diagonal) {
                 const float lost = sum / -diagonal;
                 x.Set(at + c * kSolveTile, lost);
                 return lost;
               });
  }
}

template <class Thread>
QS_KERNEL void WindowKernel(Thread& t, NoShared&, const WindowCopyArgs& a) {
  const int64_t padded =
      (a.shape.rows + kSolveTile - 1) / kSolveTile * kSolveTile;
  const auto from = t.Global(a.from, padded * a.shape.cols);
  const auto to = t.Global(a.to, padded * a.window.cols);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < padded * a.window.cols; i += stride) {
    const int64_t tile = i / (a.window.cols * kSolveTile);
    const int64_t in_tile = i % (a.window.cols * kSolveTile);
    to.Set(i, from.Get((tile * a.shape.cols + a.begin) * kSolveTile + in_tile));
  }
}

template <class Thread>
QS_KERNEL void StoreKernel(Thread& t, BytesShared& shared,
                           const SolveStoreArgs& a) {
  const int64_t rows = a.shape.rows, cols = a.shape.cols;
  const int64_t padded = (rows + kSolveTile - 1) / kSolveTile * kSolveTile;
  const int64_t across = (cols + kTile - 1) / kTile;
  const auto from = t.Global(a.by_position, padded * cols);
  const auto to = t.Global(a.codes, rows * cols);
  const auto position_of = t.Global(a.position_of, cols);
  const int x = t.ThreadIndex() % kTile;
  const int step = t.BlockSize() / kTile;
  for (int64_t index = t.BlockIndex();
       index < (rows + kTile - 1) / kTile * across; index += t.GridSize()) {
    const int64_t top = index / across * kTile;
    const int64_t left = index % across * kTile;
    for (int y = t.ThreadIndex() / kTile; y < kTile; y += step) {
      if (left + y >= cols || top + x >= rows) continue;
      shared.tile[y][x] =
          from.Get(TileAt(cols, top + x, position_of.Get(left + y)));
    }
    t.Barrier();
    for (int y = t.ThreadIndex() / kTile; y < kTile; y += step) {
      if (top + y >= rows || left + x >= cols) continue;
      to.Set((top + y) * cols + left + x, shared.tile[x][y]);
    }
    t.Barrier();
  }
}

QS_DEFINE_ENTRY(ResetKernel, NoShared)
QS_DEFINE_ENTRY(PlanKernel, NoShared)
QS_DEFINE_ENTRY(LoadKernel, TransposeShared)
QS_DEFINE_ENTRY(BlockKernel, PanelShared)
QS_DEFINE_ENTRY(UpperKernel, PanelShared)
QS_DEFINE_ENTRY(WindowKernel, NoShared)
QS_DEFINE_ENTRY(StoreKernel, BytesShared)

bool IsServableShape(const RowTiles& shape) {
  return shape.rows >= 1 && shape.cols >= 1;
}

bool IsServableBlock(int64_t begin, int64_t end, int64_t cols) {
  return begin >= 0 && begin < end && end <= cols && end - begin <= kBlock;
}

int64_t RowGrid(const RowTiles& shape) {
  return std::min(CeilDiv(shape.rows, kRows), kMaxGrid);
}

}  // namespace

int LaunchSolvePlan(const SolvePlanArgs& args, cudaStream_t stream) {
  if (args.cols < 1 || args.group_size < 1 ||
      !IsPointer(args.plan.column_at) || !IsPointer(args.plan.position_of) ||
      !IsPointer(args.plan.group_at) || !IsPointer(args.plan.curvature)) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape = ShapeFor(args.cols);
  return QS_LAUNCH(PlanKernel, NoShared, args, shape.grid, shape.block, stream);
}

int LaunchSolveLoad(const SolveLoadArgs& args, cudaStream_t stream) {
  if (args.weight.rows < 0 || args.weight.cols < 1 ||
      !IsPointer(args.first_non_finite)) {
    return kCudaInvalidValue;
  }
  auto* const bad = reinterpret_cast<Counter*>(args.first_non_finite);
  const int code =
      QS_LAUNCH(ResetKernel, NoShared, ResetParams{bad}, 1, kWarpSize, stream);
  if (code != 0 || args.weight.rows == 0) return code;
  if (args.weight.data == nullptr || !IsPointer(args.wd) ||
      !IsPointer(args.sum) || !IsPointer(args.position_of)) {
    return kCudaInvalidValue;
  }
  const RowTiles shape = {args.weight.rows, args.weight.cols};
  const int64_t blocks =
      shape.padded_rows() / kTile * CeilDiv(shape.cols, kTile);
  return WithType(args.weight.dtype, [&](auto type) {
    const LoadParams<decltype(type)> params = {args, bad};
    return QS_LAUNCH(LoadKernel, TransposeShared, params,
                     std::min(blocks, kMaxGrid), kMaxBlockThreads, stream);
  });
}

int LaunchSolveBlock(const SolveBlockArgs& args, cudaStream_t stream) {
  if (!IsServableShape(args.shape) ||
      !IsServableBlock(args.begin, args.end, args.shape.cols) ||
      !IsPointer(args.wd) || !IsPointer(args.sum) || args.codes == nullptr ||
      !IsPointer(args.group_at) || !IsPointer(args.grids.scales) ||
      !IsPointer(args.grids.zero_points)) {
    return kCudaInvalidValue;
  }
  return QS_LAUNCH(BlockKernel, PanelShared, args, RowGrid(args.shape), kRows,
                   stream);
}

int LaunchSolveUpper(const SolveUpperArgs& args, cudaStream_t stream) {
  if (!IsServableShape(args.shape) ||
      !IsServableBlock(args.begin, args.end, args.shape.cols) ||
      args.window_begin < 0 ||
      args.window_begin + args.shape.cols > args.cols || !IsPointer(args.x) ||
      !IsPointer(args.factor)) {
    return kCudaInvalidValue;
  }
  return QS_LAUNCH(UpperKernel, PanelShared, args, RowGrid(args.shape), kRows,
                   stream);
}

int LaunchWindowCopy(const WindowCopyArgs& args, cudaStream_t stream) {
  if (!IsServableShape(args.shape) || !IsServableShape(args.window) ||
      args.window.rows != args.shape.rows || args.begin < 0 ||
      args.begin + args.window.cols > args.shape.cols ||
      !IsPointer(args.from) || !IsPointer(args.to)) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape = ShapeFor(args.window.elements());
  return QS_LAUNCH(WindowKernel, NoShared, args, shape.grid, shape.block,
                   stream);
}

int LaunchSolveStore(const SolveStoreArgs& args, cudaStream_t stream) {
  if (!IsServableShape(args.shape) || args.by_position == nullptr ||
      args.codes == nullptr || !IsPointer(args.position_of)) {
    return kCudaInvalidValue;
  }
  const int64_t blocks =
      CeilDiv(args.shape.rows, kTile) * CeilDiv(args.shape.cols, kTile);
  return QS_LAUNCH(StoreKernel, BytesShared, args, std::min(blocks, kMaxGrid),
                   kMaxBlockThreads, stream);
}

}  // namespace qs::cuda

// The reversed Cholesky factorisation beside the library's products: filling,
// the panels' triangles and the rows above them, and the end. Equations:
// kernels/gptq_ops.h; layouts: gptq_launch.h.
//
// A panel's triangle is factored in shared memory, one thread a row, column by
// column from the last; then every thread solves one row above it in registers.
// Tested by tests/kernels/gptq_factor_cuda_test.cc.
#include <cmath>

#include "kernels/cuda/gptq_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {
namespace {

using Counter = unsigned long long;  // what atomicMin takes

constexpr int kPanel = kFactorPanel;
constexpr int kStep = 16;  // columns in registers

struct ScanParams {
  HessianScanArgs args;
  Counter* first_bad;
};

struct DiagonalParams {
  const float* diagonal;
  int64_t size;
  float* factor;
};

template <class T>
struct TriangleShared {
  // One more, so that a column is in as many banks as rows.
  T tile[kPanel][kPanel + 1];
  T roots[kPanel];
};

// Row c holds column c of the panel's triangle.
template <class T>
struct RowsShared {
  alignas(16) T columns[kPanel][kPanel];
};

QS_KERNEL float Root(float x) { return sqrtf(x); }
QS_KERNEL double Root(double x) { return sqrt(x); }
QS_KERNEL float MulAdd(float a, float b, float c) { return fmaf(a, b, c); }
QS_KERNEL double MulAdd(double a, double b, double c) { return fma(a, b, c); }

template <class Thread>
QS_KERNEL int64_t ColumnAt(const Thread& t, const int32_t* order, int64_t size,
                           int64_t position) {
  return order == nullptr ? position : t.Global(order, size).Get(position);
}

template <class Thread>
QS_KERNEL void ScanResetKernel(Thread& t, NoShared&, const ScanParams& a) {
  if (t.ThreadIndex() < 2) {
    t.Global(a.first_bad, 2).Set(t.ThreadIndex(), ~Counter{0});
  }
}

template <class Thread>
QS_KERNEL void ScanKernel(Thread& t, NoShared&, const ScanParams& p) {
  const HessianScanArgs& a = p.args;
  const int64_t n = a.size;
  const auto h = t.Global(a.hessian, n * n);
  const auto bad = t.Global(p.first_bad, 2);
  const auto diagonal = t.Global(a.diagonal, n);
  const int64_t first = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = first; i < n * n; i += stride) {
    if (IsNonFinite(FloatBits(h.Get(i)) & 0x7fffffffu)) {
      bad.AtomicMin(0, static_cast<Counter>(i));
    }
  }
  for (int64_t i = first; i < n; i += stride) {
    if (h.Get(i * (n + 1)) < 0) {
      bad.AtomicMin(1, static_cast<Counter>(i * (n + 1)));
    }
    diagonal.Set(i, h.Get(ColumnAt(t, a.order, n, i) * (n + 1)));
  }
}

// A row a block of threads. Below the diagonal are zeros: libraries use nothing
// of it, but may read whole tiles, and memory that nobody wrote is a finding of
// compute-sanitizer.
template <class Thread, class T>
QS_KERNEL void FillKernel(Thread& t, NoShared&, const FactorFillArgs<T>& a) {
  const int64_t n = a.matrix.size;
  const auto out = t.Global(a.matrix.a, n * n);
  const auto h = t.Global(a.hessian, n * n);
  const auto diagonal = t.Global(a.diagonal, n);
  for (int64_t i = t.BlockIndex(); i < n; i += t.GridSize()) {
    const int64_t row = ColumnAt(t, a.order, n, i) * n;
    for (int64_t j = t.ThreadIndex(); j < n; j += t.BlockSize()) {
      double value = 0;
      if (j == i) {
        value = diagonal.Get(i);
      } else if (j > i) {
        value = static_cast<double>(h.Get(row + ColumnAt(t, a.order, n, j)));
      }
      out.Set(i * n + j, static_cast<T>(value));
    }
  }
}

// The pivot that is used, and in thread 0 what is told of a lost one.
template <class Thread, class T>
QS_KERNEL T Pivot(const Thread& t, const FactorPanelArgs<T>& a, T pivot,
                  int64_t column) {
  const double diagonal =
      t.Global(a.diagonal, a.matrix.size).Get(column);
  if (static_cast<double>(pivot) > a.rule.least * diagonal) return pivot;
  const double larger = diagonal > a.rule.mean ? diagonal : a.rule.mean;
  const double replaced = a.rule.least * larger;
  const bool fails = !a.rule.replace || !(replaced > 0);
  if (t.ThreadIndex() == 0) {
    const auto state = t.Global(a.state, 2);
    if (fails) state.Set(0, 1);
    if (a.rule.replace) state.Set(1, state.Get(1) + 1);
  }
  return fails ? T{1} : static_cast<T>(replaced);  // 1: nothing overflows
}

// One block of kPanel threads; thread i has row i of the triangle.
template <class Thread, class T>
QS_KERNEL void TriangleKernel(Thread& t, TriangleShared<T>& shared,
                              const FactorPanelArgs<T>& a) {
  const int64_t n = a.matrix.size;
  const auto matrix = t.Global(a.matrix.a, n * n);
  const int size = static_cast<int>(a.end - a.begin);
  const int row = t.ThreadIndex();
  for (int i = 0; i < size; ++i) {
    if (row >= i && row < size) {
      shared.tile[i][row] = matrix.Get((a.begin + i) * n + a.begin + row);
    }
  }
  for (int c = size - 1; c >= 0; --c) {
    t.Barrier();
    const T root = Root(Pivot(t, a, shared.tile[c][c], a.begin + c));
    if (row == c) shared.roots[c] = root;
    if (row < c) shared.tile[row][c] = shared.tile[row][c] / root;
    t.Barrier();
    if (row >= c) continue;
    const T minus = -shared.tile[row][c];
    for (int j = row; j < c; ++j) {
      shared.tile[row][j] =
          MulAdd(minus, shared.tile[j][c], shared.tile[row][j]);
    }
  }
  t.Barrier();
  for (int i = 0; i < size; ++i) {
    if (row < i || row >= size) continue;
    matrix.Set((a.begin + i) * n + a.begin + row,
               row == i ? shared.roots[i] : shared.tile[i][row]);
  }
}

// x R^T = b for one row, x over b at `at`: sixteen columns at a time, whose
// sums are in registers; the others come back from the cache.
template <class T, class Matrix>
QS_KERNEL void SolveRow(const RowsShared<T>& shared, const Matrix& matrix,
                        int64_t at, int size) {
  for (int first = kPanel - kStep; first >= 0; first -= kStep) {
    T sums[kStep];
    QS_UNROLL
    for (int j = 0; j < kStep; ++j) {
      sums[j] = first + j < size ? matrix.Get(at + first + j) : T{0};
    }
    for (int c = first + kStep; c < size; ++c) {
      const T minus = -matrix.Get(at + c);
      const T* const r = &shared.columns[c][first];
      QS_UNROLL
      for (int j = 0; j < kStep; ++j) sums[j] = MulAdd(minus, r[j], sums[j]);
    }
    QS_UNROLL
    for (int j = kStep - 1; j >= 0; --j) {
      const T* const r = &shared.columns[first + j][first];
      sums[j] = sums[j] / r[j];
      QS_UNROLL
      for (int i = 0; i < j; ++i) sums[i] = MulAdd(-sums[j], r[i], sums[i]);
      if (first + j < size) matrix.Set(at + first + j, sums[j]);
    }
  }
}

// The rows above, a thread each. What is beyond a short panel is the identity.
template <class Thread, class T>
QS_KERNEL void RowsKernel(Thread& t, RowsShared<T>& shared,
                          const FactorPanelArgs<T>& a) {
  const int64_t n = a.matrix.size;
  const auto matrix = t.Global(a.matrix.a, n * n);
  const int size = static_cast<int>(a.end - a.begin);
  for (int i = t.ThreadIndex(); i < kPanel * kPanel; i += t.BlockSize()) {
    const int row = i / kPanel, c = i % kPanel;
    const bool stored = row <= c && c < size;
    shared.columns[c][row] = stored
                                 ? matrix.Get((a.begin + row) * n + a.begin + c)
                                 : T(row == c ? 1 : 0);
  }
  t.Barrier();
  for (int64_t row = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       row < a.begin; row += t.GridSize() * t.BlockSize()) {
    SolveRow(shared, matrix, row * n + a.begin, size);
  }
}

template <class Thread, class T>
QS_KERNEL void StoreKernel(Thread& t, NoShared&, const FactorStoreArgs<T>& a) {
  const int64_t n = a.matrix.size;
  const auto matrix = t.Global(a.matrix.a, n * n);
  const auto out = t.Global(a.factor, n * n);
  const bool in_place = static_cast<const void*>(a.matrix.a) == a.factor;
  for (int64_t i = t.BlockIndex(); i < n; i += t.GridSize()) {
    for (int64_t j = t.ThreadIndex(); j < n; j += t.BlockSize()) {
      if (j < i) {
        out.Set(i * n + j, 0.0f);
      } else if (!in_place) {
        out.Set(i * n + j, static_cast<float>(matrix.Get(i * n + j)));
      }
    }
  }
}

template <class Thread>
QS_KERNEL void DiagonalKernel(Thread& t, NoShared&, const DiagonalParams& a) {
  const auto diagonal = t.Global(a.diagonal, a.size);
  const auto out = t.Global(a.factor, a.size * a.size);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < a.size * a.size; i += stride) {
    const int64_t row = i / a.size;
    out.Set(i, row == i % a.size ? diagonal.Get(row) : 0.0f);
  }
}

template <class Args>
using TriangleSharedOf = TriangleShared<typename Args::Element>;
template <class Args>
using RowsSharedOf = RowsShared<typename Args::Element>;

QS_DEFINE_ENTRY(ScanResetKernel, NoShared)
QS_DEFINE_ENTRY(ScanKernel, NoShared)
QS_DEFINE_ENTRY(FillKernel, NoShared)
QS_DEFINE_ENTRY(TriangleKernel, TriangleSharedOf<Args>)
QS_DEFINE_ENTRY(RowsKernel, RowsSharedOf<Args>)
QS_DEFINE_ENTRY(StoreKernel, NoShared)
QS_DEFINE_ENTRY(DiagonalKernel, NoShared)

template <class T>
bool IsServableMatrix(const FactorMatrix<T>& matrix) {
  return matrix.size >= 1 && IsPointer(matrix.a);
}

// Threads for a loop over the elements of a row, a block of threads a row.
int RowThreads(int64_t size) { return ShapeFor(size).block; }

template <class T>
int Fill(const FactorFillArgs<T>& args, cudaStream_t stream) {
  if (!IsServableMatrix(args.matrix) || !IsPointer(args.hessian) ||
      !IsPointer(args.diagonal)) {
    return kCudaInvalidValue;
  }
  const int64_t n = args.matrix.size;
  return QS_LAUNCH(FillKernel, NoShared, args, std::min(n, kMaxGrid),
                   RowThreads(n), stream);
}

template <class T>
int Panel(const FactorPanelArgs<T>& args, cudaStream_t stream) {
  if (!IsServableMatrix(args.matrix) || args.begin < 0 ||
      args.end <= args.begin || args.end - args.begin > kPanel ||
      args.end > args.matrix.size || !IsPointer(args.diagonal) ||
      !IsPointer(args.state)) {
    return kCudaInvalidValue;
  }
  const int code = QS_LAUNCH(TriangleKernel, TriangleShared<T>, args, 1, kPanel,
                             stream);
  if (code != 0 || args.begin == 0) return code;
  // Few rows a block: all multiprocessors take part.
  return QS_LAUNCH(RowsKernel, RowsShared<T>, args,
                   std::min(CeilDiv(args.begin, kWarpSize), kMaxGrid),
                   kWarpSize, stream);
}

template <class T>
int Store(const FactorStoreArgs<T>& args, cudaStream_t stream) {
  if (!IsServableMatrix(args.matrix) || !IsPointer(args.factor)) {
    return kCudaInvalidValue;
  }
  const int64_t n = args.matrix.size;
  return QS_LAUNCH(StoreKernel, NoShared, args, std::min(n, kMaxGrid),
                   RowThreads(n), stream);
}

}  // namespace

int LaunchHessianScan(const HessianScanArgs& args, cudaStream_t stream) {
  if (args.size < 1 || !IsPointer(args.hessian) || !IsPointer(args.first_bad) ||
      !IsPointer(args.diagonal)) {
    return kCudaInvalidValue;
  }
  const ScanParams params = {args, reinterpret_cast<Counter*>(args.first_bad)};
  const int code =
      QS_LAUNCH(ScanResetKernel, NoShared, params, 1, kWarpSize, stream);
  if (code != 0) return code;
  const LaunchShape shape = ShapeFor(args.size * args.size);
  return QS_LAUNCH(ScanKernel, NoShared, params, shape.grid, shape.block,
                   stream);
}

int LaunchFactorFill(const FactorFillArgs<float>& args, cudaStream_t stream) {
  return Fill(args, stream);
}
int LaunchFactorFill(const FactorFillArgs<double>& args, cudaStream_t stream) {
  return Fill(args, stream);
}
int LaunchFactorPanel(const FactorPanelArgs<float>& args, cudaStream_t stream) {
  return Panel(args, stream);
}
int LaunchFactorPanel(const FactorPanelArgs<double>& args,
                      cudaStream_t stream) {
  return Panel(args, stream);
}
int LaunchFactorStore(const FactorStoreArgs<float>& args, cudaStream_t stream) {
  return Store(args, stream);
}
int LaunchFactorStore(const FactorStoreArgs<double>& args,
                      cudaStream_t stream) {
  return Store(args, stream);
}

int LaunchFactorDiagonal(const float* diagonal, int64_t size, float* factor,
                         cudaStream_t stream) {
  if (size < 1 || !IsPointer(diagonal) || !IsPointer(factor)) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape = ShapeFor(size * size);
  return QS_LAUNCH(DiagonalKernel, NoShared,
                   (DiagonalParams{diagonal, size, factor}), shape.grid,
                   shape.block, stream);
}

}  // namespace qs::cuda

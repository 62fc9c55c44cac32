// Second moments beside the matrix products: sums of magnitudes, the check for
// NaN and Inf, the F64 sum and its end. Equations and layouts: gram_launch.h,
// kernels/gram_ops.h.
//
// All sums have a fixed order: a slice of kGramSlice tokens by one thread, the
// slices one after the other.
// Tested by tests/kernels/gram_cuda_test.cc.
#include "kernels/cuda/gram_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {
namespace {

using Counter = unsigned long long;  // what atomicMin takes

constexpr int kTile = 32;  // of the transposition

struct ResetParams {
  Counter* first_non_finite;
};

template <class T>
struct ColumnParams {
  using Element = T;
  const T* x;
  int64_t tokens;
  int64_t inputs;
  double* partial;
  Counter* first_non_finite;
};

struct FinishShared {
  float tile[kTile][kTile + 1];
};

template <class Thread>
QS_KERNEL void ResetKernel(Thread& t, NoShared&, const ResetParams& a) {
  if (t.ThreadIndex() != 0) return;
  t.Global(a.first_non_finite, 1).Set(0, ~Counter{0});
}

// Neighbouring threads have neighbouring columns of the same slice.
template <class Thread, class Params>
QS_KERNEL void ColumnKernel(Thread& t, NoShared&, const Params& a) {
  using T = typename Params::Element;
  const int64_t slices = (a.tokens + kGramSlice - 1) / kGramSlice;
  const auto x = t.Global(a.x, a.tokens * a.inputs);
  const auto partial = t.Global(a.partial, slices * a.inputs);
  const auto bad = t.Global(a.first_non_finite, 1);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < slices * a.inputs; i += stride) {
    const int64_t column = i % a.inputs;
    const int64_t begin = i / a.inputs * kGramSlice;
    const int64_t left = a.tokens - begin;
    const int64_t end = begin + (left < kGramSlice ? left : kGramSlice);
    double sum = 0;
    for (int64_t token = begin; token < end; ++token) {
      const T value = x.Get(token * a.inputs + column);
      const uint32_t bits = FloatBits(Widen(value)) & 0x7fffffffu;
      if (IsNonFinite(bits)) {
        bad.AtomicMin(0, static_cast<Counter>(token * a.inputs + column));
      }
      sum += static_cast<double>(BitsFloat(bits));
    }
    partial.Set(i, sum);
  }
}

template <class Thread>
QS_KERNEL bool AllFinite(const Thread& t, const int64_t* first_non_finite) {
  return t.Global(first_non_finite, 1).Get(0) == -1;
}

template <class Thread>
QS_KERNEL void AbsKernel(Thread& t, NoShared&, const GramAbsArgs& a) {
  if (!AllFinite(t, a.first_non_finite)) return;
  const auto partial = t.Global(a.partial, a.slices * a.inputs);
  const auto abs_sum = t.Global(a.abs_sum, a.inputs);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < a.inputs; i += stride) {
    double sum = abs_sum.Get(i);
    for (int64_t slice = 0; slice < a.slices; ++slice) {
      sum += partial.Get(slice * a.inputs + i);
    }
    abs_sum.Set(i, sum);
  }
}

// A row of the product a block of threads.
template <class Thread>
QS_KERNEL void FlushKernel(Thread& t, NoShared&, const GramFlushArgs& a) {
  if (!AllFinite(t, a.first_non_finite)) return;
  const int64_t rows = a.first + a.width;
  const auto product = t.Global(a.product, rows * a.width);
  const auto sum = t.Global(a.sum, a.inputs * a.inputs);
  for (int64_t row = t.BlockIndex(); row < rows; row += t.GridSize()) {
    const int64_t begin = row > a.first ? row - a.first : 0;
    for (int64_t j = begin + t.ThreadIndex(); j < a.width; j += t.BlockSize()) {
      const int64_t at = row * a.inputs + a.first + j;
      sum.Set(at, sum.Get(at) +
                      static_cast<double>(product.Get(row * a.width + j)));
    }
  }
}

// One tile on or above the diagonal a block of threads, to both of its places.
template <class Thread>
QS_KERNEL void FinishKernel(Thread& t, FinishShared& shared,
                            const GramFinishArgs& a) {
  const int64_t n = a.inputs;
  const int64_t tiles = (n + kTile - 1) / kTile;
  const auto sum = t.Global(a.sum, n * n);
  const auto out = t.Global(a.second_moment, n * n);
  const int column = t.ThreadIndex() % kTile;
  const int step = t.BlockSize() / kTile;
  for (int64_t index = t.BlockIndex(); index < tiles * tiles;
       index += t.GridSize()) {
    const int64_t top = index / tiles * kTile;
    const int64_t left = index % tiles * kTile;
    if (top > left) continue;  // the whole block
    for (int row = t.ThreadIndex() / kTile; row < kTile; row += step) {
      const int64_t i = top + row, j = left + column;
      const bool stored = i <= j && j < n;
      const float value = stored ? static_cast<float>(sum.Get(i * n + j)) : 0;
      shared.tile[row][column] = value;
      if (stored) out.Set(i * n + j, value);
    }
    t.Barrier();
    for (int row = t.ThreadIndex() / kTile; row < kTile; row += step) {
      const int64_t i = left + row, j = top + column;
      if (j < i && i < n) out.Set(i * n + j, shared.tile[column][row]);
    }
    t.Barrier();
  }
  const auto abs_sum = t.Global(a.abs_sum, n);
  const auto abs_out = t.Global(a.abs_sum_f32, n);
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex(); i < n;
       i += t.GridSize() * t.BlockSize()) {
    abs_out.Set(i, static_cast<float>(abs_sum.Get(i)));
  }
}

QS_DEFINE_ENTRY(ResetKernel, NoShared)
QS_DEFINE_ENTRY(ColumnKernel, NoShared)
QS_DEFINE_ENTRY(AbsKernel, NoShared)
QS_DEFINE_ENTRY(FlushKernel, NoShared)
QS_DEFINE_ENTRY(FinishKernel, FinishShared)

}  // namespace

int LaunchGramColumns(const GramColumnArgs& args, cudaStream_t stream) {
  const TensorView& x = args.activations;
  if (x.rows < 0 || x.cols < 1 || !IsPointer(args.first_non_finite)) {
    return kCudaInvalidValue;
  }
  auto* const bad = reinterpret_cast<Counter*>(args.first_non_finite);
  const int code =
      QS_LAUNCH(ResetKernel, NoShared, ResetParams{bad}, 1, kWarpSize, stream);
  if (code != 0 || x.rows == 0) return code;
  if (x.data == nullptr || !IsPointer(args.partial)) return kCudaInvalidValue;
  return WithType(x.dtype, [&](auto type) {
    using T = decltype(type);
    const ColumnParams<T> params = {static_cast<const T*>(x.data), x.rows,
                                    x.cols, args.partial, bad};
    const LaunchShape shape = ShapeFor(CeilDiv(x.rows, kGramSlice) * x.cols);
    return QS_LAUNCH(ColumnKernel, NoShared, params, shape.grid, shape.block,
                     stream);
  });
}

int LaunchGramAbs(const GramAbsArgs& args, cudaStream_t stream) {
  if (args.slices < 0 || args.inputs < 1 || !IsPointer(args.partial) ||
      !IsPointer(args.abs_sum) || !IsPointer(args.first_non_finite)) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape = ShapeFor(args.inputs);
  return QS_LAUNCH(AbsKernel, NoShared, args, shape.grid, shape.block, stream);
}

int LaunchGramFlush(const GramFlushArgs& args, cudaStream_t stream) {
  if (args.first < 0 || args.width < 1 ||
      args.first + args.width > args.inputs || !IsPointer(args.product) ||
      !IsPointer(args.sum) || !IsPointer(args.first_non_finite)) {
    return kCudaInvalidValue;
  }
  const int64_t rows = args.first + args.width;
  return QS_LAUNCH(FlushKernel, NoShared, args, std::min(rows, kMaxGrid),
                   ShapeFor(args.width).block, stream);
}

int LaunchGramFinish(const GramFinishArgs& args, cudaStream_t stream) {
  if (args.inputs < 1 || !IsPointer(args.sum) || !IsPointer(args.abs_sum) ||
      !IsPointer(args.second_moment) || !IsPointer(args.abs_sum_f32)) {
    return kCudaInvalidValue;
  }
  const int64_t tiles = CeilDiv(args.inputs, kTile);
  return QS_LAUNCH(FinishKernel, FinishShared, args,
                   std::min(tiles * tiles, kMaxGrid), kMaxBlockThreads, stream);
}

}  // namespace qs::cuda

// What is left of OutputError and Decode beside the library's products.
// Equations: kernels/gptq_ops.h; layouts: gptq_launch.h.
//
// A row's dot product is a block of threads': each sums its columns in order in
// F64, then the sums are folded, always the same way.
// Tested by tests/kernels/gptq_cuda_test.cc.
#include "kernels/cuda/gptq_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {
namespace {

constexpr int kDotThreads = 128;

struct DotShared {
  double sums[kDotThreads];
};

template <class W, class D>
struct DifferenceParams {
  const W* weight;
  const D* decoded;
  DifferenceArgs args;
};

template <class T, class S>
struct DecodeParams {
  T* weight;
  const S* scales;
  GptqDecodeArgs args;
};

template <class Thread, class W, class D>
QS_KERNEL void DifferenceKernel(Thread& t, NoShared&,
                                const DifferenceParams<W, D>& p) {
  const DifferenceArgs& a = p.args;
  const int64_t cols = a.weight.cols;
  const auto weight = t.Global(p.weight, a.weight.rows * cols);
  const auto out = t.Global(a.d, kSolveTile * cols);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < kSolveTile * cols; i += stride) {
    float d = 0;
    if (i < a.count * cols) {
      d = Widen(weight.Get(a.first * cols + i));
      if (p.decoded != nullptr) {
        d -= Widen(t.Global(p.decoded, a.weight.rows * cols)
                       .Get(a.first * cols + i));
      }
    }
    out.Set(i, d);
  }
}

template <class Thread>
QS_KERNEL void DotKernel(Thread& t, DotShared& shared, const RowDotArgs& a) {
  const auto d = t.Global(a.d, a.rows * a.cols);
  const auto p = t.Global(a.p, a.rows * a.cols);
  for (int64_t row = t.BlockIndex(); row < a.rows; row += t.GridSize()) {
    double sum = 0;
    for (int64_t i = t.ThreadIndex(); i < a.cols; i += kDotThreads) {
      sum += static_cast<double>(d.Get(row * a.cols + i)) *
             static_cast<double>(p.Get(row * a.cols + i));
    }
    shared.sums[t.ThreadIndex()] = sum;
    t.Barrier();
    for (int half = kDotThreads / 2; half > 0; half /= 2) {
      if (t.ThreadIndex() < half) {
        shared.sums[t.ThreadIndex()] += shared.sums[t.ThreadIndex() + half];
      }
      t.Barrier();
    }
    if (t.ThreadIndex() == 0) t.Global(a.out, a.rows).Set(row, shared.sums[0]);
    t.Barrier();
  }
}

template <class Thread, class T, class S>
QS_KERNEL void DecodeKernel(Thread& t, NoShared&, const DecodeParams<T, S>& p) {
  const GptqDecodeArgs& a = p.args;
  const int64_t rows = a.weight.rows, cols = a.weight.cols;
  const int64_t groups = (cols + a.grid.group_size - 1) / a.grid.group_size;
  const auto codes = t.Global(a.codes, rows * cols);
  const auto scales = t.Global(p.scales, rows * groups);
  const auto out = t.Global(p.weight, rows * cols);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < rows * cols; i += stride) {
    const int64_t c = i % cols;
    const int64_t group = a.group_index == nullptr
                              ? c / a.grid.group_size
                              : t.Global(a.group_index, cols).Get(c);
    const int64_t at = i / cols * groups + group;
    const int zero = a.zero_points == nullptr
                         ? 1 << (a.grid.bits - 1)
                         : t.Global(a.zero_points, rows * groups).Get(at);
    T value;
    Narrow(static_cast<float>(codes.Get(i) - zero) * Widen(scales.Get(at)),
           &value);
    out.Set(i, value);
  }
}

QS_DEFINE_ENTRY(DifferenceKernel, NoShared)
QS_DEFINE_ENTRY(DotKernel, DotShared)
QS_DEFINE_ENTRY(DecodeKernel, NoShared)

}  // namespace

int LaunchDifference(const DifferenceArgs& args, cudaStream_t stream) {
  if (args.weight.data == nullptr || args.weight.cols < 1 || args.first < 0 ||
      args.count < 1 || args.count > kSolveTile ||
      args.first + args.count > args.weight.rows || !IsPointer(args.d)) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape = ShapeFor(kSolveTile * args.weight.cols);
  return WithType(args.weight.dtype, [&](auto weight) {
    return WithType(args.decoded.dtype, [&](auto decoded) {
      using W = decltype(weight);
      using D = decltype(decoded);
      const DifferenceParams<W, D> params = {
          static_cast<const W*>(args.weight.data),
          static_cast<const D*>(args.decoded.data), args};
      return QS_LAUNCH(DifferenceKernel, NoShared, params, shape.grid,
                       shape.block, stream);
    });
  });
}

int LaunchRowDot(const RowDotArgs& args, cudaStream_t stream) {
  if (args.rows < 1 || args.cols < 1 || !IsPointer(args.d) ||
      !IsPointer(args.p) || !IsPointer(args.out)) {
    return kCudaInvalidValue;
  }
  return QS_LAUNCH(DotKernel, DotShared, args, std::min(args.rows, kMaxGrid),
                   kDotThreads, stream);
}

int LaunchGptqDecode(const GptqDecodeArgs& args, cudaStream_t stream) {
  if (args.weight.num_elements() == 0) return 0;
  if (args.weight.rows < 0 || args.weight.cols < 1 ||
      args.weight.data == nullptr || args.codes == nullptr ||
      args.scales == nullptr || args.grid.group_size < 1) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape = ShapeFor(args.weight.num_elements());
  return WithType(args.weight.dtype, [&](auto weight) {
    return WithType(args.grid.scale_dtype, [&](auto scale) {
      using T = decltype(weight);
      using S = decltype(scale);
      const DecodeParams<T, S> params = {static_cast<T*>(args.weight.data),
                                         static_cast<const S*>(args.scales),
                                         args};
      return QS_LAUNCH(DecodeKernel, NoShared, params, shape.grid, shape.block,
                       stream);
    });
  });
}

}  // namespace qs::cuda

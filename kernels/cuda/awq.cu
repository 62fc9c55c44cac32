// AWQ beside the library's products: column means, grids and codes, the
// differences that a vector of scales makes, and sums of losses. Equations:
// kernels/awq_ops.h; layouts: awq_launch.h.
//
// A warp has a group; sums of losses have a fixed number of parts.
// Tested by tests/kernels/awq_cuda_test.cc.
#include "kernels/cuda/awq_device.h"
#include "kernels/cuda/awq_launch.h"
#include "kernels/cuda/launch.h"

namespace qs::cuda {
namespace {

struct SumShared {
  double sums[kMaxBlockThreads];
};

constexpr int kMeanWarps = kMaxBlockThreads / kWarpSize;
constexpr int kMeanRows = 8 * kMeanWarps;  // that wait to be added

struct MeanShared {
  float values[kMeanRows][kWarpSize];
};

template <class T, class Arguments>
struct Typed {
  using Element = T;
  Arguments args;
};

template <class T, class S>
struct QuantizeParams {
  using Element = T;
  using Scale = S;
  S* group_scales;
  AwqQuantizeArgs args;
};

struct Tf32Params {
  const float* from;
  int64_t count;
  float* to;
};

template <class Thread, class Params>
QS_KERNEL void DivisorKernel(Thread& t, NoShared&, const Params& p) {
  using T = typename Params::Element;
  const AwqDivisorArgs& a = p.args;
  const int64_t groups = a.weight.cols / a.group_size;
  const auto out = t.Global(a.divisors, a.weight.rows * groups);
  const auto weight = t.Global(static_cast<const T*>(a.weight.data),
                               a.weight.rows * a.weight.cols);
  ForWarpUnits(t, a.weight.rows * groups, [&](int64_t unit) {
    const awq::Limits extremes = ExtremesOverWarp(
        t, a.group_size,
        [&](int64_t i) { return Widen(weight.Get(unit * a.group_size + i)); });
    const float top =
        -extremes.low > extremes.high ? -extremes.low : extremes.high;
    if (t.ThreadIndex() % kWarpSize == 0) {
      out.Set(unit, affine::RoundTo(a.weight.dtype, top + 1e-6f));
    }
  });
}

// 32 columns a block of threads: all warps read and divide, so that many rows
// are on their way at once, and the first one adds, row after row.
template <class Thread, class Params>
QS_KERNEL void MeanKernel(Thread& t, MeanShared& shared, const Params& p) {
  using T = typename Params::Element;
  const AwqMeanArgs& a = p.args;
  const int64_t rows = a.weight.rows, cols = a.weight.cols;
  const int64_t groups = cols / a.group_size;
  const auto weight =
      t.Global(static_cast<const T*>(a.weight.data), rows * cols);
  const auto divisors = t.Global(a.divisors, rows * groups);
  const auto sums = t.Global(a.sums, cols);
  const int lane = t.ThreadIndex() % kWarpSize;
  const int warp = t.ThreadIndex() / kWarpSize;
  for (int64_t left = t.BlockIndex() * kWarpSize; left < cols;
       left += t.GridSize() * kWarpSize) {
    const int64_t col = left + lane;
    const bool adds = warp == 0 && col < cols;
    const int64_t group = col / a.group_size;
    double sum = adds ? sums.Get(col) : 0;
    for (int64_t top = 0; top < rows; top += kMeanRows) {
      QS_UNROLL
      for (int step = 0; step < kMeanRows / kMeanWarps; ++step) {
        const int y = step * kMeanWarps + warp;
        if (top + y >= rows || col >= cols) continue;
        const float w = fabsf(Widen(weight.Get((top + y) * cols + col)));
        shared.values[y][lane] = affine::RoundTo(
            a.weight.dtype, w / divisors.Get((top + y) * groups + group));
      }
      t.Barrier();
      for (int y = 0; adds && y < kMeanRows && top + y < rows; ++y) {
        sum += static_cast<double>(shared.values[y][lane]);
      }
      t.Barrier();
    }
    if (adds) sums.Set(col, sum);
  }
}

template <class Thread, class Params>
QS_KERNEL void QuantizeKernel(Thread& t, NoShared&, const Params& p) {
  using T = typename Params::Element;
  const AwqQuantizeArgs& a = p.args;
  const int64_t size = a.grid.group_size;
  const int64_t groups = a.weight.cols / size;
  const int64_t units = a.weight.rows * groups;
  const auto codes = t.Global(a.codes, units * size);
  const auto zero_points = t.Global(a.zero_points, units);
  const auto group_scales = t.Global(p.group_scales, units);
  ForWarpUnits(t, units, [&](int64_t unit) {
    const GroupValues<Thread, T> values(t, a.weight, a.grid, a.scales,
                                        unit / groups, unit % groups * size);
    awq::Limits limits = NoLimits();
    if (a.low != nullptr) {
      limits = {t.Global(a.low, units).Get(unit),
                t.Global(a.high, units).Get(unit)};
    }
    const awq::Grid grid = GridOf(t, a.grid, values, limits);
    for (int64_t i = t.ThreadIndex() % kWarpSize; i < size; i += kWarpSize) {
      const float code =
          CodeOf(a.grid, grid, Clamped(a.grid, limits, values.At(i)));
      codes.Set(unit * size + i, static_cast<uint8_t>(static_cast<int>(code)));
      if (a.decoded == nullptr) continue;
      t.Global(a.decoded, units * size)
          .Set(unit * size + i, DecodedOf(a.grid, grid, code));
    }
    if (t.ThreadIndex() % kWarpSize != 0) return;
    typename Params::Scale scale;
    Narrow(grid.scale, &scale);
    group_scales.Set(unit, scale);
    zero_points.Set(unit, static_cast<uint8_t>(static_cast<int>(grid.zero)));
  });
}

template <class Thread, class Params>
QS_KERNEL void DeltaKernel(Thread& t, NoShared&, const Params& p) {
  using T = typename Params::Element;
  const AwqDeltaArgs& a = p.args;
  const int64_t size = a.grid.group_size;
  const int64_t groups = a.weight.cols / size;
  const auto out = t.Global(a.delta, a.count * a.weight.cols);
  ForWarpUnits(t, a.count * groups, [&](int64_t unit) {
    const int64_t row = a.first + unit / groups * a.stride;
    const GroupValues<Thread, T> values(t, a.weight, a.grid, a.scales, row,
                                        unit % groups * size);
    const awq::Grid grid = GridOf(t, a.grid, values, NoLimits());
    for (int64_t i = t.ThreadIndex() % kWarpSize; i < size; i += kWarpSize) {
      const float code =
          CodeOf(a.grid, grid, Clamped(a.grid, NoLimits(), values.At(i)));
      float value = DecodedOf(a.grid, grid, code) / values.Scale(i);
      if (IsAutoAwq(a.grid)) value = affine::RoundTo(a.weight.dtype, value);
      out.Set(unit * size + i, RoundToTf32(value - values.Weight(i)));
    }
  });
}

template <class Thread>
QS_KERNEL void Tf32Kernel(Thread& t, NoShared&, const Tf32Params& a) {
  const auto from = t.Global(a.from, a.count);
  const auto to = t.Global(a.to, a.count);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < a.count; i += stride) {
    to.Set(i, RoundToTf32(from.Get(i)));
  }
}

// The sum over a block of threads, in thread 0; always folded the same way.
template <class Thread>
QS_KERNEL double SumOverBlock(Thread& t, SumShared& shared, double sum) {
  shared.sums[t.ThreadIndex()] = sum;
  t.Barrier();
  for (int half = kMaxBlockThreads / 2; half > 0; half /= 2) {
    if (t.ThreadIndex() < half) {
      shared.sums[t.ThreadIndex()] += shared.sums[t.ThreadIndex() + half];
    }
    t.Barrier();
  }
  return shared.sums[0];
}

template <class Thread>
QS_KERNEL void DotKernel(Thread& t, SumShared& shared, const AwqDotArgs& a) {
  const auto product =
      t.Global(a.product, (a.rows - 1) * a.product_stride + a.width);
  const auto with = t.Global(a.with, (a.rows - 1) * a.with_stride + a.width);
  double sum = 0;
  for (int64_t row = t.BlockIndex(); row < a.rows; row += t.GridSize()) {
    for (int64_t i = t.ThreadIndex(); i < a.width; i += t.BlockSize()) {
      sum += static_cast<double>(product.Get(row * a.product_stride + i)) *
             static_cast<double>(with.Get(row * a.with_stride + i));
    }
  }
  sum = SumOverBlock(t, shared, sum);
  if (t.ThreadIndex() == 0) {
    t.Global(a.parts, kLossParts).Set(t.BlockIndex(), sum);
  }
}

template <class Thread, class Params>
QS_KERNEL void CostKernel(Thread& t, NoShared&, const Params& p) {
  const AwqStepArgs& a = p.args;
  const int64_t cols = a.weight.cols, size = a.grid.group_size;
  const auto curvature = t.Global(a.curvature, cols);
  const auto scales = t.Global(a.scales, cols);
  const auto costs = t.Global(a.costs, cols / size);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t g = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       g < cols / size; g += stride) {
    double cost = 0;
    for (int64_t k = g * size; k < (g + 1) * size; ++k) {
      const auto scale = static_cast<double>(scales.Get(k));
      cost += static_cast<double>(curvature.Get(k)) / scale / scale;
    }
    costs.Set(g, cost);
  }
}

template <class Thread, class Params>
QS_KERNEL void StepKernel(Thread& t, SumShared& shared, const Params& p) {
  using T = typename Params::Element;
  const AwqStepArgs& a = p.args;
  const int64_t size = a.grid.group_size;
  const int64_t groups = a.weight.cols / size;
  const int64_t rows = (a.weight.rows + a.stride - 1) / a.stride;
  const auto costs = t.Global(a.costs, groups);
  double sum = 0;
  ForWarpUnits(t, rows * groups, [&](int64_t unit) {
    const GroupValues<Thread, T> values(t, a.weight, a.grid, a.scales,
                                        unit / groups * a.stride,
                                        unit % groups * size);
    const auto step =
        static_cast<double>(GridOf(t, a.grid, values, NoLimits()).scale);
    sum += step * step / 12 * costs.Get(unit % groups);
  });
  // All lanes have the warp's.
  sum = SumOverBlock(t, shared, t.ThreadIndex() % kWarpSize == 0 ? sum : 0);
  if (t.ThreadIndex() == 0) {
    t.Global(a.parts, kLossParts).Set(t.BlockIndex(), sum);
  }
}

QS_DEFINE_ENTRY(DivisorKernel, NoShared)
QS_DEFINE_ENTRY(MeanKernel, MeanShared)
QS_DEFINE_ENTRY(QuantizeKernel, NoShared)
QS_DEFINE_ENTRY(DeltaKernel, NoShared)
QS_DEFINE_ENTRY(Tf32Kernel, NoShared)
QS_DEFINE_ENTRY(DotKernel, SumShared)
QS_DEFINE_ENTRY(CostKernel, NoShared)
QS_DEFINE_LARGE_ENTRY(StepKernel, SumShared)

// Rows may be none: then nothing is launched.
bool IsServableWeight(const TensorView& weight, int64_t group_size) {
  return weight.rows >= 0 && weight.cols >= 1 && group_size >= 1 &&
         weight.cols % group_size == 0 &&
         (weight.rows == 0 || weight.data != nullptr);
}

LaunchShape ShapeForUnits(int64_t units) { return ShapeFor(units * kWarpSize); }

}  // namespace

int LaunchAwqDivisors(const AwqDivisorArgs& args, cudaStream_t stream) {
  if (!IsServableWeight(args.weight, args.group_size) ||
      !IsPointer(args.divisors)) {
    return kCudaInvalidValue;
  }
  if (args.weight.rows == 0) return 0;
  const LaunchShape shape =
      ShapeForUnits(args.weight.num_elements() / args.group_size);
  return WithType(args.weight.dtype, [&](auto type) {
    const Typed<decltype(type), AwqDivisorArgs> params = {args};
    return QS_LAUNCH(DivisorKernel, NoShared, params, shape.grid, shape.block,
                     stream);
  });
}

int LaunchAwqMeans(const AwqMeanArgs& args, cudaStream_t stream) {
  if (!IsServableWeight(args.weight, args.group_size) ||
      !IsPointer(args.divisors) || !IsPointer(args.sums)) {
    return kCudaInvalidValue;
  }
  if (args.weight.rows == 0) return 0;
  return WithType(args.weight.dtype, [&](auto type) {
    const Typed<decltype(type), AwqMeanArgs> params = {args};
    // Few columns a block: all multiprocessors take part.
    return QS_LAUNCH(MeanKernel, MeanShared, params,
                     std::min(CeilDiv(args.weight.cols, kWarpSize), kMaxGrid),
                     kMaxBlockThreads, stream);
  });
}

int LaunchAwqQuantize(const AwqQuantizeArgs& args, cudaStream_t stream) {
  if (!IsServableWeight(args.weight, args.grid.group_size) ||
      args.codes == nullptr || args.group_scales == nullptr ||
      args.zero_points == nullptr ||
      (args.low == nullptr) != (args.high == nullptr)) {
    return kCudaInvalidValue;
  }
  if (args.weight.rows == 0) return 0;
  const LaunchShape shape =
      ShapeForUnits(args.weight.num_elements() / args.grid.group_size);
  return WithType(args.weight.dtype, [&](auto weight) {
    return WithType(args.grid.scale_dtype, [&](auto scale) {
      using S = decltype(scale);
      const QuantizeParams<decltype(weight), S> params = {
          static_cast<S*>(args.group_scales), args};
      return QS_LAUNCH(QuantizeKernel, NoShared, params, shape.grid,
                       shape.block, stream);
    });
  });
}

int LaunchAwqDelta(const AwqDeltaArgs& args, cudaStream_t stream) {
  if (!IsServableWeight(args.weight, args.grid.group_size) || args.count < 1 ||
      args.first < 0 || args.stride < 1 ||
      args.first + (args.count - 1) * args.stride >= args.weight.rows ||
      !IsPointer(args.scales) || !IsPointer(args.delta)) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape =
      ShapeForUnits(args.count * (args.weight.cols / args.grid.group_size));
  return WithType(args.weight.dtype, [&](auto type) {
    const Typed<decltype(type), AwqDeltaArgs> params = {args};
    return QS_LAUNCH(DeltaKernel, NoShared, params, shape.grid, shape.block,
                     stream);
  });
}

int LaunchTf32Copy(const float* from, int64_t count, float* to,
                   cudaStream_t stream) {
  if (count < 1 || !IsPointer(from) || !IsPointer(to)) return kCudaInvalidValue;
  const LaunchShape shape = ShapeFor(count);
  const Tf32Params params = {from, count, to};
  return QS_LAUNCH(Tf32Kernel, NoShared, params, shape.grid, shape.block,
                   stream);
}

int LaunchAwqDot(const AwqDotArgs& args, cudaStream_t stream) {
  if (args.rows < 1 || args.width < 1 || args.product_stride < args.width ||
      args.with_stride < args.width || !IsPointer(args.product) ||
      !IsPointer(args.with) || !IsPointer(args.parts)) {
    return kCudaInvalidValue;
  }
  return QS_LAUNCH(DotKernel, SumShared, args, kLossParts, kMaxBlockThreads,
                   stream);
}

int LaunchAwqSteps(const AwqStepArgs& args, cudaStream_t stream) {
  if (!IsServableWeight(args.weight, args.grid.group_size) ||
      args.weight.rows < 1 || args.stride < 1 || !IsPointer(args.scales) ||
      !IsPointer(args.curvature) || !IsPointer(args.costs) ||
      !IsPointer(args.parts)) {
    return kCudaInvalidValue;
  }
  return WithType(args.weight.dtype, [&](auto type) {
    const Typed<decltype(type), AwqStepArgs> params = {args};
    const LaunchShape groups =
        ShapeFor(args.weight.cols / args.grid.group_size);
    const int code = QS_LAUNCH(CostKernel, NoShared, params, groups.grid,
                               groups.block, stream);
    if (code != 0) return code;
    return QS_LAUNCH(StepKernel, SumShared, params, kLossParts,
                     kMaxBlockThreads, stream);
  });
}

}  // namespace qs::cuda

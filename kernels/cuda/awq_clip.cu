// AWQ's clip search beside the library's products: the groups' blocks of the
// moment, the differences that candidates make, and the best of them.
// Equations: kernels/awq_ops.h; layouts: awq_launch.h.
//
// A warp has a group of a row, with one candidate (differences) or all of them
// (choice). Products always have one shape, so that no row's bytes depend on
// how many there are.
// Tested by tests/kernels/awq_cuda_test.cc.
#include "kernels/cuda/awq_device.h"
#include "kernels/cuda/awq_launch.h"
#include "kernels/cuda/launch.h"

namespace qs::cuda {
namespace {

template <class T>
struct RoundParams {
  using Element = T;
  AwqClipRound args;
};

template <class Thread>
QS_KERNEL void BlocksKernel(Thread& t, NoShared&, const AwqBlockArgs& a) {
  const int64_t size = a.group_size;
  const auto h = t.Global(a.second_moment, a.cols * a.cols);
  const auto out = t.Global(a.blocks, a.cols * size);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < a.cols * size; i += stride) {
    const int64_t row = i / size;
    const int64_t col = row / size * size + i % size;
    float value = h.Get(row * a.cols + col);
    if (a.scales != nullptr) {
      const auto scales = t.Global(a.scales, a.cols);
      value = value / scales.Get(row) / scales.Get(col);
    }
    out.Set(i, value);
  }
}

QS_KERNEL awq::Limits Candidate(const AwqClipRound& a, int k,
                                const awq::Limits& range,
                                const awq::Limits& best) {
  if (a.round > 0) {
    return awq::MoveLimits(a.grid, a.round, k, range.low, range.high, best);
  }
  const auto factor = static_cast<float>(1.0 - k / awq::kClipGrid);
  const bool automatic = IsAutoAwq(a.grid);
  if (!automatic && !a.grid.symmetric) {
    return {range.low * factor, range.high * factor};
  }
  float top = -range.low > range.high ? -range.low : range.high;
  top *= factor;
  if (automatic) top = affine::RoundTo(a.weight.dtype, top);
  return {-top, top};
}

template <class Thread>
QS_KERNEL awq::Limits BestSoFar(const Thread& t, const AwqClipRound& a,
                                int64_t at) {
  if (a.round == 0) return {};
  const int64_t count = a.weight.rows * (a.weight.cols / a.grid.group_size);
  return {t.Global(a.low, count).Get(at), t.Global(a.high, count).Get(at)};
}

template <class Thread, class Params>
QS_KERNEL void DeltasKernel(Thread& t, NoShared&, const Params& p) {
  using T = typename Params::Element;
  const AwqClipRound& a = p.args;
  const int64_t size = a.grid.group_size;
  const int64_t groups = a.weight.cols / size;
  const int64_t tests = kClipRows * a.candidates;
  const auto out = t.Global(a.deltas, groups * tests * size);
  ForWarpUnits(t, groups * tests, [&](int64_t unit) {
    const int64_t group = unit / tests;
    const int64_t at = unit % tests / a.candidates;
    if (at >= a.count) {
      for (int64_t i = t.ThreadIndex() % kWarpSize; i < size; i += kWarpSize) {
        out.Set(unit * size + i, 0.0f);
      }
      return;
    }
    const int64_t row = a.first + at;
    const int k = static_cast<int>(unit % tests % a.candidates);
    const GroupValues<Thread, T> values(t, a.weight, a.grid, a.scales, row,
                                        group * size);
    const awq::Limits range = WithZero(ExtremesOverWarp(
        t, size, [&](int64_t i) { return values.At(i); }));
    const awq::Limits limits =
        Candidate(a, k, range, BestSoFar(t, a, row * groups + group));
    const awq::Grid grid = GridOf(t, a.grid, values, limits);
    for (int64_t i = t.ThreadIndex() % kWarpSize; i < size; i += kWarpSize) {
      const float x = values.At(i);
      const float code = CodeOf(a.grid, grid, Clamped(a.grid, limits, x));
      out.Set(unit * size + i, DecodedOf(a.grid, grid, code) - x);
    }
  });
}

// d H_gg d^T of one candidate, in all lanes.
template <class Thread>
QS_KERNEL double ErrorOf(Thread& t, const AwqClipRound& a, int64_t test) {
  const int64_t size = a.grid.group_size;
  const int64_t all = a.weight.cols * kClipRows * a.candidates;
  const auto deltas = t.Global(a.deltas, all);
  const auto products = t.Global(a.products, all);
  double sum = 0;
  for (int64_t i = t.ThreadIndex() % kWarpSize; i < size; i += kWarpSize) {
    sum += static_cast<double>(deltas.Get(test * size + i)) *
           static_cast<double>(products.Get(test * size + i));
  }
  QS_UNROLL
  for (int mask = 1; mask < kWarpSize; mask *= 2) {
    sum += t.ShuffleXor(sum, mask);
  }
  return sum;
}

template <class Thread, class Params>
QS_KERNEL void PickKernel(Thread& t, NoShared&, const Params& p) {
  using T = typename Params::Element;
  const AwqClipRound& a = p.args;
  const int64_t size = a.grid.group_size;
  const int64_t groups = a.weight.cols / size;
  const int64_t all = a.weight.rows * groups;
  const auto errors = t.Global(a.errors, all);
  ForWarpUnits(t, groups * a.count, [&](int64_t unit) {
    const int64_t group = unit / a.count;
    const int64_t row = a.first + unit % a.count;
    const int64_t at = row * groups + group;
    const int64_t tests = (group * kClipRows + unit % a.count) * a.candidates;
    const GroupValues<Thread, T> values(t, a.weight, a.grid, a.scales, row,
                                        group * size);
    const awq::Limits range = WithZero(ExtremesOverWarp(
        t, size, [&](int64_t i) { return values.At(i); }));
    const awq::Limits start = BestSoFar(t, a, at);
    awq::Limits best = start;
    double least = a.round == 0 ? 0 : errors.Get(at);
    for (int k = 0; k < a.candidates; ++k) {
      const double error = ErrorOf(t, a, tests + k);
      const bool first = a.round == 0 && k == 0;
      if (!first && !(error < least)) continue;
      least = error;
      best = Candidate(a, k, range, start);
    }
    t.WarpBarrier();  // all lanes have read what one writes now
    if (t.ThreadIndex() % kWarpSize != 0) return;
    errors.Set(at, least);
    t.Global(a.low, all).Set(at, best.low);
    t.Global(a.high, all).Set(at, best.high);
  });
}

QS_DEFINE_ENTRY(BlocksKernel, NoShared)
QS_DEFINE_LARGE_ENTRY(DeltasKernel, NoShared)
QS_DEFINE_LARGE_ENTRY(PickKernel, NoShared)

bool IsServableRound(const AwqClipRound& a) {
  return a.weight.data != nullptr && a.weight.cols >= 1 &&
         a.grid.group_size >= 1 && a.weight.cols % a.grid.group_size == 0 &&
         a.first >= 0 && a.count >= 1 && a.count <= kClipRows &&
         a.first + a.count <= a.weight.rows && a.candidates >= 1 &&
         IsPointer(a.deltas) && IsPointer(a.errors) && IsPointer(a.low) &&
         IsPointer(a.high);
}

}  // namespace

int LaunchAwqBlocks(const AwqBlockArgs& args, cudaStream_t stream) {
  if (args.cols < 1 || args.group_size < 1 ||
      args.cols % args.group_size != 0 || !IsPointer(args.second_moment) ||
      !IsPointer(args.blocks)) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape = ShapeFor(args.cols * args.group_size);
  return QS_LAUNCH(BlocksKernel, NoShared, args, shape.grid, shape.block,
                   stream);
}

int LaunchAwqClipDeltas(const AwqClipRound& args, cudaStream_t stream) {
  if (!IsServableRound(args)) return kCudaInvalidValue;
  const int64_t groups = args.weight.cols / args.grid.group_size;
  const LaunchShape shape =
      ShapeFor(groups * kClipRows * args.candidates * kWarpSize);
  return WithType(args.weight.dtype, [&](auto type) {
    const RoundParams<decltype(type)> params = {args};
    return QS_LAUNCH(DeltasKernel, NoShared, params, shape.grid, shape.block,
                     stream);
  });
}

int LaunchAwqClipPick(const AwqClipRound& args, cudaStream_t stream) {
  if (!IsServableRound(args) || !IsPointer(args.products)) {
    return kCudaInvalidValue;
  }
  const int64_t groups = args.weight.cols / args.grid.group_size;
  const LaunchShape shape = ShapeFor(groups * args.count * kWarpSize);
  return WithType(args.weight.dtype, [&](auto type) {
    const RoundParams<decltype(type)> params = {args};
    return QS_LAUNCH(PickKernel, NoShared, params, shape.grid, shape.block,
                     stream);
  });
}

}  // namespace qs::cuda

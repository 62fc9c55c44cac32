// Least squares on the scales of groups wider than a block, beside the
// library's products: a group's steps times its part of H give the change, what
// q grows by times the same whether it is worth it. Definition:
// kernels/reference/gptq_refine_reference.cc; layouts: gptq_launch.h.
//
// A warp has a group of a row.
// Tested by tests/kernels/gptq_refine_cuda_test.cc.
#include <cmath>

#include "kernels/cuda/gptq_launch.h"
#include "kernels/cuda/gptq_refine_device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {
namespace {

using namespace refine;

// A group of a row in a tile.
struct GroupPlace {
  int64_t row;  // of the matrix
  int64_t grid;
  int64_t in_tile;  // of the group's first column, in a tile's matrix
  int64_t in_rows;  // the same, in the matrix
  int64_t count;
};
QS_KERNEL GroupPlace PlaceOf(const RefineScaleArgs& a, int64_t unit) {
  const int64_t cols = a.state.weight.cols, size = a.state.grid.group_size;
  const int64_t row = unit / a.state.groups;
  const int64_t first = unit % a.state.groups * size;
  const int64_t left = cols - first;
  return {a.first + row, a.first * a.state.groups + unit, row * cols + first,
          (a.first + row) * cols + first, left < size ? left : size};
}
QS_KERNEL int64_t UnitsOf(const RefineScaleArgs& a) {
  const int64_t left = a.state.weight.rows - a.first;
  return (left < kSolveTile ? left : kSolveTile) * a.state.groups;
}

// Rows that fill up the tile get zeros, in `d`, too.
template <class Thread>
QS_KERNEL void StepsKernel(Thread& t, NoShared&, const RefineScaleArgs& a) {
  const RefineState& s = a.state;
  const int64_t rows = s.weight.rows, cols = s.weight.cols;
  const auto codes = t.Global(s.codes, rows * cols);
  const auto out = t.Global(a.steps, kSolveTile * cols);
  const auto d = t.Global(a.d, kSolveTile * cols);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < kSolveTile * cols; i += stride) {
    const int64_t row = a.first + i / cols;
    if (row >= rows) {
      out.Set(i, 0.0f);
      d.Set(i, 0.0f);
      continue;
    }
    const int64_t group = row * s.groups + i % cols / s.grid.group_size;
    out.Set(i, static_cast<float>(codes.Get(a.first * cols + i)) -
                   ZeroAt(t, s, group));
  }
}

template <class Thread>
QS_KERNEL void ProposeKernel(Thread& t, NoShared&, const RefineScaleArgs& a) {
  const RefineState& s = a.state;
  const int64_t cols = s.weight.cols;
  const int64_t padded =
      (s.weight.rows + kSolveTile - 1) / kSolveTile * kSolveTile;
  const auto steps = t.Global(a.steps, kSolveTile * cols);
  const auto product = t.Global(a.product, kSolveTile * cols);
  const auto gradient = t.Global(s.gradient, padded * cols);
  const auto d = t.Global(a.d, kSolveTile * cols);
  const int lane = t.ThreadIndex() % kWarpSize;
  ForWarpUnits(t, UnitsOf(a), [&](int64_t unit) {
    const GroupPlace at = PlaceOf(a, unit);
    float slope = 0, curvature = 0;
    for (int64_t i = lane; i < at.count; i += kWarpSize) {
      const float step = steps.Get(at.in_tile + i);
      slope = fmaf(step, gradient.Get(at.in_rows + i), slope);
      // The product lacks the damping.
      curvature += step * fmaf(s.damping, step, product.Get(at.in_tile + i));
    }
    slope = SumOverWarp(t, slope);
    curvature = SumOverWarp(t, curvature);
    const float scale = ScaleAt(t, s, at.grid);
    const float wanted =
        affine::RoundTo(s.grid.scale_dtype, scale - slope / curvature);
    const bool usable = curvature > 0 && IsUsable(s, wanted, scale) &&
                        IsActive(t, s, at.row);
    if (lane == 0) {
      t.Global(a.wanted, kSolveTile * s.groups)
          .Set(unit, usable ? wanted : 0.0f);
    }
    for (int64_t i = lane; i < at.count; i += kWarpSize) {
      const float step = steps.Get(at.in_tile + i);
      d.Set(at.in_tile + i,
            usable ? Decoded(s, step, wanted) - Decoded(s, step, scale) : 0.0f);
    }
  });
}

template <class Thread>
QS_KERNEL void AcceptKernel(Thread& t, NoShared&, const RefineScaleArgs& a) {
  const RefineState& s = a.state;
  const int64_t cols = s.weight.cols;
  const int64_t padded =
      (s.weight.rows + kSolveTile - 1) / kSolveTile * kSolveTile;
  const auto product = t.Global(a.product, kSolveTile * cols);
  const auto gradient = t.Global(s.gradient, padded * cols);
  const auto d = t.Global(a.d, kSolveTile * cols);
  const int lane = t.ThreadIndex() % kWarpSize;
  ForWarpUnits(t, UnitsOf(a), [&](int64_t unit) {
    const GroupPlace at = PlaceOf(a, unit);
    float gain = 0;
    for (int64_t i = lane; i < at.count; i += kWarpSize) {
      const float by = d.Get(at.in_tile + i);
      gain += by * (2 * gradient.Get(at.in_rows + i) +
                    fmaf(s.damping, by, product.Get(at.in_tile + i)));
    }
    gain = SumOverWarp(t, gain);
    if (gain < 0) {
      if (lane == 0) {
        const auto wanted = t.Global(a.wanted, kSolveTile * s.groups);
        StoreScale(t, s, at.grid, wanted.Get(unit));
      }
      MarkChanged(t, s, at.row);
      // What q grows by reaches the gradient: the damping's part here.
      for (int64_t i = lane; i < at.count; i += kWarpSize) {
        gradient.Set(at.in_rows + i,
                     fmaf(s.damping, d.Get(at.in_tile + i),
                          gradient.Get(at.in_rows + i)));
      }
      return;
    }
    for (int64_t i = lane; i < at.count; i += kWarpSize) {
      d.Set(at.in_tile + i, 0.0f);
    }
  });
}

QS_DEFINE_ENTRY(StepsKernel, NoShared)
QS_DEFINE_ENTRY(ProposeKernel, NoShared)
QS_DEFINE_ENTRY(AcceptKernel, NoShared)

bool IsServableScales(const RefineScaleArgs& a) {
  return IsServableState(a.state) && a.first >= 0 &&
         a.first < a.state.weight.rows && IsPointer(a.steps) &&
         IsPointer(a.product) && IsPointer(a.wanted) && IsPointer(a.d);
}

LaunchShape ShapeOfScales(const RefineScaleArgs& args) {
  return ShapeFor(std::min(kSolveTile, args.state.weight.rows - args.first) *
                  args.state.groups * kWarpSize);
}

}  // namespace

int LaunchRefineSteps(const RefineScaleArgs& args, cudaStream_t stream) {
  if (!IsServableScales(args)) return kCudaInvalidValue;
  const LaunchShape shape = ShapeFor(kSolveTile * args.state.weight.cols);
  return QS_LAUNCH(StepsKernel, NoShared, args, shape.grid, shape.block,
                   stream);
}

int LaunchRefinePropose(const RefineScaleArgs& args, cudaStream_t stream) {
  if (!IsServableScales(args)) return kCudaInvalidValue;
  const LaunchShape shape = ShapeOfScales(args);
  return QS_LAUNCH(ProposeKernel, NoShared, args, shape.grid, shape.block,
                   stream);
}

int LaunchRefineAccept(const RefineScaleArgs& args, cudaStream_t stream) {
  if (!IsServableScales(args)) return kCudaInvalidValue;
  const LaunchShape shape = ShapeOfScales(args);
  return QS_LAUNCH(AcceptKernel, NoShared, args, shape.grid, shape.block,
                   stream);
}

}  // namespace qs::cuda

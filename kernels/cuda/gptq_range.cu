// The grid of one group of a row: min-max, or the least error over a list of
// shrunken ranges. Definition: kernels/reference/gptq_solve_reference.cc, whose
// bytes these give (kMse: where powf gives the same; CUDA's may be off by two
// units in the last place, which shows where two ranges are nearly as good).
//
// A warp has a group. Its lanes have the ranges of the list, and each goes
// through all the weights, from shared memory, in the definition's order of
// sums.
// Tested by tests/kernels/gptq_cuda_test.cc.
#include <cmath>
#include <type_traits>

#include "kernels/affine_math.h"
#include "kernels/cuda/affine_device.h"
#include "kernels/cuda/gptq_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {
namespace {

constexpr int kWarps = kMaxBlockThreads / kWarpSize;
constexpr int kStaged = 128;  // values of a group in shared memory at once
constexpr int kParts = 16;    // sums of a weighted error

struct RangeShared {
  alignas(16) float values[kWarps][kStaged];
  alignas(16) float curvature[kWarps][kStaged];
};

struct Grid {
  float scale = 0;
  float zero_point = 0;
};

template <class T, GptqRange kRangeValue>
struct StaticParams {
  using Element = T;
  static constexpr GptqRange kRange = kRangeValue;
  SolveRangeArgs args;
};
template <GptqRange kRangeValue>
struct DynamicParams {
  static constexpr GptqRange kRange = kRangeValue;
  SolveRangeArgs args;
};
struct GivenParams {
  SolveRangeArgs args;
};

QS_KERNEL float Least(float a, float b) { return a < b ? a : b; }
QS_KERNEL float Greatest(float a, float b) { return a > b ? a : b; }
QS_KERNEL float MaxCode(const GptqGrid& grid) {
  return static_cast<float>((1 << grid.bits) - 1);
}

QS_KERNEL float StoredScale(const GptqGrid& grid, float scale) {
  const bool f16 = grid.scale_dtype == DType::kF16;
  const float least =
      grid.min_scale > 0 ? grid.min_scale : (f16 ? 0x1p-14f : 0x1p-126f);
  const float greatest =
      f16 ? 65504.0f
          : (grid.scale_dtype == DType::kBF16 ? 0x1.fep127f
                                              : 0x1.fffffep127f);
  return affine::Clamp(affine::RoundTo(grid.scale_dtype, scale), least,
                       greatest);
}

// `shift` is added to the zero point of an asymmetric grid.
QS_KERNEL Grid MakeGrid(const GptqGrid& grid, float low, float high,
                        float shift) {
  const float max_code = MaxCode(grid);
  const float scale = (high - low) / max_code;
  const float zero = affine::Clamp(rintf(-low / scale) + shift, 0.0f, max_code);
  return {StoredScale(grid, scale),
          grid.symmetric ? (max_code + 1) / 2 : zero};
}

// The range from the extremes of the weights and 0.
QS_KERNEL void Stretch(const SolveRangeArgs& a, float* low, float* high) {
  if (a.grid.symmetric) {
    const bool both = *low < 0 || a.range == GptqRange::kCurvature;
    *high = Greatest(-*low, *high);
    if (both) *low = -*high;
  }
  if (*low == 0 && *high == 0) {
    *low = -1;
    *high = 1;
  }
}

// Two candidates a range where the zero point of four codes is also tried on
// the other side.
QS_KERNEL bool TriesShift(const GptqGrid& grid) {
  return !grid.symmetric && grid.bits == 2;
}

QS_KERNEL Grid Candidate(const GptqGrid& grid, int index, float low,
                         float high) {
  const bool both = TriesShift(grid);
  const int i = both ? index / 2 : index;
  const auto part = static_cast<float>(1 - i / 100.0);
  const float l = part * low;
  const float h = part * high;
  float shift = 0;
  if (both && index % 2 == 1) {
    const float exact = -l / ((h - l) / MaxCode(grid));
    shift = exact > rintf(exact) ? 1.0f : -1.0f;
  }
  return MakeGrid(grid, l, h, shift);
}

// A candidate's grid, with its division prepared: a whole group is divided by
// each of 80 scales.
class Coder {
 public:
  QS_KERNEL Coder(const Grid& grid, float max_code)
      : grid_(grid), divide_(grid.scale), max_code_(max_code) {}

  QS_KERNEL float Decoded(float w) const {
    const float code =
        affine::Clamp(rintf(divide_(w)) + grid_.zero_point, 0.0f, max_code_);
    return grid_.scale * (code - grid_.zero_point);
  }

 private:
  const Grid grid_;
  const Divider divide_;
  const float max_code_;
};

// Calls add(number in the chunk, value, curvature) for `count` values of the
// warp's group, staged kStaged at a time; what is beyond the end of a whole
// sixteen is 0. By all lanes of the warp.
template <class Thread, class Source, class Add>
QS_KERNEL void ForStaged(Thread& t, RangeShared& shared, const Source& source,
                         int64_t count, const Add& add) {
  const int lane = t.ThreadIndex() % kWarpSize;
  float* const values = shared.values[t.ThreadIndex() / kWarpSize];
  float* const curvature = shared.curvature[t.ThreadIndex() / kWarpSize];
  for (int64_t first = 0; first < count; first += kStaged) {
    t.WarpBarrier();
    for (int i = lane; i < kStaged; i += kWarpSize) {
      const bool there = first + i < count;
      values[i] = there ? source.At(first + i) : 0.0f;
      curvature[i] = there ? source.CurvatureAt(first + i) : 0.0f;
    }
    t.WarpBarrier();
    const int64_t left = count - first;
    add(values, curvature, static_cast<int>(left < kStaged ? left : kStaged));
  }
}

template <class Thread, class Source>
QS_KERNEL float PowerError(Thread& t, RangeShared& shared,
                           const Source& source, int64_t count, float norm,
                           const Coder& coder) {
  float sum = 0;
  ForStaged(t, shared, source, count,
            [&](const float* values, const float*, int n) {
              for (int i = 0; i < n; ++i) {
                const float d = coder.Decoded(values[i]) - values[i];
                sum += powf(fabsf(d), norm);
              }
            });
  return sum;
}

template <class Thread, class Source>
QS_KERNEL float WeightedError(Thread& t, RangeShared& shared,
                              const Source& source, int64_t count,
                              const Coder& coder) {
  float sums[kParts] = {};
  ForStaged(t, shared, source, count,
            [&](const float* values, const float* curvature, int n) {
              for (int i = 0; i < n; i += kParts) {
                QS_UNROLL
                for (int j = 0; j < kParts; ++j) {
                  const float w = values[i + j];
                  const float d = w - coder.Decoded(w);
                  sums[j] += d * d * curvature[i + j];
                }
              }
            });
  QS_UNROLL
  for (int j = 0; j < 8; ++j) sums[j] += sums[j + 8];
  QS_UNROLL
  for (int j = 0; j < 4; ++j) sums[j] += sums[j + 4];
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

struct Best {
  float error = INFINITY;
  int index = 1 << 30;
  Grid grid;
};

// The first of the least error over all lanes.
template <class Thread>
QS_KERNEL Grid LeastOverLanes(Thread& t, Best best) {
  QS_UNROLL
  for (int mask = 1; mask < kWarpSize; mask *= 2) {
    Best other;
    other.error = t.ShuffleXor(best.error, mask);
    other.index = t.ShuffleXor(best.index, mask);
    other.grid.scale = t.ShuffleXor(best.grid.scale, mask);
    other.grid.zero_point = t.ShuffleXor(best.grid.zero_point, mask);
    if (other.error < best.error ||
        (other.error == best.error && other.index < best.index)) {
      best = other;
    }
  }
  return best.grid;
}

template <GptqRange kRange, class Thread, class Source>
QS_KERNEL Grid Search(Thread& t, RangeShared& shared, const SolveRangeArgs& a,
                      const Source& source, int64_t count, float low,
                      float high) {
  constexpr bool kMse = kRange == GptqRange::kMse;
  constexpr int kRanges = kMse ? gptq::kMseRanges : gptq::kCurvatureRanges;
  const int candidates = TriesShift(a.grid) ? 2 * kRanges : kRanges;
  Best best;
  for (int first = 0; first < candidates; first += kWarpSize) {
    const int index = first + t.ThreadIndex() % kWarpSize;
    const Grid grid =
        Candidate(a.grid, index < candidates ? index : 0, low, high);
    const Coder coder(grid, MaxCode(a.grid));
    float error;
    if constexpr (kMse) {
      error = PowerError(t, shared, source, count, a.norm, coder);
    } else {
      error = WeightedError(t, shared, source, count, coder);
    }
    if (index < candidates && error < best.error) best = {error, index, grid};
  }
  return LeastOverLanes(t, best);
}

template <GptqRange kRange, class Thread, class Source>
QS_KERNEL Grid FindGrid(Thread& t, RangeShared& shared, const SolveRangeArgs& a,
                        const Source& source, int64_t count) {
  float low = 0, high = 0;
  for (int64_t i = t.ThreadIndex() % kWarpSize; i < count; i += kWarpSize) {
    const float w = source.At(i);
    low = Least(low, w);
    high = Greatest(high, w);
  }
  QS_UNROLL
  for (int mask = 1; mask < kWarpSize; mask *= 2) {
    low = Least(low, t.ShuffleXor(low, mask));
    high = Greatest(high, t.ShuffleXor(high, mask));
  }
  Stretch(a, &low, &high);
  if constexpr (kRange == GptqRange::kMinMax) {
    return MakeGrid(a.grid, low, high, 0);
  } else {
    return Search<kRange>(t, shared, a, source, count, low, high);
  }
}

QS_KERNEL int64_t TileAt(int64_t cols, int64_t row, int64_t position) {
  return (row / kSolveTile * cols + position) * kSolveTile + row % kSolveTile;
}

template <class Thread>
QS_KERNEL void KeepGrid(const Thread& t, const SolveRangeArgs& a, int64_t row,
                        int64_t group, const Grid& grid) {
  const int64_t padded =
      (a.weight.rows + kSolveTile - 1) / kSolveTile * kSolveTile;
  const int64_t at = TileAt(a.groups, row, group);
  t.Global(a.grids.scales, padded * a.groups).Set(at, grid.scale);
  t.Global(a.grids.zero_points, padded * a.groups).Set(at, grid.zero_point);
}

// The scale is one of its dtype already.
template <class Thread>
QS_KERNEL void StoreGrid(const Thread& t, const SolveRangeArgs& a, int64_t row,
                         int64_t group, const Grid& grid) {
  KeepGrid(t, a, row, group, grid);
  const int64_t count = a.weight.rows * a.groups;
  const int64_t at = row * a.groups + group;
  if (a.grid.scale_dtype == DType::kF32) {
    t.Global(static_cast<float*>(a.scales), count).Set(at, grid.scale);
  } else if (a.grid.scale_dtype == DType::kF16) {
    F16 scale;
    Narrow(grid.scale, &scale);
    t.Global(static_cast<F16*>(a.scales), count).Set(at, scale);
  } else {
    BF16 scale;
    Narrow(grid.scale, &scale);
    t.Global(static_cast<BF16*>(a.scales), count).Set(at, scale);
  }
  if (a.grid.symmetric) return;
  t.Global(a.zero_points, count)
      .Set(at, static_cast<uint8_t>(static_cast<int>(grid.zero_point)));
}

template <class Thread, class T>
struct StoredValues {
  const Thread& t;
  const SolveRangeArgs& a;
  int64_t row;
  int64_t first;  // column

  QS_KERNEL float At(int64_t i) const {
    const int64_t cols = a.weight.cols;
    if (a.zeroed != nullptr &&
        t.Global(a.zeroed, cols).Get(first + i) != 0) {
      return 0.0f;
    }
    const auto weight =
        t.Global(static_cast<const T*>(a.weight.data), a.weight.rows * cols);
    return Widen(weight.Get(row * cols + first + i));
  }
  QS_KERNEL float CurvatureAt(int64_t i) const {
    return a.curvature == nullptr
               ? 0.0f
               : t.Global(a.curvature, a.weight.cols).Get(first + i);
  }
};

template <class Thread>
struct CompensatedValues {
  const Thread& t;
  const SolveRangeArgs& a;
  int64_t row;
  int64_t first;  // position

  QS_KERNEL float At(int64_t i) const {
    const int64_t padded =
        (a.weight.rows + kSolveTile - 1) / kSolveTile * kSolveTile;
    const float w = t.Global(a.wd, padded * a.weight.cols)
                        .Get(TileAt(a.weight.cols, row, first + i));
    if (a.x == nullptr) return w;
    return w - t.Global(a.x, padded * a.window)
                   .Get(TileAt(a.window, row, first + i - a.window_begin));
  }
  QS_KERNEL float CurvatureAt(int64_t) const { return 0.0f; }
};

template <class Thread, class Params>
QS_KERNEL void StaticKernel(Thread& t, RangeShared& shared,
                            const Params& params) {
  using T = typename Params::Element;
  const SolveRangeArgs& a = params.args;
  const int64_t units = a.weight.rows * a.groups;
  const int64_t step = t.GridSize() * (t.BlockSize() / kWarpSize);
  for (int64_t unit = t.BlockIndex() * (t.BlockSize() / kWarpSize) +
                      t.ThreadIndex() / kWarpSize;
       unit < units; unit += step) {
    const int64_t row = unit / a.groups;
    const int64_t first = unit % a.groups * a.grid.group_size;
    const int64_t left = a.weight.cols - first;
    const StoredValues<Thread, T> values = {t, a, row, first};
    const Grid grid = FindGrid<Params::kRange>(
        t, shared, a, values,
        left < a.grid.group_size ? left : a.grid.group_size);
    if (t.ThreadIndex() % kWarpSize == 0) {
      StoreGrid(t, a, row, unit % a.groups, grid);
    }
  }
}

// The warps of a block have neighbouring rows.
template <class Thread, class Params>
QS_KERNEL void DynamicKernel(Thread& t, RangeShared& shared,
                             const Params& params) {
  const SolveRangeArgs& a = params.args;
  const int64_t size = a.grid.group_size;
  const int64_t units =
      (a.end - a.first_run + size - 1) / size * a.weight.rows;
  const int64_t step = t.GridSize() * (t.BlockSize() / kWarpSize);
  for (int64_t unit = t.BlockIndex() * (t.BlockSize() / kWarpSize) +
                      t.ThreadIndex() / kWarpSize;
       unit < units; unit += step) {
    const int64_t row = unit % a.weight.rows;
    const int64_t first = a.first_run + unit / a.weight.rows * size;
    const int64_t left = a.weight.cols - first;
    const CompensatedValues<Thread> values = {t, a, row, first};
    const Grid grid = FindGrid<Params::kRange>(t, shared, a, values,
                                               left < size ? left : size);
    if (t.ThreadIndex() % kWarpSize == 0) {
      StoreGrid(t, a, row, t.Global(a.group_at, a.weight.cols).Get(first),
                grid);
    }
  }
}

template <class Thread>
QS_KERNEL float ScaleAt(const Thread& t, const SolveRangeArgs& a, int64_t at) {
  const int64_t count = a.weight.rows * a.groups;
  if (a.grid.scale_dtype == DType::kF32) {
    return t.Global(static_cast<const float*>(a.scales), count).Get(at);
  }
  if (a.grid.scale_dtype == DType::kF16) {
    return Widen(t.Global(static_cast<const F16*>(a.scales), count).Get(at));
  }
  return Widen(t.Global(static_cast<const BF16*>(a.scales), count).Get(at));
}

template <class Thread>
QS_KERNEL void GivenKernel(Thread& t, NoShared&, const GivenParams& params) {
  const SolveRangeArgs& a = params.args;
  const int64_t count = a.weight.rows * a.groups;
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex(); i < count;
       i += stride) {
    const float zero =
        a.grid.symmetric
            ? static_cast<float>(1 << (a.grid.bits - 1))
            : static_cast<float>(t.Global(a.zero_points, count).Get(i));
    KeepGrid(t, a, i / a.groups, i % a.groups, {ScaleAt(t, a, i), zero});
  }
}

QS_DEFINE_LARGE_ENTRY(StaticKernel, RangeShared)
QS_DEFINE_LARGE_ENTRY(DynamicKernel, RangeShared)
QS_DEFINE_ENTRY(GivenKernel, NoShared)

bool IsServableRange(const SolveRangeArgs& a) {
  return a.weight.rows >= 1 && a.weight.cols >= 1 && a.groups >= 1 &&
         a.grid.group_size >= 1 && a.grid.bits >= 2 && a.grid.bits <= 8 &&
         a.scales != nullptr && IsPointer(a.grids.scales) &&
         IsPointer(a.grids.zero_points) &&
         (a.grid.symmetric || a.zero_points != nullptr);
}

// Calls `body` with the range as a constant.
template <class Body>
int WithRange(GptqRange range, const Body& body) {
  switch (range) {
    case GptqRange::kMinMax:
      return body(
          std::integral_constant<GptqRange, GptqRange::kMinMax>());
    case GptqRange::kMse:
      return body(std::integral_constant<GptqRange, GptqRange::kMse>());
    case GptqRange::kCurvature:
      return body(
          std::integral_constant<GptqRange, GptqRange::kCurvature>());
    default:
      return kCudaInvalidValue;
  }
}

}  // namespace

int LaunchStaticRanges(const SolveRangeArgs& args, cudaStream_t stream) {
  if (!IsServableRange(args) || args.weight.data == nullptr ||
      (args.range == GptqRange::kCurvature && args.curvature == nullptr)) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape =
      ShapeFor(args.weight.rows * args.groups * kWarpSize);
  return WithType(args.weight.dtype, [&](auto type) {
    return WithRange(args.range, [&](auto range) {
      const StaticParams<decltype(type), range()> params = {args};
      return QS_LAUNCH(StaticKernel, RangeShared, params, shape.grid,
                       shape.block, stream);
    });
  });
}

int LaunchDynamicRanges(const SolveRangeArgs& args, cudaStream_t stream) {
  if (!IsServableRange(args) || !IsPointer(args.wd) ||
      !IsPointer(args.group_at) || args.first_run < 0 ||
      args.end > args.weight.cols) {
    return kCudaInvalidValue;
  }
  if (args.first_run >= args.end) return 0;
  const int64_t runs =
      CeilDiv(args.end - args.first_run, args.grid.group_size);
  const LaunchShape shape = ShapeFor(runs * args.weight.rows * kWarpSize);
  return WithRange(args.range, [&](auto range) {
    if constexpr (range() == GptqRange::kCurvature) {
      return kCudaInvalidValue;
    } else {
      const DynamicParams<range()> params = {args};
      return QS_LAUNCH(DynamicKernel, RangeShared, params, shape.grid,
                       shape.block, stream);
    }
  });
}

int LaunchGivenRanges(const SolveRangeArgs& args, cudaStream_t stream) {
  if (!IsServableRange(args)) return kCudaInvalidValue;
  const LaunchShape shape = ShapeFor(args.weight.rows * args.groups);
  return QS_LAUNCH(GivenKernel, NoShared, GivenParams{args}, shape.grid,
                   shape.block, stream);
}

}  // namespace qs::cuda

// The affine encoder's range search (BEST). Equations: kernels/affine_math.h;
// definition: kernels/reference/affine_reference.cc, whose bytes this gives
// for finite weights.
//
// Half a warp owns a group of any size: its sixteen lanes are the sixteen
// partial sums of the definition, and read the group from the cache for each
// pass of the search: range, first round, second round, errors, codes.
// Tested by tests/kernels/affine_cuda_test.cc.
#include "kernels/cuda/affine_device.h"
#include "kernels/cuda/affine_launch.h"
#include "kernels/cuda/cuda_ops.h"

namespace qs::cuda {
namespace {

// What affine::SearchGrid asks of a group. All lanes of the warp call it
// together, each half with a group of its own.
template <class Thread, class T>
class LaneScorer {
 public:
  QS_KERNEL LaneScorer(Thread& t, const affine::Spec& spec,
                       const GlobalMemory<const T>& weight, int64_t begin,
                       int64_t end)
      : t_(t),
        spec_(spec),
        weight_(weight),
        begin_(begin + t.ThreadIndex() % kHalfWarp),
        end_(end) {}

  template <int kCount>
  QS_KERNEL void Fit(const affine::Candidates<kCount>& candidates,
                     float (&fitted)[kCount], float (&gain)[kCount]) const {
    float reciprocal[kCount];
    float cross[kCount];
    float square[kCount];
    QS_UNROLL
    for (int k = 0; k < kCount; ++k) {
      reciprocal[k] = 1.0f / candidates.step[k];
      cross[k] = square[k] = 0.0f;
    }
    QS_NO_UNROLL
    for (int64_t i = begin_; i < end_; i += kHalfWarp) {
      const float w = Widen(weight_.Get(i));
      QS_UNROLL
      for (int k = 0; k < kCount; ++k) {
        const float q = affine::RoundEven(affine::Clamp(
            w * reciprocal[k], candidates.low[k], candidates.high[k]));
        cross[k] += w * q;
        square[k] += q * q;
      }
    }
    QS_UNROLL
    for (int k = 0; k < kCount; ++k) {
      cross[k] = FoldHalfWarp(t_, cross[k]);
      fitted[k] = cross[k] / FoldHalfWarp(t_, square[k]);
      gain[k] = cross[k] * fitted[k];
    }
  }

  QS_KERNEL void Errors(const affine::Grid& min_max,
                        const affine::Grid& searched,
                        float (&errors)[2]) const {
    const GridCoder<T> grid_coder(spec_, min_max);
    const SearchCoder search_coder(spec_, searched);
    errors[0] = errors[1] = 0.0f;
    QS_NO_UNROLL
    for (int64_t i = begin_; i < end_; i += kHalfWarp) {
      const float w = Widen(weight_.Get(i));
      errors[0] += Squared(w, grid_coder.Code(w), min_max);
      errors[1] += Squared(w, search_coder.Code(w), searched);
    }
    errors[0] = FoldHalfWarp(t_, errors[0]);
    errors[1] = FoldHalfWarp(t_, errors[1]);
  }

 private:
  QS_KERNEL static float Squared(float w, uint32_t code,
                                 const affine::Grid& grid) {
    const float steps = static_cast<float>(code) - grid.zero_point;
    const float d = w - Rounded<T>(steps * grid.scale);
    return d * d;
  }

  Thread& t_;
  const affine::Spec& spec_;
  const GlobalMemory<const T>& weight_;
  const int64_t begin_;
  const int64_t end_;
};

template <class Thread>
QS_KERNEL affine::Range RangeOverHalf(Thread& t, affine::Range range) {
  BoundsOverLanes(t, kHalfWarp, &range.low, &range.high);
  int finite = range.finite ? 1 : 0;
  QS_UNROLL
  for (int mask = 1; mask < kHalfWarp; mask *= 2) {
    finite &= t.ShuffleXor(finite, mask);
  }
  range.finite = finite != 0;
  return range;
}

template <class Thread, class Params>
QS_KERNEL void AffineSearchKernel(Thread& t, NoShared&, const Params& a) {
  using T = typename Params::Element;
  const auto memory = MemoryOf(t, a);
  const affine::Spec spec = {kDTypeOf<T>, a.bits, a.symmetric};
  const int lane = t.ThreadIndex() % kHalfWarp;
  const int halves = t.BlockSize() / kHalfWarp;
  const int64_t groups = a.count / a.group_size;
  for (int64_t base = t.BlockIndex() * halves; base < groups;
       base += t.GridSize() * halves) {
    const int64_t group = base + t.ThreadIndex() / kHalfWarp;
    const int64_t begin = group * a.group_size;
    const int64_t end = group < groups ? begin + a.group_size : begin;
    affine::Range range;
    QS_NO_UNROLL
    for (int64_t i = begin + lane; i < end; i += kHalfWarp) {
      AddToRange(memory, i, &range);
    }
    range = RangeOverHalf(t, range);
    affine::Grid grid = affine::MinMaxGrid(spec, range);
    // A group without a search goes along with no elements.
    const bool search = affine::Searchable(range);
    const affine::Range searched =
        search ? range : affine::Range{-1.0f, 1.0f, true};
    const LaneScorer<Thread, T> scorer(t, spec, memory.weight, begin,
                                       search ? end : begin);
    const affine::Grid found = affine::SearchGrid(spec, a.shrink, searched,
                                                  grid, a.group_size, scorer);
    if (group >= groups) continue;
    if (search) grid = found;
    if (lane == 0) StoreGrid(a, memory, group, grid);
    const GridCoder<T> grid_coder(spec, grid);
    const SearchCoder search_coder(spec, grid);
    QS_NO_UNROLL
    for (int64_t i = begin + lane; i < end; i += kHalfWarp) {
      const float w = Widen(memory.weight.Get(i));
      memory.codes.Set(
          i, grid.searched ? search_coder.Code(w) : grid_coder.Code(w));
    }
  }
}

QS_DEFINE_ENTRY(AffineSearchKernel, NoShared)

}  // namespace

int LaunchAffineSearch(const AffineEncodeArgs& args, cudaStream_t stream) {
  return WithType(args.weight.dtype, [&](auto type) {
    const auto params = MakeAffineParams<decltype(type)>(args);
    const LaunchShape shape =
        ShapeFor(params.count / params.group_size * kHalfWarp);
    return QS_LAUNCH(AffineSearchKernel, NoShared, params, shape.grid,
                     shape.block, stream);
  });
}

}  // namespace qs::cuda

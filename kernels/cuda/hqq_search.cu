// HQQ's BEST: scale and zero of each group by themselves. Equations and search:
// kernels/hqq_math.h; definition: kernels/reference/hqq_reference.cc, whose
// bytes this gives.
//
// A warp owns a group of any size and axis and goes through the search as one.
// Each half is the sixteen partial sums of the definition; of four lines, a
// half scores two. hqq's own steps add the columns of 32, a lane each.
// Elements are read from the cache for each pass.
// Tested by tests/kernels/hqq_cuda_test.cc.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/hqq_device.h"
#include "kernels/cuda/hqq_launch.h"

namespace qs::cuda {
namespace {

struct SearchParams {
  HqqParams hqq;
  hqq::ShrinkGrid shrink;  // of the bits
  hqq::StepList steps;     // of the bits
};

// hqq::ContiguousSum by a warp, which all lanes get.
template <class Thread, class Get>
QS_KERNEL float WarpSum(Thread& t, int64_t count, const Get& get) {
  constexpr int64_t kLanes = hqq::kSumLanes;
  if (count < kColumnCount) return hqq::ContiguousSum(count, get);
  const int lane = t.ThreadIndex() % kWarpSize;
  const int64_t rows = count / kColumnCount;
  const int64_t vectors = count / kLanes;
  float column = hqq::CascadeSum(
      rows, [&](int64_t i) { return get(i * kColumnCount + lane); });
  if (lane < kLanes) {
    for (int64_t i = 4 * rows; i < vectors; ++i) {
      column += get(i * kLanes + lane);
    }
  }
  float four = column + t.ShuffleXor(column, 8);
  four += t.ShuffleXor(column, 16);
  four += t.ShuffleXor(column, 24);
  float sum = 0.0f;
  for (int64_t i = vectors * kLanes; i < count; ++i) sum += get(i);
  QS_UNROLL
  for (int l = 0; l < kLanes; ++l) sum += t.ShuffleFrom(four, l);
  return sum;
}

// What hqq_math.h asks of a group. All lanes of the warp together.
template <class Thread, class T>
class WarpScorer {
 public:
  QS_KERNEL WarpScorer(Thread& t, const HqqParams& a, int64_t group)
      : t_(t),
        a_(a),
        weight_(t.Global(static_cast<const T*>(a.weight), a.count)),
        group_(group),
        half_(t.ThreadIndex() % kWarpSize / kHalfWarp),
        lane_(t.ThreadIndex() % kHalfWarp),
        max_code_(a.spec().max_code()) {
    FindBounds();
    unit_ = hqq::ErrorUnit(bounds_.width());
    inverse_width_ = 1.0f / bounds_.width();
    sum_x_ = Sum([&](float w) { return X(w); });
  }

  QS_KERNEL const hqq::Bounds& bounds() const { return bounds_; }

  QS_KERNEL float NextZero(float inverse, float zero) const {
    const HqqGrid grid = {inverse, zero, max_code_};
    const auto residual = [&](int64_t k) { return grid.Residual(At(k)); };
    const hqq::SumOrder order = hqq::GroupSumOrder(a_.axis, group_, a_.groups);
    const float sum = order == hqq::SumOrder::kContiguous
                          ? WarpSum(t_, a_.group_size, residual)
                          : hqq::GroupSum(order, a_.group_size, residual);
    return sum / static_cast<float>(a_.group_size);
  }

  QS_KERNEL float IterateError(float inverse, float zero, float scale,
                               float stored) const {
    const HqqGrid grid = {inverse, zero, max_code_};
    return Sum([&](float w) {
      return Squared(w - DecodedOf(grid.Code(w), scale, stored));
    });
  }

  // Each half takes two of the four lines.
  QS_KERNEL void FitLines(const hqq::Lines& lines,
                          hqq::Fit (&fits)[hqq::kLineBatch]) const {
    constexpr int kOwn = hqq::kLineBatch / 2;
    float slope[kOwn], offset[kOwn];
    QS_UNROLL
    for (int k = 0; k < kOwn; ++k) {
      slope[k] = half_ == 0 ? lines.slope[k] : lines.slope[k + kOwn];
      offset[k] = half_ == 0 ? lines.offset[k] : lines.offset[k + kOwn];
    }
    hqq::Fit own[kOwn];
    Fits(slope, offset, own);
    QS_UNROLL
    for (int k = 0; k < kOwn; ++k) {
      const hqq::Fit other = {t_.ShuffleXor(own[k].gain, kHalfWarp),
                              t_.ShuffleXor(own[k].step, kHalfWarp),
                              t_.ShuffleXor(own[k].base, kHalfWarp)};
      fits[k] = half_ == 0 ? own[k] : other;
      fits[k + kOwn] = half_ == 0 ? other : own[k];
    }
  }

  QS_KERNEL hqq::Fit FitLine(float slope, float offset) const {
    const float slopes[1] = {slope};
    const float offsets[1] = {offset};
    hqq::Fit fit[1];
    Fits(slopes, offsets, fit);
    return fit[0];
  }

  QS_KERNEL float StoredError(float scale, float zero) const {
    return Sum([&](float w) {
      return Squared(w -
                     DecodedOf(StoredCode(w, 1.0f / scale, zero), scale, zero));
    });
  }

  QS_KERNEL float FittedScale(float scale, float zero) const {
    const float reciprocal = 1.0f / scale;
    float sums[2] = {0.0f, 0.0f};
    QS_NO_UNROLL
    for (int64_t k = lane_; k < a_.group_size; k += kHalfWarp) {
      const float w = At(k);
      const float steps = StoredCode(w, reciprocal, zero) - zero;
      sums[0] += w * unit_ * steps;
      sums[1] += steps * steps;
    }
    const float cross = FoldHalfWarp(t_, sums[0]);
    return cross / FoldHalfWarp(t_, sums[1]) / unit_;
  }

  template <int kCount>
  QS_KERNEL void Fit(const affine::Candidates<kCount>& candidates,
                     float (&fitted)[kCount], float (&gain)[kCount]) const {
    float reciprocal[kCount], cross[kCount], square[kCount];
    QS_UNROLL
    for (int k = 0; k < kCount; ++k) {
      reciprocal[k] = 1.0f / candidates.step[k];
      cross[k] = square[k] = 0.0f;
    }
    QS_NO_UNROLL
    for (int64_t i = lane_; i < a_.group_size; i += kHalfWarp) {
      const float w = At(i);
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

  QS_KERNEL float GridError(const affine::Grid& grid) const {
    const affine::Spec spec = hqq::AffineSpec(a_.spec());
    const SearchCoder search(spec, grid);
    const GridCoder<T> coder(spec, grid);
    return Sum([&](float w) {
      const uint32_t code = grid.searched ? search.Code(w) : coder.Code(w);
      const float steps = static_cast<float>(code) - grid.zero_point;
      return Squared(w - Rounded<T>(steps * grid.scale));
    });
  }

  // Calls store(index, code).
  template <class Code, class Global>
  QS_KERNEL void StoreCodes(const Global& codes, const Code& code) const {
    QS_NO_UNROLL
    for (int64_t k = lane_ + half_ * kHalfWarp; k < a_.group_size;
         k += kWarpSize) {
      codes.Set(a_.Index(group_, k), static_cast<uint8_t>(code(At(k))));
    }
  }

  QS_KERNEL float StoredCode(float w, float reciprocal, float zero) const {
    return affine::RoundEven(
        affine::Clamp(w * reciprocal + zero, 0.0f, max_code_));
  }

 private:
  QS_KERNEL float At(int64_t k) const {
    return Widen(weight_.Get(a_.Index(group_, k)));
  }
  QS_KERNEL float X(float w) const {
    return (w - bounds_.low) * inverse_width_;
  }
  QS_KERNEL float Squared(float d) const { return d * unit_ * (d * unit_); }
  QS_KERNEL float DecodedOf(float code, float scale, float zero) const {
    return affine::RoundTo(a_.stored,
                           affine::RoundTo(a_.stored, code - zero) * scale);
  }

  QS_KERNEL void FindBounds() {
    bounds_ = {INFINITY, -INFINITY};
    QS_NO_UNROLL
    for (int64_t k = lane_ + half_ * kHalfWarp; k < a_.group_size;
         k += kWarpSize) {
      const float w = At(k);
      bounds_.low = w < bounds_.low ? w : bounds_.low;
      bounds_.high = w > bounds_.high ? w : bounds_.high;
      ReportNonFinite(t_, a_, w, a_.Index(group_, k));
    }
    BoundsOverLanes(t_, kWarpSize, &bounds_.low, &bounds_.high);
    bounds_ = {bounds_.low + 0.0f, bounds_.high + 0.0f};
  }

  template <class Term>
  QS_KERNEL float Sum(const Term& term) const {
    float sum = 0.0f;
    QS_NO_UNROLL
    for (int64_t k = lane_; k < a_.group_size; k += kHalfWarp) {
      sum += term(At(k));
    }
    return FoldHalfWarp(t_, sum);
  }

  // This half's lines.
  template <int kCount>
  QS_KERNEL void Fits(const float (&slope)[kCount],
                      const float (&offset)[kCount],
                      hqq::Fit (&fits)[kCount]) const {
    float code_sum[kCount], square[kCount], cross[kCount];
    QS_UNROLL
    for (int l = 0; l < kCount; ++l) {
      code_sum[l] = square[l] = cross[l] = 0.0f;
    }
    QS_NO_UNROLL
    for (int64_t k = lane_; k < a_.group_size; k += kHalfWarp) {
      const float x = X(At(k));
      QS_UNROLL
      for (int l = 0; l < kCount; ++l) {
        const float code = affine::RoundEven(
            affine::Clamp(x * slope[l] + offset[l], 0.0f, max_code_));
        code_sum[l] += code;
        square[l] += code * code;
        cross[l] += x * code;
      }
    }
    QS_UNROLL
    for (int l = 0; l < kCount; ++l) {
      code_sum[l] = FoldHalfWarp(t_, code_sum[l]);
      square[l] = FoldHalfWarp(t_, square[l]);
      cross[l] = FoldHalfWarp(t_, cross[l]);
      fits[l] =
          hqq::FitLine(a_.group_size, sum_x_, code_sum[l], square[l], cross[l]);
    }
  }

  Thread& t_;
  const HqqParams& a_;
  const GlobalMemory<const T> weight_;
  const int64_t group_;
  const int half_;
  const int lane_;
  const float max_code_;
  hqq::Bounds bounds_;
  float unit_ = 1;
  float inverse_width_ = 1;
  float sum_x_ = 0;
};

// Searches a group; returns how many steps of hqq's it took.
template <class Thread, class T>
QS_KERNEL int SearchFloat(Thread& t, const SearchParams& a, int64_t g,
                          const WarpScorer<Thread, T>& scorer) {
  const HqqParams& p = a.hqq;
  int steps = 0;
  const hqq::Choice best =
      hqq::SolveGroup(p.spec(), a.shrink, scorer.bounds(), scorer, &steps);
  if (t.ThreadIndex() % kWarpSize == 0) {
    StoreElement(t, p.scales, p.stored, p.groups, g, best.stored_scale);
    StoreElement(t, p.zeros, p.stored, p.groups, g, best.stored_zero);
  }
  const HqqGrid grid = {best.inverse, best.zero, p.spec().max_code()};
  const float reciprocal = 1.0f / best.stored_scale;
  scorer.StoreCodes(t.Global(p.codes, p.count), [&](float w) {
    return best.iterate ? grid.Code(w)
                        : scorer.StoredCode(w, reciprocal, best.stored_zero);
  });
  return steps;
}

template <class Thread, class T>
QS_KERNEL int SearchInteger(Thread& t, const SearchParams& a, int64_t g,
                            const WarpScorer<Thread, T>& scorer) {
  const HqqParams& p = a.hqq;
  int steps = 0;
  const affine::Grid best = hqq::SolveIntegerGroup(
      p.spec(), a.steps, scorer.bounds(), scorer, &steps);
  if (t.ThreadIndex() % kWarpSize == 0) {
    StoreElement(t, p.scales, p.stored, p.groups, g, best.scale);
    t.Global(p.zero_points, p.groups)
        .Set(g, static_cast<uint8_t>(best.zero_point));
  }
  const SearchCoder search(hqq::AffineSpec(p.spec()), best);
  const GridCoder<T> coder(hqq::AffineSpec(p.spec()), best);
  scorer.StoreCodes(t.Global(p.codes, p.count), [&](float w) {
    return best.searched ? search.Code(w) : coder.Code(w);
  });
  return steps;
}

template <class T, bool kIntegerValue>
struct TypedSearch : SearchParams {
  using Element = T;
  static constexpr bool kInteger = kIntegerValue;
};

template <class Thread, class Params>
QS_KERNEL void HqqSearchKernel(Thread& t, NoShared&, const Params& a) {
  using T = typename Params::Element;
  const int warps = t.BlockSize() / kWarpSize;
  Counter steps = 0;
  for (int64_t g = t.BlockIndex() * warps + t.ThreadIndex() / kWarpSize;
       g < a.hqq.groups; g += t.GridSize() * warps) {
    const WarpScorer<Thread, T> scorer(t, a.hqq, g);
    int own = 0;
    if constexpr (Params::kInteger) {
      own = SearchInteger(t, a, g, scorer);
    } else {
      own = SearchFloat(t, a, g, scorer);
    }
    steps += static_cast<Counter>(own);
  }
  if (t.ThreadIndex() % kWarpSize == 0) AddSteps(t, a.hqq, steps);
}

QS_DEFINE_LARGE_ENTRY(HqqSearchKernel, NoShared)

template <class T, bool kInteger>
int Search(const HqqParams& hqq, cudaStream_t stream) {
  TypedSearch<T, kInteger> a;
  a.hqq = hqq;
  a.shrink = hqq::kShrink[hqq.bits];
  a.steps = hqq::kStepList[hqq.bits];
  const LaunchShape shape = ShapeFor(hqq.groups * kWarpSize);
  return QS_LAUNCH(HqqSearchKernel, NoShared, a, shape.grid, shape.block,
                   stream);
}

}  // namespace

int LaunchHqqSearch(const HqqParams& a, cudaStream_t stream) {
  return WithType(a.dtype, [&](auto type) {
    using T = decltype(type);
    return a.zero_points != nullptr ? Search<T, true>(a, stream)
                                    : Search<T, false>(a, stream);
  });
}

}  // namespace qs::cuda

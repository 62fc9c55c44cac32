// The scorer of nf4::SearchAbsmax for a half warp: the sums of ScalarScorer
// (kernels/nf4_math.h) in the same order. That order has 16 partial sums, so
// that each of 16 lanes has one.
// Tested by tests/kernels/nf4_cuda_test.cc.
#ifndef QS_KERNELS_CUDA_NF4_LANE_SCORER_H_
#define QS_KERNELS_CUDA_NF4_LANE_SCORER_H_

#include <cstdint>

#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {

constexpr int kSearchLanes = 16;

// What an element of each step adds to the sums of the search.
struct SharedTerms {
  nf4::SearchTerms rows[2 * nf4::kSearchSteps + 1][nf4::kCandidates];
};

struct FitShared {
  SharedBins midpoints;
  SharedLevels levels;
  SharedTerms terms;
};
struct SearchShared : FitShared {
  SharedBins table;
};

// By all threads of the block; a barrier follows.
template <class Thread>
QS_KERNEL void FillTerms(Thread& t, const RankTable& midpoints,
                         SharedTerms& shared) {
  for (int row = t.ThreadIndex(); row <= 2 * nf4::kSearchSteps;
       row += t.BlockSize()) {
    QS_UNROLL
    for (int k = 0; k < nf4::kCandidates; ++k) {
      shared.rows[row][k] =
          nf4::MakeSearchTerms(midpoints, row - nf4::kSearchSteps, k);
    }
  }
}

// Of w, read back as T.
template <class T>
QS_KERNEL float SquaredError(float w, float level, float absmax) {
  const float d = w - Rounded<T>(level * absmax);
  return d * d;
}

// Partial16::Fold over the lanes of a half warp, by all lanes of the warp: an
// addition gives both of its lanes the same sum.
template <class Thread, class Sum>
QS_KERNEL Sum FoldLanes(Thread& t, Sum sum) {
  QS_UNROLL
  for (int half = kSearchLanes / 2; half > 0; half /= 2) {
    sum += t.ShuffleXor(sum, half);
  }
  return sum;
}

// How kNone codes a searchable block: BlockScale without what follows from the
// largest magnitude, for the sake of registers.
template <bool kFp4>
struct LaneRule {
  const Ranker<kFp4>& ranker;
  float max_abs;
  bool divide;

  // `factor` is 1 / max_abs. What else Normalize does changes no level: of the
  // subnormals it flushes all are 0, and beyond 1 there is no bound.
  QS_KERNEL int Rank(float w, float factor) const {
    return ranker.Rank(divide ? w / max_abs : w * factor);
  }
};

// For the block of elements `begin` to `end`. All lanes of the warp call it
// together, each half with a block of its own.
template <class Thread, class Weight, bool kFp4>
class LaneScorer {
 public:
  QS_KERNEL LaneScorer(Thread& t, const Weight& weight,
                       const LaneRule<kFp4>& none, const Ranker<kFp4>& ranker,
                       const FitShared& shared, int64_t begin, int64_t end)
      : t_(t),
        weight_(weight),
        none_(none),
        ranker_(ranker),
        levels_(&shared.levels.levels[0][t.ThreadIndex() % kWarpSize]),
        terms_(shared.terms),
        begin_(begin + t.ThreadIndex() % kSearchLanes),
        end_(end) {}

  QS_KERNEL float Ratio(float steps) const {
    nf4::SearchSums sums;
    for (int64_t i = begin_; i < end_; i += kSearchLanes) {
      const int row =
          nf4::SearchStep(Widen(weight_.Get(i)), steps) + nf4::kSearchSteps;
      QS_UNROLL
      for (int k = 0; k < nf4::kCandidates; ++k) {
        const nf4::SearchTerms terms = terms_.rows[row][k];
        sums.cross[k] += terms.cross;
        sums.square[k] += terms.square;
      }
    }
    QS_UNROLL
    for (int k = 0; k < nf4::kCandidates; ++k) {
      sums.cross[k] = FoldLanes(t_, sums.cross[k]);
      sums.square[k] = FoldLanes(t_, sums.square[k]);
    }
    return nf4::ChooseRatio(sums);
  }

  QS_KERNEL float Fit(float absmax) const {
    const float reciprocal = 1.0f / absmax;
    float cross = 0.0f;
    float square = 0.0f;
    for (int64_t i = begin_; i < end_; i += kSearchLanes) {
      const float w = Widen(weight_.Get(i));
      const float level = Level(Rank(w, reciprocal));
      cross += w * level;
      square += level * level;
    }
    cross = FoldLanes(t_, cross);
    return cross / FoldLanes(t_, square);
  }

  QS_KERNEL void Errors(float absmax, float (&errors)[2]) const {
    const float none_factor = 1.0f / none_.max_abs;
    const float reciprocal = 1.0f / absmax;
    errors[0] = errors[1] = 0.0f;
    QS_NO_UNROLL  // within 64 registers
        for (int64_t i = begin_; i < end_; i += kSearchLanes) {
      const auto element = weight_.Get(i);
      const float w = Widen(element);
      errors[0] += Squared(element, none_.Rank(w, none_factor), none_.max_abs);
      errors[1] += Squared(element, Rank(w, reciprocal), absmax);
    }
    errors[0] = FoldLanes(t_, errors[0]);
    errors[1] = FoldLanes(t_, errors[1]);
  }

 private:
  QS_KERNEL int Rank(float w, float reciprocal) const {
    return ranker_.Rank(ClampUnit(w * reciprocal));
  }
  QS_KERNEL float Level(int rank) const { return levels_[rank * kWarpSize]; }

  template <class T>
  QS_KERNEL float Squared(T element, int rank, float absmax) const {
    return SquaredError<T>(Widen(element), Level(rank), absmax);
  }

  Thread& t_;
  const Weight& weight_;
  const LaneRule<kFp4>& none_;
  const Ranker<kFp4>& ranker_;
  const float* levels_;
  const SharedTerms& terms_;
  const int64_t begin_;
  const int64_t end_;
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_NF4_LANE_SCORER_H_

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

// For the block of elements `begin` to `end`. All lanes of the warp call it
// together, each half with a block of its own.
template <class Thread, class Weight, bool kFp4>
class LaneScorer {
 public:
  QS_KERNEL LaneScorer(Thread& t, const Weight& weight,
                       const Ranker<kFp4>& ranker, const SharedLevels& levels,
                       const SharedTerms& terms, int64_t begin, int64_t end)
      : t_(t),
        weight_(weight),
        ranker_(ranker),
        levels_(&levels.levels[0][t.ThreadIndex() % kWarpSize]),
        terms_(terms),
        begin_(begin + t.ThreadIndex() % kSearchLanes),
        end_(end) {}

  QS_KERNEL float Level(float w, float reciprocal) const {
    return levels_[ranker_.Rank(ClampUnit(w * reciprocal)) * kWarpSize];
  }

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
      sums.cross[k] = Fold(sums.cross[k]);
      sums.square[k] = Fold(sums.square[k]);
    }
    return nf4::ChooseRatio(sums);
  }

  QS_KERNEL float Fit(float absmax) const {
    const float reciprocal = 1.0f / absmax;
    float cross = 0.0f;
    float square = 0.0f;
    for (int64_t i = begin_; i < end_; i += kSearchLanes) {
      const float w = Widen(weight_.Get(i));
      const float level = Level(w, reciprocal);
      cross += w * level;
      square += level * level;
    }
    cross = Fold(cross);
    return cross / Fold(square);
  }

  QS_KERNEL void Errors(const float (&absmax)[2], float (&errors)[2]) const {
    const float reciprocal[2] = {1.0f / absmax[0], 1.0f / absmax[1]};
    errors[0] = errors[1] = 0.0f;
    for (int64_t i = begin_; i < end_; i += kSearchLanes) {
      const float w = Widen(weight_.Get(i));
      QS_UNROLL
      for (int k = 0; k < 2; ++k) {
        const float d = w - Level(w, reciprocal[k]) * absmax[k];
        errors[k] += d * d;
      }
    }
    errors[0] = Fold(errors[0]);
    errors[1] = Fold(errors[1]);
  }

 private:
  // Partial16::Fold: an addition gives both of its lanes the same sum.
  template <class Sum>
  QS_KERNEL Sum Fold(Sum sum) const {
    QS_UNROLL
    for (int half = kSearchLanes / 2; half > 0; half /= 2) {
      sum += t_.ShuffleXor(sum, half);
    }
    return sum;
  }

  Thread& t_;
  const Weight& weight_;
  const Ranker<kFp4>& ranker_;
  const float* levels_;
  const SharedTerms& terms_;
  const int64_t begin_;
  const int64_t end_;
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_NF4_LANE_SCORER_H_

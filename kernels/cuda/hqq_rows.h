// The rows that a warp of hqq's solver holds, and how it steps their groups.
//
// Quotients are products (QuotientOf). A step in which an error is beyond what
// needs no power, or in which quotients would not be exact, is done again by
// hqq's own formulas.
// Tested by tests/kernels/hqq_cuda_test.cc.
#ifndef QS_KERNELS_CUDA_HQQ_ROWS_H_
#define QS_KERNELS_CUDA_HQQ_ROWS_H_

#include <cstdint>

#include "kernels/cuda/hqq_device.h"
#include "kernels/cuda/hqq_launch.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {

constexpr int kRows = 16;  // that a warp holds
constexpr int kWarps = kMaxBlockThreads / kWarpSize;
// Of the sums of a group's columns: no bank conflicts where four lanes times
// eight read.
constexpr int kSumStride = 40;

struct alignas(16) GroupGrid {
  float zero;
  float inverse;
  float reciprocal;  // of the inverse
  float exact;       // 0: its quotients are not
};

template <int kGroups>
struct SolveShared {
  float errors[kMostKept][kWarps][kWarpSize];
  float level[kMostKept][kWarpSize];  // sums of whole chunks
  float sums[kWarps][kGroups][kSumStride];
  GroupGrid grids[kWarps][kGroups];
};

QS_KERNEL GroupGrid MakeGroupGrid(float zero, float inverse, float reciprocal) {
  const float part = fabsf(zero - rintf(zero));
  const bool exact = inverse >= 0x1p-40f && inverse <= 0x1p40f &&
                     fabsf(zero) <= 0x1p40f &&
                     (part == 0.0f || part >= 0x1p-60f);
  return {zero, inverse, reciprocal, exact ? 1.0f : 0.0f};
}

// The rows that a warp holds, and how it steps them. All lanes together.
template <class Thread, class Params>
class RowSolver {
 public:
  static constexpr int kGroupRows = Params::kGroupRows;
  static constexpr int kGroups = Params::kGroups;

  QS_KERNEL RowSolver(Thread& t, const Params& a, SolveShared<kGroups>& shared)
      : t_(t),
        a_(a.hqq),
        weight_(t, a.hqq.weight, a.hqq.dtype, a.hqq.count),
        shared_(shared),
        lane_(t.ThreadIndex() % kWarpSize),
        warp_(t.ThreadIndex() / kWarpSize),
        max_code_(a.hqq.spec().max_code()) {}

  // Rows `first` to `first + count`, whole groups. The rest of what a warp
  // holds is groups of zeros, whose errors are +0.
  QS_KERNEL void Load(int64_t first, int count) {
    first_ = first;
    count_ = count;
    float low = 0.0f;
    float high = 0.0f;
    QS_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      float least = INFINITY;
      float most = -INFINITY;
      QS_UNROLL
      for (int r = g * kGroupRows; r < (g + 1) * kGroupRows; ++r) {
        w_[r] = r < count_ ? weight_.Get(IndexOf(r)) : 0.0f;
        if (r < count_) ReportNonFinite(t_, a_, w_[r], IndexOf(r));
        least = w_[r] < least ? w_[r] : least;
        most = w_[r] > most ? w_[r] : most;
      }
      BoundsOverLanes(t_, kWarpSize, &least, &most);
      if (lane_ == g) {
        low = least;
        high = most;
      }
    }
    steps_ = 0;
    if (lane_ < kGroups) {
      const hqq::Start start =
          hqq::StartOf(a_.spec(), {low + 0.0f, high + 0.0f});
      shared_.grids[warp_][lane_] =
          MakeGroupGrid(start.zero, start.inverse, 1.0f / start.inverse);
    }
    t_.WarpBarrier();
    QS_UNROLL
    for (int r = 0; r < kRows; ++r) {
      t_of_[r] = w_[r] * shared_.grids[warp_][r / kGroupRows].inverse;
    }
  }

  // Steps until all zeros stand still, at most `iterations`, and adds the
  // errors of each to those of this warp. kErrors: whether anyone asks for
  // errors. `fresh`: the sums begin here.
  template <bool kErrors>
  QS_KERNEL void Solve(int iterations, bool fresh) {
    int k = 0;
    bool moved = true;
    QS_NO_UNROLL
    for (; k < iterations && moved; ++k) {
      const float before = !kErrors || fresh ? 0.0f : ErrorSum(k);
      float error = before;
      if (t_.AnyInWarp(!Step(&error))) {
        error = before;
        StepByFormula(&error);
      }
      if (kErrors) ErrorSum(k) = error;
      t_.WarpBarrier();
      moved = t_.AnyInWarp(MoveZeros());
      t_.WarpBarrier();
    }
    if (kErrors && k < iterations) AddErrorsAtRest(k, iterations, fresh);
  }

  // Results of the groups. `steps`: whether they count as the solver's.
  QS_KERNEL void Store(bool steps) const {
    if (a_.zeros != nullptr) {
      const auto codes = t_.Global(a_.codes, a_.count);
      QS_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const float zero = shared_.grids[warp_][r / kGroupRows].zero;
        const float code = CodeAt(r, zero);
        if (r < count_) codes.Set(IndexOf(r), static_cast<uint8_t>(code));
      }
    }
    if (lane_ >= GroupCount()) return;
    const GroupGrid grid = shared_.grids[warp_][lane_];
    const int64_t g = first_ / kGroupRows + lane_;
    if (a_.zeros != nullptr) {
      StoreFloats(t_, a_, g, grid.inverse, grid.zero);
    } else {
      t_.Global(a_.inverse, a_.groups).Set(g, grid.inverse);
      t_.Global(a_.zero, a_.groups).Set(g, grid.zero);
    }
    if (steps) t_.Global(a_.still, a_.groups).Set(g, steps_);
  }

  QS_KERNEL int GroupCount() const { return count_ / kGroupRows; }

 private:
  QS_KERNEL int64_t IndexOf(int r) const {
    return (first_ + r) * kWarpSize + lane_;
  }
  QS_KERNEL float CodeAt(int r, float zero) const {
    return affine::RoundEven(fminf(fmaxf(t_of_[r] + zero, 0.0f), max_code_));
  }
  QS_KERNEL float& ErrorSum(int k) const {
    return shared_.errors[k][warp_][lane_];
  }

  // Sums of residuals by column, and errors. Whether, for all that this lane
  // sees, that is what hqq's formulas give.
  QS_KERNEL bool Step(float* error) {
    float top = 0.0f;
    bool exact = true;
    QS_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      const GroupGrid grid = shared_.grids[warp_][g];
      exact = exact && grid.exact != 0.0f;
      float sum = 0.0f;
      QS_UNROLL
      for (int r = g * kGroupRows; r < (g + 1) * kGroupRows; ++r) {
        const float code = CodeAt(r, grid.zero);
        const float e =
            w_[r] - QuotientOf(code - grid.zero, grid.inverse, grid.reciprocal);
        const float distance = fabsf(e);
        top = fmaxf(top, distance);
        *error += distance;
        sum += code - t_of_[r];
      }
      shared_.sums[warp_][g][lane_] = sum;
    }
    return exact && top <= hqq::kNoShrink;
  }

  // The same in full, from memory.
  QS_KERNEL void StepByFormula(float* error) {
    float sum = 0.0f;
    QS_NO_UNROLL
    for (int r = 0; r < count_; ++r) {
      const GroupGrid group = shared_.grids[warp_][r / kGroupRows];
      const HqqGrid grid = {group.inverse, group.zero, max_code_};
      const float w = weight_.Get(IndexOf(r));
      const float code = grid.Code(w);
      const float e = w - (code - grid.zero) / grid.inverse;
      *error += fabsf(e);
      sum += code - (w - Shrink(e)) * grid.inverse;
      if (r % kGroupRows != kGroupRows - 1) continue;
      shared_.sums[warp_][r / kGroupRows][lane_] = sum;
      sum = 0.0f;
    }
  }

  // From the sums of columns to the next zeros. Whether this lane's moved.
  QS_KERNEL bool MoveZeros() {
    // Eight lanes a group; a lane writes where no other one reads.
    QS_UNROLL
    for (int i = lane_; i < kGroups * hqq::kSumLanes; i += kWarpSize) {
      float* sums =
          &shared_.sums[warp_][i / hqq::kSumLanes][i % hqq::kSumLanes];
      *sums = ((sums[0] + sums[8]) + sums[16]) + sums[24];
    }
    t_.WarpBarrier();
    if (lane_ >= GroupCount()) return false;
    float sum = 0.0f;
    QS_UNROLL
    for (int l = 0; l < hqq::kSumLanes; ++l) {
      sum += shared_.sums[warp_][lane_][l];
    }
    const GroupGrid grid = shared_.grids[warp_][lane_];
    const float next = hqq::NextOr(
        grid.zero, sum / static_cast<float>(kGroupRows * kWarpSize));
    if (next == grid.zero) return false;
    ++steps_;
    shared_.grids[warp_][lane_] =
        MakeGroupGrid(next, grid.inverse, grid.reciprocal);
    return true;
  }

  // For the steps from `k` on the errors are the same.
  QS_KERNEL void AddErrorsAtRest(int k, int iterations, bool fresh) {
    bool exact = true;
    QS_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      exact = exact && shared_.grids[warp_][g].exact != 0.0f;
    }
    if (exact) {
      float distance[kRows];
      QS_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const GroupGrid grid = shared_.grids[warp_][r / kGroupRows];
        const float code = CodeAt(r, grid.zero);
        distance[r] = fabsf(w_[r] - QuotientOf(code - grid.zero, grid.inverse,
                                               grid.reciprocal));
      }
      QS_NO_UNROLL
      for (; k < iterations; ++k) {
        float sum = fresh ? 0.0f : ErrorSum(k);
        QS_UNROLL
        for (int r = 0; r < kRows; ++r) sum += distance[r];
        ErrorSum(k) = sum;
      }
      return;
    }
    QS_NO_UNROLL
    for (; k < iterations; ++k) {
      float sum = fresh ? 0.0f : ErrorSum(k);
      QS_NO_UNROLL
      for (int r = 0; r < count_; ++r) {
        const GroupGrid group = shared_.grids[warp_][r / kGroupRows];
        const HqqGrid grid = {group.inverse, group.zero, max_code_};
        sum += fabsf(grid.Error(weight_.Get(IndexOf(r))));
      }
      ErrorSum(k) = sum;
    }
  }

  Thread& t_;
  const HqqParams& a_;
  const Elements weight_;
  SolveShared<kGroups>& shared_;
  const int lane_;
  const int warp_;
  const float max_code_;
  int64_t first_ = 0;
  int count_ = 0;
  int steps_ = 0;  // that this lane's group moved
  float w_[kRows];
  float t_of_[kRows];  // times the inverse scale
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_HQQ_ROWS_H_

// Tested by tests/quant/gptq_quantizer_test.cc.
#include <cmath>
#include <span>

#include "kernels/base/status_macros.h"
#include "quant/gptq_rows.h"

namespace qs {
namespace {

// BEST solves again with all scales times each of these and keeps, row by row,
// what lost least: the loop's errors are partly luck, and scales that were
// chosen group by group do not know what the loop adds to the weights. Each
// costs as much as the loop, so rows of many groups get two. Chosen by the
// error on the calibration itself: over the 28 linears of a small Llama, scaled
// first, 2.117e-4 at 4 bits without, 2.016e-4 with two, 1.964e-4 with six; at 3
// bits 9.17e-4, 8.71e-4, 8.35e-4.
constexpr float kStarts[] = {0.88f, 0.92f, 0.96f, 1.04f, 1.08f, 1.12f};
constexpr float kWideStarts[] = {0.94f, 1.05f};
// Then each group's scale alone, where a row has so few that it costs little:
// 1.829e-4 at 4 bits.
constexpr float kGroupStarts[] = {0.84f,  0.9f,  0.94f, 0.97f, 0.985f,
                                  1.015f, 1.03f, 1.06f, 1.1f,  1.16f};
constexpr int64_t kMostGroups = 6;
constexpr int kGroupPasses = 2;

class Starts {
 public:
  Starts(const GptqRows& rows, const GptqCodes& best, double* error,
         const GptqCodes& trial, double* trial_error, const GptqCodes& start,
         Backend& backend)
      : rows_(rows),
        best_(best),
        error_(error),
        trial_(trial),
        trial_error_(trial_error),
        start_(start),
        backend_(backend) {}

  absl::Status TryAllGroups(std::span<const float> factors) {
    rows_.CopyGrids(best_, start_);
    for (float by : factors) QS_RETURN_IF_ERROR(Try(kAllGroups, by));
    return absl::OkStatus();
  }
  absl::Status TryEachGroup() {
    for (int pass = 0; pass < kGroupPasses; ++pass) {
      for (int64_t group = 0; group < groups(); ++group) {
        rows_.CopyGrids(best_, start_);
        for (float by : kGroupStarts) QS_RETURN_IF_ERROR(Try(group, by));
      }
    }
    return absl::OkStatus();
  }

 private:
  static constexpr int64_t kAllGroups = -1;
  int64_t groups() const { return rows_.context().layout.groups; }

  // The rows that lose less with the scales of one group, or of all, times `by`
  // take that solution.
  absl::Status Try(int64_t group, float by) {
    rows_.CopyGrids(start_, trial_);
    ScaleGrids(group, by);
    QS_RETURN_IF_ERROR(
        rows_.Solve(/*given=*/true, trial_, trial_error_, backend_));
    for (int64_t r = 0; r < rows_.rows(); ++r) {
      if (!(trial_error_[r] < error_[r])) continue;
      error_[r] = trial_error_[r];
      rows_.TakeRow(trial_, r, best_);
    }
    return absl::OkStatus();
  }

  // Scales of the trial, where the product can be stored.
  void ScaleGrids(int64_t group, float by) const {
    const StoredScale& stored = rows_.context().stored;
    for (int64_t i = 0; i < rows_.grids(); ++i) {
      if (group != kAllGroups && i % groups() != group) continue;
      const float old = LoadAsFloat(trial_.scales, stored.dtype, i);
      StoreFromFloat(trial_.scales, stored.dtype, i, old * by);
      const float now = LoadAsFloat(trial_.scales, stored.dtype, i);
      if (std::isfinite(now) && now > 0 && now >= stored.min) continue;
      StoreFromFloat(trial_.scales, stored.dtype, i, old);
    }
  }

  const GptqRows& rows_;
  const GptqCodes& best_;
  double* const error_;
  const GptqCodes& trial_;
  double* const trial_error_;
  const GptqCodes& start_;
  Backend& backend_;
};

}  // namespace

absl::Status FindGptqStarts(const GptqRows& rows, const GptqCodes& best,
                            double* error, const GptqCodes& trial,
                            double* trial_error, const GptqCodes& start,
                            Backend& backend) {
  Starts starts(rows, best, error, trial, trial_error, start, backend);
  if (rows.context().layout.groups > kMostGroups) {
    return starts.TryAllGroups(kWideStarts);
  }
  QS_RETURN_IF_ERROR(starts.TryAllGroups(kStarts));
  return starts.TryEachGroup();
}

}  // namespace qs

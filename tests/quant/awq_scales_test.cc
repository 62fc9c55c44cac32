// The scale search alone: what it judges by some rows is held against all.
#include "quant/awq_scales.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

constexpr int64_t kCols = 128;
// Twice as many as BEST judges candidates by: it takes every other one.
constexpr int64_t kRows = 1024;
// Input 0 is loud.
constexpr float kLoud = 30;

using Floats = std::vector<float>;

// A row with nothing large for the loud input: scaling it up costs nothing and
// saves what its rounding costs.
void AppendGainingRow(std::mt19937& random, Floats* weights) {
  std::normal_distribution<float> gauss;
  for (int64_t k = 0; k < kCols; ++k) weights->push_back(gauss(random));
  (*weights)[weights->size() - kCols] = 0.3f;
}

// One whose grid is -1, 0 .. 14, by the loud input's weight, which it holds
// exactly. Scaled up, that makes the steps of all others larger.
void AppendLosingRow(std::mt19937& random, Floats* weights) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (int64_t k = 0; k < kCols; ++k) weights->push_back(uniform(random));
  (*weights)[weights->size() - kCols] = 14;
  weights->back() = -1;
}

class ScaleCase {
 public:
  explicit ScaleCase(Floats weights)
      : weights_(std::move(weights)),
        x_mean_(kCols, 1.0f),
        w_mean_(kCols, 0.3f),
        moment_(kCols * kCols) {
    x_mean_[0] = kLoud;
    for (size_t k = 0; k < kCols; ++k) {
      moment_[k * kCols + k] = x_mean_[k] * x_mean_[k];
    }
    view_ = {weights_.data(), DType::kF32,
             static_cast<int64_t>(weights_.size()) / kCols, kCols};
    grid_.bits = 4;
    grid_.group_size = kCols;
    grid_.symmetric = false;
  }

  Floats Best() {
    AwqSearchArgs args;
    args.spec = {.symmetric = false, .solve_codes = false};
    args.grid = grid_;
    args.weights = {&view_, 1};
    args.x_mean = x_mean_;
    args.w_mean = w_mean_;
    args.second_moment = moment_.data();
    auto scales = SearchAwqScales(std::move(args), *backend_);
    REQUIRE(scales.ok());
    return scales->values;
  }

  double Loss(const Floats& scales) {
    double loss = 0;
    AwqScaleLossArgs args;
    args.weights = {&view_, 1};
    args.grid = grid_;
    args.scales = scales.data();
    args.candidates = 1;
    args.second_moment = moment_.data();
    args.losses = &loss;
    REQUIRE(backend_->awq().ScaleLosses(args, backend_->stream()).ok());
    return loss;
  }

 private:
  Floats weights_, x_mean_, w_mean_, moment_;
  TensorView view_;
  AwqGridSpec grid_;
  std::unique_ptr<Backend> backend_ = NewCpuBackend(1);
};

TEST_CASE("scales that serve only the rows judged by are not taken") {
  const Floats identity(kCols, 1.0f);
  std::mt19937 random(3);
  Floats judged, all;
  for (int64_t r = 0; r < kRows; r += 2) {
    Floats row;
    AppendGainingRow(random, &row);
    judged.insert(judged.end(), row.begin(), row.end());
    all.insert(all.end(), row.begin(), row.end());
    AppendLosingRow(random, &all);
  }
  // What half of the rows ask for is worse than nothing for all of them.
  ScaleCase half(std::move(judged));
  const Floats tempting = half.Best();
  CHECK(half.Loss(tempting) < 0.7 * half.Loss(identity));
  ScaleCase whole(std::move(all));
  CHECK(whole.Loss(tempting) > 1.5 * whole.Loss(identity));

  CHECK(whole.Best() == identity);
}

TEST_CASE("scales that serve all rows are taken") {
  const Floats identity(kCols, 1.0f);
  std::mt19937 random(4);
  Floats weights;
  for (int64_t r = 0; r < kRows; ++r) AppendGainingRow(random, &weights);
  ScaleCase whole(std::move(weights));
  const Floats best = whole.Best();
  CHECK(best != identity);
  CHECK(whole.Loss(best) < 0.7 * whole.Loss(identity));
}

}  // namespace
}  // namespace qs::testing

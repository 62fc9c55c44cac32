// Tested by tests/quant/calibration_file_test.cc.
#include "quant/calibration/calibration_inspect.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"

namespace qs {
namespace {

constexpr int kPowerIterations = 8;

// x^T H x / x^T x after some multiplications with H, from the inputs' sizes on.
double LargestEigenvalue(const SiteMoments& moments) {
  const int64_t n = moments.inputs();
  std::vector<float> x(n);
  std::vector<float> y(n);
  for (int64_t i = 0; i < n; ++i) {
    x[i] = std::sqrt(moments.second_moment()[i * n + i]);
  }
  double value = 0;
  for (int step = 0; step < kPowerIterations; ++step) {
    double size = 0;
    for (const float v : x) size += double{v} * v;
    const float scale = static_cast<float>(1 / std::sqrt(size));
    for (float& v : x) v *= scale;
    std::fill(y.begin(), y.end(), 0.0f);
    // By rows: H is symmetric, and sums into y have no order to wait for.
    for (int64_t i = 0; i < n; ++i) {
      const float* row = moments.second_moment() + i * n;
      const float factor = x[i];
      for (int64_t j = 0; j < n; ++j) y[j] += factor * row[j];
    }
    value = 0;
    for (int64_t i = 0; i < n; ++i) value += double{x[i]} * y[i];
    x.swap(y);
  }
  return value;
}

}  // namespace

absl::StatusOr<SiteFacts> InspectSite(const CalibrationFile& file,
                                      size_t site) {
  QS_ASSIGN_OR_RETURN(const SiteMoments moments, file.Read(site));
  const int64_t n = moments.inputs();
  SiteFacts facts;
  facts.rank_deficient = moments.tokens() < n;
  const absl::Status status = moments.Check();
  if (!status.ok()) {
    facts.problem = std::string(status.message());
    return facts;
  }
  double largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double square = moments.second_moment()[i * n + i];
    facts.trace += square;
    facts.dead_columns += square == 0 ? 1 : 0;
    largest = std::max(largest, square);
  }
  facts.largest_input = largest / facts.trace;
  facts.largest_direction =
      std::max(largest, LargestEigenvalue(moments)) / facts.trace;
  return facts;
}

}  // namespace qs

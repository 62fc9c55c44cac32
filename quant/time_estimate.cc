// Tested by tests/quant/time_estimate_test.cc.
#include "quant/time_estimate.h"

#include <algorithm>
#include <cmath>

namespace qs {
namespace {

// Seconds.
constexpr double kOverhead = 50e-6;    // a tensor: records, report, queue
constexpr double kReport = 0.5e-9;     // a weight
constexpr double kFactor = 4.4e-12;    // cols^3, of 4096: 0.30 s
constexpr double kGptqCodes = 15e-12;  // rows * cols^2: 1.05 s
// Best: starts from several orders and descent, 8 s beside the factor's 0.3.
constexpr double kGptqBest = 115e-12;
constexpr double kAwqSearch = 200e-12;  // 13.7 s
constexpr double kAwqClip = 32e-9;      // a weight: 0.53 s

bool best(const QuantSpec& spec) { return spec.profile == Profile::kBest; }

double HqqSecondsAWeight(const QuantSpec& spec, const HqqSpec& hqq) {
  // Small groups cost more than in proportion: 21 ns at 16, 2.3 at 64.
  const double small = 64.0 / static_cast<double>(std::max<int64_t>(
                                  8, std::min<int64_t>(64, hqq.group_size)));
  return (best(spec) ? 20e-9 : 2.3e-9) * std::pow(small, 1.6);
}

// Of the methods that look at each weight by itself.
double SecondsAWeight(const QuantSpec& spec) {
  if (const Nf4Spec* const nf4 = spec.nf4()) {
    const double once = best(spec) ? 1.5e-9 : 0.25e-9;
    return nf4->double_quant ? 2 * once : once;
  }
  if (const HqqSpec* const hqq = spec.hqq()) {
    return HqqSecondsAWeight(spec, *hqq);
  }
  if (const RtnSpec* const rtn = spec.rtn()) {
    const double symmetric = best(spec) ? 1.2e-9 : 0.3e-9;
    return rtn->symmetric ? symmetric : 1.3 * symmetric;
  }
  return 0;
}

// Of the methods that solve, for each row and pair of columns.
double SecondsAProduct(const QuantSpec& spec) {
  const double codes = best(spec) ? kGptqBest : kGptqCodes;
  if (const GptqSpec* const gptq = spec.gptq()) {
    return gptq->awq_scaling ? codes + kAwqSearch : codes;
  }
  const AwqSpec* const awq = spec.awq();
  if (awq == nullptr) return 0;
  return awq->solve_codes ? codes + kAwqSearch : kAwqSearch;
}

}  // namespace

double EstimateCoreSeconds(const QuantSpec& spec, int64_t rows, int64_t cols,
                           bool error_report) {
  const auto n = static_cast<double>(rows);
  const auto k = static_cast<double>(cols);
  double seconds = kOverhead + n * k * SecondsAWeight(spec);
  if (NeedsCalibration(spec)) {
    seconds += k * k * k * kFactor + n * k * k * SecondsAProduct(spec);
  }
  if (spec.awq() != nullptr && spec.awq()->clip) seconds += n * k * kAwqClip;
  if (error_report) seconds += n * k * kReport;
  return seconds;
}

}  // namespace qs

// Tested by tests/cli/report_test.cc.
#include "service/cli/run_report.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Sums behind ErrorStats' means, so that tensors add up.
struct Sums {
  int64_t count = 0;
  double squared = 0;
  double absolute = 0;
  double max = 0;
  double energy = 0;          // of the weights
  double energy_squared = 0;  // squared error where the energy is known

  void Add(const v1::ErrorStats& stats) {
    const double n = static_cast<double>(stats.count());
    count += stats.count();
    squared += stats.mean_squared_error() * n;
    absolute += stats.mean_absolute_error() * n;
    max = std::max(max, stats.max_absolute_error());
    const double relative = stats.relative_frobenius_error();
    if (relative > 0 && std::isfinite(relative)) {
      energy += stats.mean_squared_error() * n / (relative * relative);
      energy_squared += stats.mean_squared_error() * n;
    }
  }

  // Without the cosine, which cannot be had from tensors' figures.
  v1::ErrorStats Stats() const {
    v1::ErrorStats stats;
    stats.set_count(count);
    if (count == 0) return stats;
    const double n = static_cast<double>(count);
    stats.set_mean_squared_error(squared / n);
    stats.set_mean_absolute_error(absolute / n);
    stats.set_max_absolute_error(max);
    const double ratio = energy > 0 ? energy_squared / energy : 0;
    stats.set_relative_frobenius_error(std::sqrt(ratio));
    stats.set_sqnr_db(ratio > 0 ? -10 * std::log10(ratio) : kInfinity);
    return stats;
  }
};

void AddHistogram(const v1::ErrorHistogram& from, std::vector<int64_t>* to) {
  const size_t bins = static_cast<size_t>(from.counts_size());
  if (to->size() < bins) to->resize(bins);
  for (size_t i = 0; i < bins; ++i) {
    (*to)[i] += from.counts(static_cast<int>(i));
  }
}

int64_t WeightsOf(const v1::TensorReport& tensor) {
  int64_t weights = 1;
  for (const int64_t dimension : tensor.shape()) weights *= dimension;
  return weights;
}

}  // namespace

RunTotals TotalsOf(const RunReport& report) {
  RunTotals totals;
  Sums error;
  Sums rtn;
  for (const v1::TensorReport& tensor : report.tensors) {
    ++totals.tensors;
    totals.weights += WeightsOf(tensor);
    totals.bytes_in += tensor.bytes_in();
    totals.bytes_out += tensor.bytes_out();
    if (!tensor.has_error()) continue;
    error.Add(tensor.error());
    rtn.Add(tensor.rtn());
    AddHistogram(tensor.histogram(), &totals.histogram);
  }
  if (totals.weights > 0) {
    totals.bits_per_weight = static_cast<double>(totals.bytes_out) * 8 /
                             static_cast<double>(totals.weights);
  }
  totals.error = error.Stats();
  totals.rtn = rtn.Stats();
  if (rtn.squared > 0) {
    totals.mse_ratio_to_rtn = error.squared / rtn.squared;
  } else {
    totals.mse_ratio_to_rtn = error.squared > 0 ? kInfinity : 1;
  }
  return totals;
}

PlanCounts CountsOf(const PlanAnswer& plan) {
  PlanCounts counts;
  for (const v1::PlanEntry& entry : plan.entries) {
    switch (entry.action()) {
      case v1::PlanEntry::QUANTIZE:
        ++counts.quantized;
        break;
      case v1::PlanEntry::TIED:
        ++counts.tied;
        break;
      default:
        ++counts.carried;
        counts.carried_bytes += entry.bytes_in();
    }
  }
  return counts;
}

}  // namespace qs::cli

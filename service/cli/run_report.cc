// Tested by tests/cli/report_test.cc.
#include "service/cli/run_report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

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

void AddOutputError(const v1::TensorReport& tensor, RunTotals* totals) {
  if (!tensor.has_output_error()) return;
  ++totals->with_output_error;
  totals->output_error += tensor.output_error();
  totals->rtn_output_error += tensor.rtn_output_error();
}

// "....layers.3.mlp.experts.17.down_proj.weight".
std::optional<ExpertTokens> ExpertOf(const v1::TensorReport& tensor) {
  if (!tensor.has_output_error()) return std::nullopt;
  const std::vector<std::string> parts = absl::StrSplit(tensor.name(), '.');
  ExpertTokens out;
  out.tokens = tensor.tokens();
  int64_t number = 0;
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    if (!absl::SimpleAtoi(parts[i + 1], &number)) continue;
    if (parts[i] == "experts") {
      out.expert = number;
      return out;
    }
    if (out.layer.empty()) out.layer = parts[i + 1];
  }
  return std::nullopt;
}

}  // namespace

int64_t WeightsOf(const v1::TensorReport& tensor) {
  int64_t weights = 1;
  for (const int64_t dimension : tensor.shape()) weights *= dimension;
  return weights;
}

RunTotals TotalsOf(const std::vector<v1::TensorReport>& tensors) {
  RunTotals totals;
  Sums error;
  Sums rtn;
  for (const v1::TensorReport& tensor : tensors) {
    ++totals.tensors;
    totals.weights += WeightsOf(tensor);
    totals.bytes_in += tensor.bytes_in();
    totals.bytes_out += tensor.bytes_out();
    totals.worker_seconds += tensor.quantize_seconds();
    totals.memory_bytes = std::max(totals.memory_bytes, tensor.memory_bytes());
    totals.warnings += tensor.warnings_size();
    AddOutputError(tensor, &totals);
    if (!tensor.has_error()) continue;
    error.Add(tensor.error());
    rtn.Add(tensor.rtn());
    AddHistogram(tensor.histogram(), &totals.histogram);
  }
  if (totals.weights > 0) {
    totals.bits_per_weight = static_cast<double>(totals.bytes_out) * 8 /
                             static_cast<double>(totals.weights);
  }
  if (totals.with_output_error > 0) {
    const auto n = static_cast<double>(totals.with_output_error);
    totals.output_error /= n;
    totals.rtn_output_error /= n;
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

std::vector<ExpertTokens> ExpertTokensOf(
    const std::vector<v1::TensorReport>& tensors) {
  std::vector<ExpertTokens> experts;
  std::map<std::pair<std::string, int64_t>, size_t> index;
  for (const v1::TensorReport& tensor : tensors) {
    const std::optional<ExpertTokens> found = ExpertOf(tensor);
    if (!found) continue;
    const auto [at, is_new] =
        index.emplace(std::pair(found->layer, found->expert), experts.size());
    if (is_new) {
      experts.push_back(*found);
    } else {
      int64_t& tokens = experts[at->second].tokens;
      tokens = std::min(tokens, found->tokens);
    }
  }
  std::map<std::string, size_t> layers;
  for (const ExpertTokens& e : experts) layers.emplace(e.layer, layers.size());
  std::sort(experts.begin(), experts.end(),
            [&](const ExpertTokens& a, const ExpertTokens& b) {
              return std::pair(layers[a.layer], a.expert) <
                     std::pair(layers[b.layer], b.expert);
            });
  return experts;
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
      case v1::PlanEntry::SPLIT:
        break;  // its slices count
      default:
        ++counts.carried;
        counts.carried_bytes += entry.bytes_in();
    }
  }
  return counts;
}

}  // namespace qs::cli

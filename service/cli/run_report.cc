// Tested by tests/cli/report_test.cc.
#include "service/cli/run_report.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

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

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

bool HasRtn(const v1::ErrorStats& error, const v1::ErrorStats& rtn) {
  return rtn.count() > 0 || error.count() == 0;
}

}  // namespace

double RatioToRtn(const v1::TensorReport& tensor) {
  return HasRtn(tensor.error(), tensor.rtn()) ? tensor.mse_ratio_to_rtn()
                                              : kNone;
}

double RtnOutputError(const v1::TensorReport& tensor) {
  return tensor.has_rtn_output_error() ? tensor.rtn_output_error() : kNone;
}

RunTotals TotalsOf(const std::vector<v1::TensorReport>& tensors) {
  ReportSums sums;
  for (const v1::TensorReport& tensor : tensors) sums.Add(tensor);
  const v1::ReportTotals all = sums.Totals();
  RunTotals totals;
  totals.tensors = sums.tensors();
  totals.weights = all.weights();
  totals.bytes_in = sums.bytes_in();
  totals.bytes_out = sums.bytes_out();
  totals.bits_per_weight = all.bits_per_weight();
  totals.error = sums.error().Stats();
  totals.rtn = sums.rtn().Stats();
  totals.mse_ratio_to_rtn =
      HasRtn(totals.error, totals.rtn) ? sums.MseRatioToRtn() : kNone;
  totals.histogram.assign(all.histogram().counts().begin(),
                          all.histogram().counts().end());
  totals.with_output_error = sums.with_output_error();
  totals.output_error = sums.OutputError().value_or(0);
  totals.rtn_output_error =
      sums.RtnOutputError().value_or(totals.with_output_error > 0 ? kNone : 0);
  totals.worker_seconds = all.worker_seconds();
  totals.memory_bytes = all.memory_bytes();
  totals.warnings = all.warnings();
  totals.all = all;
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

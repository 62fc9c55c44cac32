// Tested by tests/service/report_sums_test.cc.
#include "service/server/report_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "quant/error_collector.h"
#include "service/server/proto_convert.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

template <typename Counts>
void AddCounts(const Counts& from, Counts* to) {
  while (to->size() < from.size()) to->Add(0);
  for (int i = 0; i < from.size(); ++i) to->Set(i, to->Get(i) + from.Get(i));
}

template <typename Names>
void AddOnce(const std::string& name, Names* names) {
  if (name.empty()) return;
  if (std::find(names->begin(), names->end(), name) != names->end()) return;
  *names->Add() = name;
}

void AddPhases(const v1::PhaseSeconds& from, v1::PhaseSeconds* to) {
  to->set_wait(to->wait() + from.wait());
  to->set_prepare(to->prepare() + from.prepare());
  to->set_factor(to->factor() + from.factor());
  to->set_search(to->search() + from.search());
  to->set_encode(to->encode() + from.encode());
  to->set_refine(to->refine() + from.refine());
  to->set_pack(to->pack() + from.pack());
  to->set_verify(to->verify() + from.verify());
  to->set_report(to->report() + from.report());
}

std::optional<double> MeanOver(double sum, int64_t count) {
  if (count == 0) return std::nullopt;
  return sum / static_cast<double>(count);
}

}  // namespace

int64_t WeightsOf(const v1::TensorReport& report) {
  int64_t weights = 1;
  for (const int64_t dimension : report.shape()) weights *= dimension;
  return weights;
}

void ErrorStatsSums::Add(const v1::ErrorStats& stats) {
  const double n = static_cast<double>(stats.count());
  ErrorSums sums;
  sums.count = stats.count();
  sums.squared_error = stats.mean_squared_error() * n;
  sums.absolute_error = stats.mean_absolute_error() * n;
  sums.max_absolute_error = stats.max_absolute_error();
  if (stats.has_weight_squared()) {
    sums.weight_squared = stats.weight_squared();
    sums.decoded_squared = stats.decoded_squared();
    sums.dot = stats.dot_product();
  } else if (stats.count() > 0) {
    has_products_ = false;
    const double relative = stats.relative_frobenius_error();
    if (relative > 0 && std::isfinite(relative)) {
      sums.weight_squared = sums.squared_error / (relative * relative);
    }
  }
  sums_.Add(sums);
}

v1::ErrorStats ErrorStatsSums::Stats() const {
  v1::ErrorStats stats = ErrorStatsToProto(sums_);
  if (has_products_) return stats;
  stats.clear_cosine_similarity();
  stats.clear_weight_squared();
  stats.clear_decoded_squared();
  stats.clear_dot_product();
  return stats;
}

void ReportSums::Add(const v1::TensorReport& report) {
  ++tensors_;
  bytes_in_ += report.bytes_in();
  bytes_out_ += report.bytes_out();
  totals_.set_weights(totals_.weights() + WeightsOf(report));
  totals_.set_worker_seconds(totals_.worker_seconds() +
                             report.quantize_seconds());
  if (report.has_phases()) {
    AddPhases(report.phases(), totals_.mutable_phases());
  }
  totals_.set_memory_bytes(
      std::max(totals_.memory_bytes(), report.memory_bytes()));
  totals_.set_warnings(totals_.warnings() + report.warnings_size());
  AddOnce(report.device(), totals_.mutable_devices());
  AddOnce(report.algorithm(), totals_.mutable_algorithms());
  if (report.has_solver()) AddSolver(report);
  if (report.has_output_error()) {
    ++with_output_error_;
    output_error_ += report.output_error();
  }
  if (report.has_rtn_output_error()) {
    ++with_rtn_output_error_;
    rtn_output_error_ += report.rtn_output_error();
  }
  if (!report.has_error()) return;
  has_error_ = true;
  error_.Add(report.error());
  rtn_.Add(report.rtn());
  AddCounts(report.histogram().counts(),
            totals_.mutable_histogram()->mutable_counts());
  AddWorstGroups(report);
}

void ReportSums::AddSolver(const v1::TensorReport& report) {
  const v1::SolverFacts& from = report.solver();
  v1::SolverFacts& to = *totals_.mutable_solver();
  to.set_damping(std::max(to.damping(), from.damping()));
  to.set_damping_retries(to.damping_retries() + from.damping_retries());
  to.set_factor_in_f64(to.factor_in_f64() || from.factor_in_f64());
  to.set_diagonal_only(to.diagonal_only() || from.diagonal_only());
  to.set_dead_columns(to.dead_columns() + from.dead_columns());
  AddCounts(from.clip_histogram(), to.mutable_clip_histogram());
  to.set_codes_changed(to.codes_changed() + from.codes_changed());
  if (from.iterations() > 0) {
    const int64_t weights = WeightsOf(report);
    iterations_ += from.iterations() * static_cast<double>(weights);
    iterated_weights_ += weights;
  }
  if (from.scale_max() <= 0) return;
  to.set_scale_exponent(std::max(to.scale_exponent(), from.scale_exponent()));
  to.set_scale_duo(to.scale_duo() || from.scale_duo());
  to.set_scale_min(to.scale_max() > 0
                       ? std::min(to.scale_min(), from.scale_min())
                       : from.scale_min());
  to.set_scale_max(std::max(to.scale_max(), from.scale_max()));
}

// The one that came first wins a tie.
void ReportSums::AddWorstGroups(const v1::TensorReport& report) {
  auto& worst = *totals_.mutable_worst_groups();
  for (const v1::WorstGroup& group : report.worst_groups()) {
    v1::WorstGroup& added = *worst.Add();
    added = group;
    added.set_tensor(report.name());
  }
  std::stable_sort(worst.begin(), worst.end(),
                   [](const v1::WorstGroup& a, const v1::WorstGroup& b) {
                     return a.mean_squared_error() > b.mean_squared_error();
                   });
  while (worst.size() > kMaxWorstGroups) worst.RemoveLast();
}

double ReportSums::MseRatioToRtn() const {
  if (error_.count() > 0 && rtn_.count() == 0) return 0;
  if (rtn_.squared_error() > 0) {
    return error_.squared_error() / rtn_.squared_error();
  }
  return error_.squared_error() > 0 ? std::numeric_limits<double>::infinity()
                                    : 1;
}

std::optional<double> ReportSums::OutputError() const {
  return MeanOver(output_error_, with_output_error_);
}

std::optional<double> ReportSums::RtnOutputError() const {
  return MeanOver(rtn_output_error_, with_rtn_output_error_);
}

v1::ReportTotals ReportSums::Totals() const {
  v1::ReportTotals out = totals_;
  if (out.weights() > 0) {
    out.set_bits_per_weight(static_cast<double>(bytes_out_) * 8 /
                            static_cast<double>(out.weights()));
  }
  if (has_error_) out.set_mse_ratio_to_rtn(MseRatioToRtn());
  if (iterated_weights_ > 0) {
    out.mutable_solver()->set_iterations(
        iterations_ / static_cast<double>(iterated_weights_));
  }
  return out;
}

}  // namespace qs

// What several reports say together.
#include "service/server/report_sums.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "service/server/proto_convert.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

struct Values {
  std::vector<double> weight;
  std::vector<double> decoded;
};

ErrorSums SumsOf(const Values& values) {
  ErrorSums sums;
  for (size_t i = 0; i < values.weight.size(); ++i) {
    const double w = values.weight[i];
    const double v = values.decoded[i];
    ++sums.count;
    sums.squared_error += (w - v) * (w - v);
    sums.absolute_error += std::fabs(w - v);
    sums.max_absolute_error =
        std::max(sums.max_absolute_error, std::fabs(w - v));
    sums.weight_squared += w * w;
    sums.decoded_squared += v * v;
    sums.dot += w * v;
  }
  return sums;
}

Values Joined(const Values& a, const Values& b) {
  Values both = a;
  both.weight.insert(both.weight.end(), b.weight.begin(), b.weight.end());
  both.decoded.insert(both.decoded.end(), b.decoded.begin(), b.decoded.end());
  return both;
}

void CheckSame(const v1::ErrorStats& got, const v1::ErrorStats& want) {
  CHECK(got.count() == want.count());
  CHECK(got.mean_squared_error() == Approx(want.mean_squared_error()));
  CHECK(got.mean_absolute_error() == Approx(want.mean_absolute_error()));
  CHECK(got.max_absolute_error() == want.max_absolute_error());
  CHECK(got.relative_frobenius_error() ==
        Approx(want.relative_frobenius_error()));
  CHECK(got.sqnr_db() == Approx(want.sqnr_db()));
  CHECK(got.cosine_similarity() == Approx(want.cosine_similarity()));
  CHECK(got.weight_squared() == Approx(want.weight_squared()));
  CHECK(got.decoded_squared() == Approx(want.decoded_squared()));
  CHECK(got.dot_product() == Approx(want.dot_product()));
}

// Loud and well met; quiet and missed; and one without any error.
const Values kLoud = {{8, -6, 4}, {7.5, -6.5, 4}};
const Values kQuiet = {{0.5, -0.25}, {-0.25, -0.5}};
const Values kExact = {{3, 0, -1, 2}, {3, 0, -1, 2}};

TEST_CASE("figures add up to those of all weights together") {
  ErrorStatsSums sums;
  Values all;
  double cosines = 0;
  for (const Values& values : {kLoud, kQuiet, kExact}) {
    const v1::ErrorStats stats = ErrorStatsToProto(SumsOf(values));
    sums.Add(stats);
    cosines += stats.cosine_similarity() / 3;
    all = Joined(all, values);
  }
  CheckSame(sums.Stats(), ErrorStatsToProto(SumsOf(all)));
  // By hand: products of 115, 0 and 14, energies of 116, 0.3125 and 14 and of
  // 114.5, 0.3125 and 14.
  CHECK(sums.Stats().cosine_similarity() ==
        Approx(129 / std::sqrt(130.3125 * 128.8125)));
  CHECK(sums.Stats().cosine_similarity() > cosines + 0.2);
}

TEST_CASE("without its products a tensor counts but for the cosine") {
  ErrorStatsSums sums;
  Values all;
  for (const Values& values : {kLoud, kQuiet}) {
    v1::ErrorStats stats = ErrorStatsToProto(SumsOf(values));
    stats.clear_weight_squared();
    stats.clear_decoded_squared();
    stats.clear_dot_product();
    sums.Add(stats);
    all = Joined(all, values);
  }
  v1::ErrorStats want = ErrorStatsToProto(SumsOf(all));
  CHECK(sums.Stats().relative_frobenius_error() ==
        Approx(want.relative_frobenius_error()));
  CHECK(sums.Stats().sqnr_db() == Approx(want.sqnr_db()));
  CHECK(sums.Stats().cosine_similarity() == 0);
  CHECK_FALSE(sums.Stats().has_weight_squared());
}

TensorReport MakeReport(const std::string& name, const Values& values) {
  TensorReport report;
  report.name = name;
  report.shape = {static_cast<int64_t>(values.weight.size())};
  report.has_error = true;
  report.error = SumsOf(values);
  report.error.histogram[2] = report.error.count;
  report.rtn = report.error;
  report.rtn.squared_error *= 2;
  report.bytes_in = 2 * report.error.count;
  report.bytes_out = report.error.count;
  report.device = std::string("cpu");
  report.algorithm = "awq-best/1";
  return report;
}

TEST_CASE("totals of two tensors") {
  TensorReport first = MakeReport("a", kLoud);
  first.phases[Phase::kFactor] = 0.5;
  first.phases[Phase::kEncode] = 0.25;
  first.memory_bytes = 7000;
  first.warnings = {"NO_CHANGE: x"};
  first.has_output_error = true;
  first.output_error = {1, 10};
  first.rtn_output_error = {2, 10};
  first.solver = SolverFacts();
  first.solver->damping = 0.01;
  first.solver->damping_retries = 1;
  first.solver->dead_columns = 3;
  first.solver->clip_histogram[9] = 5;
  first.solver->scale_exponent = 0.25;
  first.solver->scale_min = 0.5;
  first.solver->scale_max = 4;
  first.solver->iterations = 3;
  first.solver->codes_changed = 2;
  TensorReport second = MakeReport("b", kQuiet);
  second.phases[Phase::kEncode] = 1;
  second.memory_bytes = 9000;
  second.device = std::string("gpu");
  second.solver = SolverFacts();
  second.solver->damping = 0.1;
  second.solver->factor_in_f64 = true;
  second.solver->dead_columns = 4;
  second.solver->clip_histogram[9] = 2;
  second.solver->clip_histogram[0] = 1;
  second.solver->scale_exponent = 0.75;
  second.solver->scale_duo = true;
  second.solver->scale_min = 0.25;
  second.solver->scale_max = 2;
  second.solver->iterations = 8;
  second.solver->codes_changed = 1;
  ReportSums sums;
  sums.Add(ReportToProto(first));
  sums.Add(ReportToProto(second));

  CHECK(sums.tensors() == 2);
  CHECK(sums.bytes_in() == 10);
  CHECK(sums.with_output_error() == 1);
  CHECK(sums.OutputError() == 0.1);
  CHECK(sums.RtnOutputError() == 0.2);
  const v1::ReportTotals totals = sums.Totals();
  CHECK(totals.weights() == 5);
  CHECK(totals.bits_per_weight() == 8);
  CHECK(totals.mse_ratio_to_rtn() == Approx(0.5));
  CHECK(totals.histogram().counts_size() == kHistogramBins);
  CHECK(totals.histogram().counts(2) == 5);
  CHECK(totals.phases().factor() == 0.5);
  CHECK(totals.phases().encode() == 1.25);
  CHECK(totals.phases().report() == 0);
  CHECK(totals.worker_seconds() == 1.75);
  CHECK(totals.memory_bytes() == 9000);
  CHECK(totals.warnings() == 1);
  CHECK(totals.devices_size() == 2);
  CHECK(totals.devices(1) == "gpu");
  CHECK(totals.algorithms_size() == 1);
  const v1::SolverFacts& solver = totals.solver();
  CHECK(solver.damping() == 0.1);
  CHECK(solver.damping_retries() == 1);
  CHECK(solver.factor_in_f64());
  CHECK_FALSE(solver.diagonal_only());
  CHECK(solver.dead_columns() == 7);
  CHECK(solver.clip_histogram(9) == 7);
  CHECK(solver.clip_histogram(0) == 1);
  CHECK(solver.scale_exponent() == 0.75);
  CHECK(solver.scale_duo());
  CHECK(solver.scale_min() == 0.25);
  CHECK(solver.scale_max() == 4);
  CHECK(solver.iterations() == Approx((3 * 3 + 2 * 8) / 5.0));
  CHECK(solver.codes_changed() == 3);
}

TEST_CASE("the worst groups of all tensors, worst first") {
  ReportSums sums;
  for (int t = 0; t < 3; ++t) {
    TensorReport report = MakeReport("t" + std::to_string(t), kLoud);
    for (int g = 0; g < 4; ++g) {
      report.worst_groups.push_back({10 * t + g, 8.0 - g + t});
    }
    sums.Add(ReportToProto(report));
  }
  const v1::ReportTotals totals = sums.Totals();
  std::vector<std::pair<std::string, int64_t>> got;
  for (const v1::WorstGroup& group : totals.worst_groups()) {
    got.emplace_back(group.tensor(), group.group());
  }
  // 10; 9, 9; 8, 8, 8; 7, 7 of three: the first of equals.
  CHECK(got == std::vector<std::pair<std::string, int64_t>>{{"t2", 20},
                                                            {"t1", 10},
                                                            {"t2", 21},
                                                            {"t0", 0},
                                                            {"t1", 11},
                                                            {"t2", 22},
                                                            {"t0", 1},
                                                            {"t1", 12}});
  CHECK(totals.worst_groups(0).mean_squared_error() == 10);
}

TEST_CASE("what was not rounded to nearest has no ratio to it") {
  ReportSums sums;
  v1::TensorReport report;
  report.mutable_error()->set_count(8);
  report.mutable_error()->set_mean_squared_error(0.5);
  report.set_output_error(0.25);
  sums.Add(report);
  CHECK(sums.MseRatioToRtn() == 0);
  CHECK(sums.Totals().mse_ratio_to_rtn() == 0);
  CHECK(sums.OutputError() == 0.25);
  CHECK_FALSE(sums.RtnOutputError());
  CHECK(sums.rtn().count() == 0);
}

TEST_CASE("tensors without figures have none together") {
  ReportSums sums;
  CHECK(sums.MseRatioToRtn() == 1);
  TensorReport bare;
  bare.name = std::string("a");
  bare.shape = {4, 8};
  sums.Add(ReportToProto(bare));
  const v1::ReportTotals totals = sums.Totals();
  CHECK(totals.weights() == 32);
  CHECK(totals.mse_ratio_to_rtn() == 0);
  CHECK_FALSE(totals.has_solver());
  CHECK_FALSE(totals.has_histogram());
  CHECK(totals.worst_groups().empty());
  CHECK_FALSE(sums.OutputError());
}

}  // namespace
}  // namespace qs

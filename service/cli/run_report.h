// RunReport: everything that is known about one run of `quantctl quantize`, and
// its three forms: JSON, a table, a page.
//
// The JSON ("schema": "quantd.report/1"): created, quantctl, server, input
// {path, data_bytes}, output {path, data_bytes}, calibration (a path, or
// empty), target, streams, seconds; `plan` {summary, entries, files, findings,
// sites}; `summary` {tensors, weights, bytes_in, bytes_out, bits_per_weight,
// error, rtn, mse_ratio_to_rtn, histogram, with_output_error, output_error,
// rtn_output_error, worker_seconds, phases, memory_bytes, warnings,
// worst_groups, solver (or null), devices, algorithms}; `tensors`; `folded`:
// tensors that were not quantized and changed. plan, target, tensors and folded
// hold the messages of the .proto under its field names: PlanEntry, PlanFile,
// Finding, PlanSite, PlanSummary, Target, TensorReport, ErrorStats, WorstGroup,
// PhaseSeconds, SolverFacts; the summary's own are ReportTotals'. Integers are
// numbers; a figure that is infinite (the SQNR without any error) is null.
// Fields may be added under the same schema name; readers leave unknown ones
// aside.
#ifndef QS_SERVICE_CLI_RUN_REPORT_H_
#define QS_SERVICE_CLI_RUN_REPORT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/v1/quantization.pb.h"
#include "service/cli/plan_client.h"
#include "service/server/report_sums.h"

namespace qs::cli {

struct RunReport {
  std::string created;  // RFC 3339
  std::string server;
  std::string input_path;
  std::string output_path;
  std::string calibration_path;  // empty: none
  int64_t input_bytes = 0;       // of tensors
  int64_t output_bytes = 0;
  quant::v1::Target target;
  int streams = 0;
  double seconds = 0;
  PlanAnswer plan;
  std::vector<quant::v1::TensorReport> tensors;  // checkpoint order
  // Carried tensors that took up scales and so changed.
  std::vector<quant::v1::TensorReport> folded;
};

// Over all tensors that have error statistics, weight by weight; sizes over
// all (service/server/report_sums.h).
struct RunTotals {
  int64_t tensors = 0;
  int64_t weights = 0;
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  double bits_per_weight = 0;
  quant::v1::ErrorStats error;
  quant::v1::ErrorStats rtn;
  double mse_ratio_to_rtn = 0;  // NaN without rounding to nearest
  std::vector<int64_t> histogram;
  // Means over the tensors that have one; 0 tensors: there was no calibration.
  int64_t with_output_error = 0;
  double output_error = 0;
  double rtn_output_error = 0;  // NaN: none has one
  double worker_seconds = 0;
  int64_t memory_bytes = 0;  // the most that one of them took of the server's
  int64_t warnings = 0;
  // The rest, and what of the above it has, as a server's own summary has it.
  quant::v1::ReportTotals all;
};
RunTotals TotalsOf(const std::vector<quant::v1::TensorReport>& tensors);

// NaN where the report has none: one bit cannot be rounded to nearest.
double RatioToRtn(const quant::v1::TensorReport& tensor);
double RtnOutputError(const quant::v1::TensorReport& tensor);

// How often plan entries have an action.
struct PlanCounts {
  int64_t quantized = 0;
  int64_t carried = 0;
  int64_t tied = 0;
  int64_t carried_bytes = 0;
};
PlanCounts CountsOf(const PlanAnswer& plan);

// What the solver did, in words: "damping 0.01, 3 dead columns"; empty when the
// report does not say.
std::string SolverText(const quant::v1::TensorReport& tensor);
// "method, bits, groups, symmetry, format".
std::string ConfigText(const quant::v1::QuantizationConfig& resolved);

// How much of the calibration an expert of a mixture saw: the fewest tokens of
// its tensors' sites, as gate and up may share one of the whole layer.
struct ExpertTokens {
  std::string layer;
  int64_t expert = 0;
  int64_t tokens = 0;
};
// In checkpoint order of layers, then by expert; empty without experts or
// calibration.
std::vector<ExpertTokens> ExpertTokensOf(
    const std::vector<quant::v1::TensorReport>& tensors);

std::string ReportToJson(const RunReport& report);
// Errors: kBadInput — not JSON, another schema, or a field of a wrong type.
absl::StatusOr<RunReport> ReportFromJson(std::string_view text);

// "schema": "quantd.plan/1" with the report's `plan`.
std::string PlanToJson(const PlanAnswer& plan);

// "rule tensor: text" in one line.
std::string FindingText(const quant::v1::Finding& finding);

std::string ReportTable(const RunReport& report);
std::string PlanTable(const PlanAnswer& plan);

// One page that needs nothing else: styles and charts are inline, there is no
// script. Follows the reader's light or dark theme.
std::string ReportHtml(const RunReport& report);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_RUN_REPORT_H_

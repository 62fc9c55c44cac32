// Tested by tests/cli/compare_test.cc.
#include "service/cli/compare_report.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "quant/formats/utf8.h"
#include "service/cli/arguments.h"
#include "service/cli/report_json.h"
#include "service/cli/run_report.h"
#include "service/cli/text_table.h"
#include "service/cli/totals_text.h"

namespace qs::cli {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> RowOf(const MethodRun& run) {
  const RunTotals totals = TotalsOf(run.tensors);
  const bool has_error = totals.error.count() > 0;
  const bool has_output = totals.with_output_error > 0;
  return {run.name,
          absl::StrCat(totals.tensors),
          FormatFixed(totals.bits_per_weight, 3),
          FormatBytes(totals.bytes_out),
          has_error ? FormatError(totals.error.mean_squared_error()) : "-",
          has_error ? FormatFixed(totals.error.sqnr_db(), 2) : "-",
          has_error ? CosineText(totals.error) : "-",
          has_output ? FormatError(totals.output_error) : "-",
          FormatBytes(totals.memory_bytes),
          FormatFixed(WeightsPerSecond(run) / 1e6, 1),
          FormatFixed(totals.worker_seconds, 2)};
}

Json MethodJson(const MethodRun& run) {
  Json json;
  json["name"] = run.name;
  json["refused"] = run.refused;
  json["resolved"] = MessageToJson(run.resolved);
  json["seconds"] = run.seconds;
  json["weights_per_second"] = WeightsPerSecond(run);
  json["summary"] = TotalsToJson(TotalsOf(run.tensors));
  json["tensors"] = MessagesToJson(run.tensors);
  return json;
}

}  // namespace

double WeightsPerSecond(const MethodRun& run) {
  const RunTotals totals = TotalsOf(run.tensors);
  if (totals.worker_seconds <= 0) return 0;
  return static_cast<double>(totals.weights) / totals.worker_seconds;
}

std::string CompareTable(const CompareReport& report) {
  TextTable table({{"method", Align::kLeft},
                   {"tensors"},
                   {"bits/weight"},
                   {"bytes out"},
                   {"MSE"},
                   {"SQNR dB"},
                   {"cosine"},
                   {"output error"},
                   {"memory"},
                   {"Mweights/s"},
                   {"worker s"}});
  std::string refused;
  std::string phases;
  for (const MethodRun& run : report.methods) {
    if (run.refused.empty()) {
      table.AddRow(RowOf(run));
      const std::string text = PhasesText(TotalsOf(run.tensors).all.phases());
      if (!text.empty()) absl::StrAppend(&phases, run.name, ": ", text, "\n");
    } else {
      absl::StrAppend(&refused, run.name,
                      " did not run: ", EscapeControlsInLines(run.refused),
                      "\n");
    }
  }
  return absl::StrCat(table.Text(), phases.empty() ? "" : "\nworker time\n",
                      phases, refused.empty() ? "" : "\n", refused);
}

std::string CompareToJson(const CompareReport& report) {
  Json json;
  json["schema"] = "quantd.compare/1";
  json["created"] = report.created;
  json["quantctl"] = kVersion;
  json["server"] = report.server;
  json["input"] = report.input_path;
  json["calibration"] = report.calibration_path;
  json["bits"] = report.bits;
  json["group_size"] = report.group_size;
  json["methods"] = Json::array();
  for (const MethodRun& run : report.methods) {
    json["methods"].push_back(MethodJson(run));
  }
  return DumpJson(json);
}

}  // namespace qs::cli

// Tested by tests/cli/report_test.cc.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "service/cli/run_report.h"
#include "service/cli/text_table.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

std::vector<std::string> Figures(double bits, bool has_error,
                                 const v1::ErrorStats& error, double ratio) {
  std::vector<std::string> cells = {FormatFixed(bits, 3)};
  if (has_error) {
    cells.push_back(FormatError(error.mean_squared_error()));
    cells.push_back(FormatFixed(error.sqnr_db(), 2));
    cells.push_back(FormatFixed(ratio, 3));
  } else {
    cells.insert(cells.end(), 3, "-");
  }
  return cells;
}

void AddRow(TextTable* table, std::vector<std::string> cells,
            const std::vector<std::string>& figures) {
  cells.insert(cells.end(), figures.begin(), figures.end());
  table->AddRow(std::move(cells));
}

std::string Percent(int64_t part, int64_t whole) {
  if (whole <= 0) return "";
  return absl::StrFormat(" (%.1f%%)", 100.0 * static_cast<double>(part) /
                                          static_cast<double>(whole));
}

std::string ActionText(const v1::PlanEntry& entry) {
  switch (entry.action()) {
    case v1::PlanEntry::QUANTIZE:
      return "quantize";
    case v1::PlanEntry::TIED:
      return "tied";
    default:
      return "carry";
  }
}

std::string WhyText(const v1::PlanEntry& entry) {
  if (entry.action() == v1::PlanEntry::TIED) return "to " + entry.tied_to();
  if (entry.action() == v1::PlanEntry::QUANTIZE) return entry.site();
  return entry.reason();
}

std::string FilesText(const PlanAnswer& plan) {
  TextTable table({{"file", Align::kLeft},
                   {"action", Align::kLeft},
                   {"reason", Align::kLeft}});
  for (const v1::PlanFile& file : plan.files) {
    const char* action = file.action() == v1::PlanFile::COPY      ? "copy"
                         : file.action() == v1::PlanFile::REWRITE ? "rewrite"
                                                                  : "skip";
    table.AddRow({file.path(), action, file.reason()});
  }
  return plan.files.empty() ? "" : absl::StrCat("\n", table.Text());
}

std::string FindingsText(const PlanAnswer& plan) {
  std::string text;
  for (const v1::Finding& finding : plan.findings) {
    absl::StrAppend(
        &text, finding.severity() == v1::Finding::ERROR ? "error " : "warning ",
        finding.rule(), finding.tensor().empty() ? "" : " ", finding.tensor(),
        ": ", finding.text(), "\n");
  }
  return text.empty() ? "" : absl::StrCat("\n", text);
}

// "loads in: vLLM 0.33.0"; empty when nothing is known to load it.
std::string EnginesText(const v1::PlanSummary& summary) {
  if (summary.engines_size() == 0) return "";
  return absl::StrCat("loads in: ", absl::StrJoin(summary.engines(), ", "),
                      "\n");
}

std::string SummaryText(const PlanAnswer& plan) {
  const PlanCounts counts = CountsOf(plan);
  const v1::PlanSummary& summary = plan.summary;
  std::string text = absl::StrCat(
      "\n", summary.architecture(), ": ", counts.quantized, " to quantize, ",
      counts.carried, " carried, ", counts.tied, " tied; ",
      FormatBytes(summary.bytes_in()), " -> ", FormatBytes(summary.bytes_out()),
      Percent(summary.bytes_out(), summary.bytes_in()), "\n");
  text += EnginesText(summary);
  if (summary.refused()) absl::StrAppend(&text, "refused: see the errors\n");
  return text;
}

}  // namespace

std::string ReportTable(const RunReport& report) {
  TextTable table({{"tensor", Align::kLeft},
                   {"shape", Align::kLeft},
                   {"bits/weight"},
                   {"MSE"},
                   {"SQNR dB"},
                   {"ratio to RTN"}});
  for (const v1::TensorReport& tensor : report.tensors) {
    AddRow(&table, {tensor.name(), FormatShape(tensor.shape())},
           Figures(tensor.bits_per_weight(), tensor.has_error(), tensor.error(),
                   tensor.mse_ratio_to_rtn()));
  }
  const RunTotals totals = TotalsOf(report);
  table.AddRule();
  AddRow(
      &table,
      {absl::StrCat("total: ", totals.tensors, " tensors"),
       FormatBytes(totals.bytes_in) + " -> " + FormatBytes(totals.bytes_out)},
      Figures(totals.bits_per_weight, totals.error.count() > 0, totals.error,
              totals.mse_ratio_to_rtn));
  const PlanCounts counts = CountsOf(report.plan);
  return absl::StrCat(
      table.Text(), "\nweights ", FormatBytes(report.input_bytes), " -> ",
      FormatBytes(report.output_bytes),
      Percent(report.output_bytes, report.input_bytes), "; ", counts.carried,
      " tensors carried (", FormatBytes(counts.carried_bytes), "), ",
      counts.tied, " tied; ", FormatFixed(report.seconds, 1), " s\n",
      EnginesText(report.plan.summary));
}

std::string PlanTable(const PlanAnswer& plan) {
  TextTable table({{"tensor", Align::kLeft},
                   {"action", Align::kLeft},
                   {"bytes in"},
                   {"bytes out"},
                   {"site, or why not", Align::kLeft}});
  for (const v1::PlanEntry& entry : plan.entries) {
    table.AddRow({entry.name(), ActionText(entry),
                  absl::StrCat(entry.bytes_in()),
                  absl::StrCat(entry.bytes_out()), WhyText(entry)});
  }
  return table.Text() + FilesText(plan) + FindingsText(plan) +
         SummaryText(plan);
}

}  // namespace qs::cli

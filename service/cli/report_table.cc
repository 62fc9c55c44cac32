// Tested by tests/cli/report_test.cc.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "quant/formats/utf8.h"
#include "service/cli/run_report.h"
#include "service/cli/text_table.h"
#include "service/cli/totals_text.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

// Columns beside a tensor's name and shape. Those of a calibration are left
// out of a report without one.
struct RowFigures {
  double bits = 0;
  const v1::ErrorStats* error = nullptr;  // null: none
  double ratio = 0;
  bool has_output = false;
  double output_error = 0;
  double rtn_output_error = 0;
  std::string tokens;  // that its site saw
};

RowFigures FiguresOf(const v1::TensorReport& tensor) {
  return {tensor.bits_per_weight(),
          tensor.has_error() ? &tensor.error() : nullptr,
          RatioToRtn(tensor),
          tensor.has_output_error(),
          tensor.output_error(),
          RtnOutputError(tensor),
          absl::StrCat(tensor.tokens())};
}

RowFigures FiguresOf(const RunTotals& totals) {
  return {totals.bits_per_weight,
          totals.error.count() > 0 ? &totals.error : nullptr,
          totals.mse_ratio_to_rtn,
          totals.with_output_error > 0,
          totals.output_error,
          totals.rtn_output_error,
          ""};
}

std::vector<std::string> Cells(const RowFigures& row, bool with_output) {
  std::vector<std::string> cells = {FormatFixed(row.bits, 3)};
  if (row.error != nullptr) {
    cells.push_back(FormatError(row.error->mean_squared_error()));
    cells.push_back(FormatFixed(row.error->sqnr_db(), 2));
    cells.push_back(FormatFixed(row.ratio, 3));
  } else {
    cells.insert(cells.end(), 3, "-");
  }
  if (!with_output) return cells;
  if (row.has_output) {
    cells.push_back(FormatError(row.output_error));
    cells.push_back(FormatError(row.rtn_output_error));
    cells.push_back(row.tokens);
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
    case v1::PlanEntry::SPLIT:
      return "split";
    default:
      return "carry";
  }
}

std::string WhyText(const v1::PlanEntry& entry) {
  if (entry.action() == v1::PlanEntry::TIED) return "to " + entry.tied_to();
  if (entry.action() == v1::PlanEntry::QUANTIZE) {
    const std::string rule =
        entry.rule() > 0 ? absl::StrCat("; override ", entry.rule()) : "";
    return entry.site() + rule;
  }
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
        FindingText(finding), "\n");
  }
  return text.empty() ? "" : absl::StrCat("\n", text);
}

// The first warnings, one a line.
std::string WarningsText(const RunReport& report, int64_t warnings) {
  constexpr int64_t kShown = 10;
  std::string text;
  int64_t shown = 0;
  for (const v1::TensorReport& tensor : report.tensors) {
    for (const std::string& warning : tensor.warnings()) {
      if (shown == kShown) {
        return absl::StrCat(text, "and ", warnings - shown, " more warnings\n");
      }
      ++shown;
      absl::StrAppend(&text, "warning ", EscapeControls(tensor.name()), ": ",
                      EscapeControls(warning), "\n");
    }
  }
  return text;
}

// "9 of them scaled, ".
std::string FoldedText(const RunReport& report) {
  if (report.folded.empty()) return "";
  return absl::StrCat(report.folded.size(), " of them scaled, ");
}

// "experts of layer 3: 12 to 4096 tokens".
std::string ExpertsText(const RunReport& report) {
  std::string text;
  const std::vector<ExpertTokens> experts = ExpertTokensOf(report.tensors);
  for (size_t i = 0; i < experts.size();) {
    const std::string& layer = experts[i].layer;
    int64_t least = experts[i].tokens;
    int64_t most = least;
    for (; i < experts.size() && experts[i].layer == layer; ++i) {
      least = std::min(least, experts[i].tokens);
      most = std::max(most, experts[i].tokens);
    }
    absl::StrAppend(&text, "experts of layer ", EscapeControls(layer), ": ",
                    least, " to ", most, " tokens each\n");
  }
  return text;
}

// "loads in: vLLM 0.33.0"; empty when nothing is known to load it.
std::string EnginesText(const v1::PlanSummary& summary) {
  if (summary.engines_size() == 0) return "";
  return absl::StrCat(
      "loads in: ", EscapeControls(absl::StrJoin(summary.engines(), ", ")),
      "\n");
}

std::string SummaryText(const PlanAnswer& plan) {
  const PlanCounts counts = CountsOf(plan);
  const v1::PlanSummary& summary = plan.summary;
  std::string text = absl::StrCat(
      "\n", EscapeControls(summary.architecture()), ": ", counts.quantized,
      " to quantize, ", counts.carried, " carried, ", counts.tied, " tied; ",
      FormatBytes(summary.bytes_in()), " -> ", FormatBytes(summary.bytes_out()),
      Percent(summary.bytes_out(), summary.bytes_in()), "\n");
  if (!summary.refused()) text += EnginesText(summary);
  if (summary.refused()) absl::StrAppend(&text, "refused: see the errors\n");
  return text;
}

}  // namespace

std::string FindingText(const v1::Finding& finding) {
  return EscapeControls(absl::StrCat(finding.rule(),
                                     finding.tensor().empty() ? "" : " ",
                                     finding.tensor(), ": ", finding.text()));
}

std::string ReportTable(const RunReport& report) {
  const RunTotals totals = TotalsOf(report.tensors);
  const bool with_output = totals.with_output_error > 0;
  std::vector<TextTable::Column> columns = {{"tensor", Align::kLeft},
                                            {"shape", Align::kLeft},
                                            {"bits/weight"},
                                            {"MSE"},
                                            {"SQNR dB"},
                                            {"ratio to RTN"}};
  if (with_output) {
    columns.push_back({"output error"});
    columns.push_back({"RTN's"});
    columns.push_back({"tokens"});
  }
  TextTable table(columns);
  for (const v1::TensorReport& tensor : report.tensors) {
    AddRow(&table, {tensor.name(), FormatShape(tensor.shape())},
           Cells(FiguresOf(tensor), with_output));
  }
  table.AddRule();
  AddRow(
      &table,
      {"total: " + Counted(totals.tensors, "tensor"),
       FormatBytes(totals.bytes_in) + " -> " + FormatBytes(totals.bytes_out)},
      Cells(FiguresOf(totals), with_output));
  const PlanCounts counts = CountsOf(report.plan);
  return absl::StrCat(
      table.Text(), "\nweights ", FormatBytes(report.input_bytes), " -> ",
      FormatBytes(report.output_bytes),
      Percent(report.output_bytes, report.input_bytes), "; ",
      Counted(counts.carried, "tensor"), " carried (",
      FormatBytes(counts.carried_bytes), "), ", FoldedText(report), counts.tied,
      " tied; ", FormatFixed(report.seconds, 1), " s\n",
      CarriedText(report.plan.summary),
      TotalsText({&totals.error, &totals.rtn, &totals.all}),
      ExpertsText(report), WarningsText(report, totals.warnings),
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

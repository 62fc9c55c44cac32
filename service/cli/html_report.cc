// Tested by tests/cli/report_test.cc.
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "service/cli/html_charts.h"
#include "service/cli/html_page.h"
#include "service/cli/html_tables.h"
#include "service/cli/run_report.h"
#include "service/cli/svg.h"
#include "service/cli/text_table.h"
#include "service/cli/totals_text.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

std::string Number(bool has, const std::string& text) {
  return Cell(has ? text : "-", "n");
}

std::string SizeCells(int64_t bytes_in, int64_t bytes_out) {
  return Cell(FormatBytes(bytes_in), "n") + Cell(FormatBytes(bytes_out), "n");
}

std::string FigureCells(double bits, bool has_error,
                        const v1::ErrorStats& error, double ratio) {
  return Cell(FormatFixed(bits, 3), "n") +
         Number(has_error, FormatError(error.mean_squared_error())) +
         Number(has_error, FormatFixed(error.sqnr_db(), 2)) +
         Number(has_error, FormatFixed(ratio, 3));
}

// With a calibration: output error, RTN's, and tokens.
std::string OutputCells(const RunTotals& totals, bool has, double error,
                        double rtn, const std::string& tokens) {
  if (totals.with_output_error == 0) return "";
  return Number(has, FormatError(error)) + Number(has, FormatError(rtn)) +
         Number(has, tokens);
}

std::string TensorHead(const RunTotals& totals) {
  return totals.with_output_error == 0
             ? Head({"tensor", "shape"},
                    {"bytes in", "bytes out", "bits/weight", "MSE", "SQNR dB",
                     "ratio to RTN", "solver"})
             : Head({"tensor", "shape"},
                    {"bytes in", "bytes out", "bits/weight", "MSE", "SQNR dB",
                     "ratio to RTN", "output error", "RTN&#39;s", "tokens",
                     "solver"});
}

std::string TensorRow(const v1::TensorReport& tensor, const RunTotals& totals) {
  return absl::StrCat(
      "<tr>", Cell(tensor.name(), "name"), Cell(FormatShape(tensor.shape())),
      SizeCells(tensor.bytes_in(), tensor.bytes_out()),
      FigureCells(tensor.bits_per_weight(), tensor.has_error(), tensor.error(),
                  RatioToRtn(tensor)),
      OutputCells(totals, tensor.has_output_error(), tensor.output_error(),
                  RtnOutputError(tensor), absl::StrCat(tensor.tokens())),
      Cell(SolverText(tensor), "n"), "</tr>\n");
}

std::string TensorTable(const RunReport& report, const RunTotals& totals) {
  std::string html = "<div class=\"scroll\"><table>" + TensorHead(totals);
  for (const v1::TensorReport& tensor : report.tensors) {
    html += TensorRow(tensor, totals);
  }
  absl::StrAppend(
      &html, "<tr class=\"total\">", Cell("total"),
      Cell(absl::StrCat(totals.tensors, " tensors")),
      SizeCells(totals.bytes_in, totals.bytes_out),
      FigureCells(totals.bits_per_weight, totals.error.count() > 0,
                  totals.error, totals.mse_ratio_to_rtn),
      OutputCells(totals, true, totals.output_error, totals.rtn_output_error,
                  ""),
      Cell(SolverFactsText(totals.all.solver(), totals.weights), "n"),
      "</tr>\n</tbody></table></div>\n");
  return html;
}

std::string WarningTable(const RunReport& report, const RunTotals& totals) {
  if (totals.warnings == 0) return "";
  std::string html =
      "<div class=\"scroll\"><table>" + Head({"tensor", "warning"}, {});
  for (const v1::TensorReport& tensor : report.tensors) {
    for (const std::string& warning : tensor.warnings()) {
      absl::StrAppend(&html, "<tr>", Cell(tensor.name(), "name"), Cell(warning),
                      "</tr>\n");
    }
  }
  return html + "</tbody></table></div>\n";
}

std::string FoldedTable(const RunReport& report) {
  if (report.folded.empty()) return "";
  std::string html =
      "<details><summary>Tensors that took up scales</summary>"
      "<div class=\"scroll\"><table>" +
      Head({"tensor", "shape"}, {});
  for (const v1::TensorReport& tensor : report.folded) {
    absl::StrAppend(&html, "<tr>", Cell(tensor.name(), "name"),
                    Cell(FormatShape(tensor.shape())), "</tr>\n");
  }
  return html + "</tbody></table></div></details>\n";
}

std::string CarriedTable(const PlanAnswer& plan) {
  std::string html =
      "<div class=\"scroll\"><table>" + Head({"tensor", "why"}, {"bytes"});
  for (const v1::PlanEntry& entry : plan.entries) {
    if (entry.action() == v1::PlanEntry::QUANTIZE) continue;
    const std::string why = entry.action() == v1::PlanEntry::TIED
                                ? "tied to " + entry.tied_to()
                                : entry.reason();
    absl::StrAppend(&html, "<tr>", Cell(entry.name(), "name"), Cell(why),
                    Cell(FormatBytes(entry.bytes_in()), "n"), "</tr>\n");
  }
  return html + "</tbody></table></div>\n";
}

std::string FilesTable(const PlanAnswer& plan) {
  std::string html =
      "<div class=\"scroll\"><table>" + Head({"file", "action", "reason"}, {});
  for (const v1::PlanFile& file : plan.files) {
    absl::StrAppend(&html, "<tr>", Cell(file.path(), "name"),
                    Cell(v1::PlanFile::Action_Name(file.action())),
                    Cell(file.reason()), "</tr>\n");
  }
  return html + "</tbody></table></div>\n";
}

std::string FindingsTable(const PlanAnswer& plan) {
  if (plan.findings.empty()) return "";
  std::string html = "<div class=\"scroll\"><table>" +
                     Head({"finding", "rule", "tensor", "text"}, {});
  for (const v1::Finding& finding : plan.findings) {
    absl::StrAppend(&html, "<tr>",
                    Cell(v1::Finding::Severity_Name(finding.severity())),
                    Cell(finding.rule()), Cell(finding.tensor(), "name"),
                    Cell(finding.text()), "</tr>\n");
  }
  return html + "</tbody></table></div>\n";
}

std::string PercentText(double value) {
  return std::isfinite(value) ? absl::StrFormat("%.3g%%", 100 * value) : "inf";
}

std::string Tiles(const RunReport& report, const RunTotals& totals) {
  const bool has_error = totals.error.count() > 0;
  const double rate =
      report.seconds > 0 ? static_cast<double>(totals.bytes_in) / report.seconds
                         : 0;
  return absl::StrCat(
      "<div class=\"tiles\">",
      Tile(FormatBytes(report.input_bytes) + " \xe2\x86\x92 " +
               FormatBytes(report.output_bytes),
           "all tensors, before and after"),
      Tile(FormatFixed(totals.bits_per_weight, 3), "bits per quantized weight"),
      Tile(has_error ? FormatFixed(totals.error.sqnr_db(), 2) + " dB" : "-",
           "signal to error (SQNR)"),
      Tile(has_error ? FormatFixed(totals.mse_ratio_to_rtn, 3) : "-",
           "MSE over RTN at the same bits"),
      totals.with_output_error == 0
          ? ""
          : Tile(PercentText(totals.output_error),
                 "mean output error; RTN " +
                     PercentText(totals.rtn_output_error)),
      Tile(FormatFixed(report.seconds, 1) + " s",
           absl::StrCat("in all; ", FormatBytes(static_cast<int64_t>(rate)),
                        "/s, ", report.streams, " streams")),
      totals.memory_bytes == 0
          ? ""
          : Tile(FormatBytes(totals.memory_bytes),
                 "of the server's memory, at most for a tensor or a group"),
      "</div>\n");
}

std::string ErrorKey() {
  return Key("dot", "ours", "this result") +
         Key("ring", "rtn", "round to nearest, same bits and group");
}

std::string Charts(const RunReport& report, const RunTotals& totals) {
  return absl::StrCat(
      Card("Output error by layer",
           "Of each tensor&#39;s output, on the calibration&#39;s own tokens: "
           "tr(dW H dW&#39;) / tr(W H W&#39;)",
           ErrorKey(), OutputErrorChart(report)),
      Card("Error by tensor", "Relative error, ||W - W&#39;|| / ||W||",
           ErrorKey(), ErrorChart(report)),
      "<div class=\"pair\">",
      Card("Error histogram", "All quantized weights, by error over step",
           Key("", "ours", "the last bin also holds what is above"),
           HistogramChart(report, totals)),
      Card("Size", "Tensor data before and after",
           Key("", "source", "to quantize") + Key("", "ours", "quantized") +
               Key("", "carried", "carried unchanged"),
           SizeChart(report, totals)),
      Card("Bits against error", "Every quantized tensor", ErrorKey(),
           BitsChart(report)),
      Card("Time",
           absl::StrCat("Of the server&#39;s workers, ",
                        FormatFixed(totals.worker_seconds, 2), " s in all"),
           "", PhaseChart(totals) + TimeTable(report, totals)),
      Card("Clip limits", "Groups by the part of their range that is kept", "",
           ClipChart(report)),
      "</div>\n",
      Card("Tokens per expert",
           "Calibration tokens that reached each expert; one that saw few "
           "borrows from its layer",
           "", ExpertChart(report)));
}

// "round to nearest, 4 bits, groups of 128, symmetric; rtn-best/1 on cpu:0".
std::string MethodText(const RunReport& report, const RunTotals& totals) {
  const std::string text = ConfigText(report.plan.summary.resolved());
  if (report.tensors.empty()) return text;
  return absl::StrCat(text, text.empty() ? "" : "; ", MadeByText(totals.all));
}

std::string BaseName(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

std::string Header(const RunReport& report, const RunTotals& totals) {
  const v1::PlanSummary& summary = report.plan.summary;
  return absl::StrCat("<h1>", HtmlEscape(BaseName(report.output_path)),
                      ": quantization report</h1>\n<dl>\n",
                      Fact("from", report.input_path),
                      Fact("to", report.output_path),
                      Fact("architecture", summary.architecture()),
                      Fact("method", MethodText(report, totals)),
                      Fact("calibration", report.calibration_path),
                      Fact("loads in", absl::StrJoin(summary.engines(), ", ")),
                      Fact("made", report.created), "</dl>\n");
}

}  // namespace

std::string ReportHtml(const RunReport& report) {
  const RunTotals totals = TotalsOf(report.tensors);
  const PlanCounts counts = CountsOf(report.plan);
  return HtmlPage(
      BaseName(report.output_path) + ": quantization report",
      absl::StrCat(
          Header(report, totals), Tiles(report, totals), Charts(report, totals),
          Card("Warnings", "What to look at before the result is used", "",
               WarningTable(report, totals)),
          Card("Figures",
               "w as it came, e what it lost: relative is ||e|| / ||w||", "",
               FiguresTable(report, totals)),
          Card("Worst groups", "By mean squared error, in storage order", "",
               WorstGroupsTable(report, totals)),
          Card("Tensors", "Every quantized tensor, in checkpoint order", "",
               TensorTable(report, totals) + FoldedTable(report)),
          Card("Plan",
               absl::StrCat(counts.quantized, " quantized, ", counts.carried,
                            " carried, ", counts.tied, " tied"),
               "",
               FindingsTable(report.plan) +
                   "<details><summary>Tensors left as they are</summary>" +
                   CarriedTable(report.plan) +
                   "</details><details><summary>Files</summary>" +
                   FilesTable(report.plan) + "</details>")));
}

}  // namespace qs::cli

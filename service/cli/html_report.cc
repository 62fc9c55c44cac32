// Tested by tests/cli/report_test.cc.
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "service/cli/html_charts.h"
#include "service/cli/run_report.h"
#include "service/cli/svg.h"
#include "service/cli/text_table.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

constexpr char kStyle[] = R"css(
:root { color-scheme: light dark;
  --page: #f6f6f3; --card: #ffffff; --ink: #16191d; --soft: #5d6670;
  --line: #e3e5e3; --ours: #1f6feb; --rtn: #8b929a; --source: #b9c0c8;
  --carried: #e0a638; --on-ours: #ffffff; --on-other: #16191d; }
@media (prefers-color-scheme: dark) { :root {
  --page: #101214; --card: #181b1f; --ink: #eceef0; --soft: #9aa4ae;
  --line: #2b3036; --ours: #5b9dff; --rtn: #8d969f; --source: #59626c;
  --carried: #c28a1d; --on-ours: #0b0d0f; --on-other: #ffffff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; margin: 12px 0 0;
  gap: 2px 16px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0; }
p { margin: 4px 0 0; color: var(--soft); }
.tiles { display: grid; gap: 12px; margin: 24px 0 12px;
  grid-template-columns: repeat(auto-fit, minmax(146px, 1fr)); }
.tile:first-child { grid-column: span 2; }
.tile, .card { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 19px; font-weight: 600;
  white-space: nowrap; }
.tile span { color: var(--soft); font-size: 13px; }
.card { margin-top: 12px; min-width: 0; }
.pair { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); }
svg { display: block; width: 100%; height: auto; margin-top: 10px; }
.card { overflow-x: auto; }
svg.wide { min-width: 640px; }
svg text { fill: var(--soft); font-size: 12px; }
svg text.title { fill: var(--ink); }
svg rect.ours + text.inside { fill: var(--on-ours); }
svg text.inside { fill: var(--on-other); font-weight: 600; }
.grid { stroke: var(--line); }
.stem { stroke: var(--rtn); stroke-width: 1.5; }
.dense .stem { stroke-width: 1; opacity: 0.35; }
.dense circle.rtn { fill: var(--rtn); stroke: none; }
circle.rtn { fill: var(--card); stroke: var(--rtn); stroke-width: 1.5; }
circle.ours, rect.ours { fill: var(--ours); }
rect.source { fill: var(--source); }
rect.carried { fill: var(--carried); }
.mark:hover circle.ours { stroke: var(--ink); stroke-width: 2; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 6px;
  color: var(--soft); font-size: 13px; }
.key i { display: inline-block; width: 11px; height: 11px; margin-right: 6px;
  border-radius: 3px; background: var(--c); vertical-align: -1px; }
.key i.ring { border-radius: 50%; background: none;
  border: 2px solid var(--rtn); }
.key i.dot { border-radius: 50%; }
.scroll { overflow: auto; margin-top: 10px; max-height: 640px; }
@media print { .scroll { max-height: none; } }
table { border-collapse: collapse; width: 100%; font-size: 13px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 500;
  position: sticky; top: 0; background: var(--card); }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
td.n, th.n { text-align: right; }
tr.total td { font-weight: 600; }
td.name { font-family: ui-monospace, Menlo, Consolas, monospace; }
details { margin-top: 10px; }
summary { cursor: pointer; color: var(--soft); }
)css";

std::string Tile(const std::string& value, const std::string& label) {
  return absl::StrCat("<div class=\"tile\"><b>", HtmlEscape(value),
                      "</b><span>", HtmlEscape(label), "</span></div>\n");
}

std::string Cell(const std::string& text, const char* name = "") {
  return absl::StrCat("<td", *name == 0 ? "" : " class=\"", name,
                      *name == 0 ? ">" : "\">", HtmlEscape(text), "</td>");
}

std::string Head(std::initializer_list<const char*> left,
                 std::initializer_list<const char*> right) {
  std::string html = "<thead><tr>";
  for (const char* text : left) absl::StrAppend(&html, "<th>", text, "</th>");
  for (const char* text : right) {
    absl::StrAppend(&html, "<th class=\"n\">", text, "</th>");
  }
  return html + "</tr></thead>\n<tbody>\n";
}

std::string FigureCells(double bits, bool has_error,
                        const v1::ErrorStats& error, double ratio) {
  if (!has_error) {
    return Cell(FormatFixed(bits, 3), "n") + Cell("-", "n") + Cell("-", "n") +
           Cell("-", "n");
  }
  return Cell(FormatFixed(bits, 3), "n") +
         Cell(FormatError(error.mean_squared_error()), "n") +
         Cell(FormatFixed(error.sqnr_db(), 2), "n") +
         Cell(FormatFixed(ratio, 3), "n");
}

std::string WorstText(const v1::TensorReport& tensor) {
  if (tensor.worst_groups().empty()) return "-";
  const v1::WorstGroup& worst = tensor.worst_groups(0);
  return absl::StrCat("#", worst.group(), ": ",
                      FormatError(worst.mean_squared_error()));
}

std::string TensorTable(const RunReport& report, const RunTotals& totals) {
  std::string html =
      "<div class=\"scroll\"><table>" +
      Head({"tensor", "shape"}, {"bits/weight", "MSE", "SQNR dB",
                                 "ratio to RTN", "worst group: MSE"});
  for (const v1::TensorReport& tensor : report.tensors) {
    absl::StrAppend(&html, "<tr>", Cell(tensor.name(), "name"),
                    Cell(FormatShape(tensor.shape())),
                    FigureCells(tensor.bits_per_weight(), tensor.has_error(),
                                tensor.error(), tensor.mse_ratio_to_rtn()),
                    Cell(WorstText(tensor), "n"), "</tr>\n");
  }
  absl::StrAppend(&html, "<tr class=\"total\">", Cell("total"),
                  Cell(absl::StrCat(totals.tensors, " tensors")),
                  FigureCells(totals.bits_per_weight, totals.error.count() > 0,
                              totals.error, totals.mse_ratio_to_rtn),
                  Cell(""), "</tr>\n</tbody></table></div>\n");
  return html;
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

std::string Card(const std::string& title, const std::string& note,
                 const std::string& key, const std::string& content) {
  if (content.empty()) return "";
  return absl::StrCat("<section class=\"card\"><h2>", title, "</h2><p>", note,
                      "</p>",
                      key.empty() ? "" : "<div class=\"key\">" + key + "</div>",
                      content, "</section>\n");
}

std::string Key(const char* shape, const char* color, const char* text) {
  return absl::StrFormat(
      "<span><i class=\"%s\" style=\"--c:var(--%s)\"></i>%s</span>", shape,
      color, text);
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
      Tile(FormatFixed(report.seconds, 1) + " s",
           absl::StrCat("in all; ", FormatBytes(static_cast<int64_t>(rate)),
                        "/s, ", report.streams, " streams")),
      "</div>\n");
}

std::string Charts(const RunReport& report, const RunTotals& totals) {
  return absl::StrCat(
      Card("Error by tensor", "Relative error, ||W - W&#39;|| / ||W||",
           Key("dot", "ours", "this result") +
               Key("ring", "rtn", "round to nearest, same bits and group"),
           ErrorChart(report)),
      "<div class=\"pair\">",
      Card("Error histogram", "All quantized weights, by error over step",
           Key("", "ours", "the last bin also holds what is above"),
           HistogramChart(report, totals)),
      Card("Size", "Tensor data before and after",
           Key("", "source", "to quantize") + Key("", "ours", "quantized") +
               Key("", "carried", "carried unchanged"),
           SizeChart(report, totals)),
      "</div>\n");
}

std::string Fact(const char* name, const std::string& value) {
  if (value.empty()) return "";
  return absl::StrCat("<dt>", name, "</dt><dd>", HtmlEscape(value), "</dd>\n");
}

// "RTN, 4 bits, group 128, symmetric; profile best (rtn-best/1)".
std::string MethodText(const RunReport& report) {
  const v1::QuantizationConfig& config = report.plan.summary.resolved();
  std::string text;
  if (config.has_rtn()) {
    const v1::RtnConfig& rtn = config.rtn();
    text = absl::StrCat("round to nearest, ", rtn.bits(), " bits, ",
                        rtn.group_size() < 0
                            ? "one scale a row"
                            : absl::StrCat("groups of ", rtn.group_size()),
                        rtn.symmetric() ? ", symmetric" : ", asymmetric");
  } else if (config.has_nf4()) {
    const v1::Nf4Config& nf4 = config.nf4();
    text = absl::StrCat(nf4.codebook() == v1::Nf4Config::FP4 ? "FP4" : "NF4",
                        ", blocks of ", nf4.block_size(),
                        nf4.double_quant() ? ", block scales in 8 bits" : "");
  }
  if (report.tensors.empty()) return text;
  return absl::StrCat(text, text.empty() ? "" : "; ",
                      report.tensors[0].algorithm(), " on ",
                      report.tensors[0].device());
}

std::string BaseName(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

std::string Header(const RunReport& report) {
  const v1::PlanSummary& summary = report.plan.summary;
  return absl::StrCat("<h1>", HtmlEscape(BaseName(report.output_path)),
                      ": quantization report</h1>\n<dl>\n",
                      Fact("from", report.input_path),
                      Fact("to", report.output_path),
                      Fact("architecture", summary.architecture()),
                      Fact("method", MethodText(report)),
                      Fact("loads in", absl::StrJoin(summary.engines(), ", ")),
                      Fact("made", report.created), "</dl>\n");
}

}  // namespace

std::string ReportHtml(const RunReport& report) {
  const RunTotals totals = TotalsOf(report);
  const PlanCounts counts = CountsOf(report.plan);
  return absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n<title>",
      HtmlEscape(BaseName(report.output_path)),
      ": quantization report</title>\n<style>", kStyle,
      "</style></head>\n<body><main>\n", Header(report), Tiles(report, totals),
      Charts(report, totals),
      Card("Tensors", "Every quantized tensor, in checkpoint order", "",
           TensorTable(report, totals)),
      Card("Plan",
           absl::StrCat(counts.quantized, " quantized, ", counts.carried,
                        " carried, ", counts.tied, " tied"),
           "",
           FindingsTable(report.plan) +
               "<details><summary>Tensors left as they are</summary>" +
               CarriedTable(report.plan) +
               "</details><details><summary>Files</summary>" +
               FilesTable(report.plan) + "</details>"),
      "</main></body></html>\n");
}

}  // namespace qs::cli

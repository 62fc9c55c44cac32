// Tested by tests/cli/report_test.cc.
#include "service/cli/html_tables.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "service/cli/html_page.h"
#include "service/cli/text_table.h"
#include "service/cli/totals_text.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

std::string Table(const std::string& head, const std::string& rows) {
  return absl::StrCat("<div class=\"scroll\"><table>", head, rows,
                      "</tbody></table></div>\n");
}

std::string FoldedAway(const char* title, const std::string& table) {
  return absl::StrCat("<details><summary>", title, "</summary>", table,
                      "</details>\n");
}

std::string FiguresHead(const char* of) {
  return Head({of, ""},
              {"MSE", "mean |e|", "max |e|", "relative", "SQNR dB", "cosine"});
}

std::string FiguresRow(const std::string& name, const char* whose,
                       const v1::ErrorStats& s) {
  return absl::StrCat(
      "<tr>", Cell(name, "name"), Cell(whose),
      Cell(FormatError(s.mean_squared_error()), "n"),
      Cell(FormatError(s.mean_absolute_error()), "n"),
      Cell(FormatError(s.max_absolute_error()), "n"),
      Cell(std::isfinite(s.relative_frobenius_error())
               ? absl::StrFormat("%.3g%%", 100 * s.relative_frobenius_error())
               : "inf",
           "n"),
      Cell(FormatFixed(s.sqnr_db(), 2), "n"), Cell(CosineText(s), "n"),
      "</tr>\n");
}

std::string FiguresRows(const std::string& name, const v1::ErrorStats& error,
                        const v1::ErrorStats& rtn) {
  return FiguresRow(name, "this result", error) +
         (rtn.count() > 0 ? FiguresRow("", "RTN", rtn) : "");
}

std::string WorstRow(const std::string& tensor, const v1::WorstGroup& worst) {
  return absl::StrCat(
      "<tr>", Cell(tensor, "name"), Cell(absl::StrCat(worst.group()), "n"),
      Cell(FormatError(worst.mean_squared_error()), "n"), "</tr>\n");
}

double SecondsOf(const v1::PhaseSeconds& phases, const std::string& name) {
  return phases.GetReflection()->GetDouble(
      phases, phases.GetDescriptor()->FindFieldByName(name));
}

std::string TimeHead(const std::vector<PhaseShare>& phases) {
  std::string html = "<thead><tr><th>tensor</th>";
  for (const PhaseShare& phase : phases) {
    absl::StrAppend(&html, "<th class=\"n\">", phase.name, " s</th>");
  }
  return html +
         "<th class=\"n\">in all s</th><th class=\"n\">memory</th>"
         "<th>algorithm</th><th>device</th></tr></thead>\n<tbody>\n";
}

std::string TimeRow(const v1::TensorReport& tensor,
                    const std::vector<PhaseShare>& phases) {
  std::string html = absl::StrCat("<tr>", Cell(tensor.name(), "name"));
  for (const PhaseShare& phase : phases) {
    html += Cell(FormatFixed(SecondsOf(tensor.phases(), phase.name), 3), "n");
  }
  return absl::StrCat(
      html, Cell(FormatFixed(tensor.quantize_seconds(), 3), "n"),
      Cell(FormatBytes(tensor.memory_bytes()), "n"), Cell(tensor.algorithm()),
      Cell(tensor.device()), "</tr>\n");
}

}  // namespace

std::string FiguresTable(const RunReport& report, const RunTotals& totals) {
  if (totals.error.count() == 0) return "";
  std::string rows;
  for (const v1::TensorReport& tensor : report.tensors) {
    if (!tensor.has_error()) continue;
    rows += FiguresRows(tensor.name(), tensor.error(), tensor.rtn());
  }
  return Table(FiguresHead("weights"),
               FiguresRows("all", totals.error, totals.rtn)) +
         FoldedAway("Every tensor", Table(FiguresHead("tensor"), rows));
}

std::string TimeTable(const RunReport& report, const RunTotals& totals) {
  if (totals.worker_seconds <= 0) return "";
  const std::vector<PhaseShare> phases = SharesOf(totals.all.phases());
  std::string rows;
  for (const v1::TensorReport& tensor : report.tensors) {
    rows += TimeRow(tensor, phases);
  }
  return FoldedAway("Every tensor", Table(TimeHead(phases), rows));
}

std::string WorstGroupsTable(const RunReport& report, const RunTotals& totals) {
  std::string worst;
  for (const v1::WorstGroup& group : totals.all.worst_groups()) {
    worst += WorstRow(group.tensor(), group);
  }
  if (worst.empty()) return "";
  std::string all;
  for (const v1::TensorReport& tensor : report.tensors) {
    for (const v1::WorstGroup& group : tensor.worst_groups()) {
      all += WorstRow(tensor.name(), group);
    }
  }
  const std::string head = Head({"tensor"}, {"group", "MSE"});
  return Table(head, worst) +
         FoldedAway("The worst of every tensor", Table(head, all));
}

}  // namespace qs::cli

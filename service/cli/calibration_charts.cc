// The charts of what the calibration and the solvers saw.
// Tested by tests/cli/report_test.cc.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "service/cli/html_charts.h"
#include "service/cli/svg.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

std::string CountGrid(const Plot& p, const Axis& axis,
                      const std::string& label) {
  const double middle = (p.y0() + p.y1()) / 2;
  std::string svg = absl::StrFormat(
      "<text class=\"title\" x=\"14\" y=\"%.1f\" text-anchor=\"middle\" "
      "transform=\"rotate(-90 14 %.1f)\">%s</text>\n",
      middle, middle, HtmlEscape(label));
  for (int i = 0;; ++i) {
    const double value = axis.low + i * axis.step;
    if (value > axis.high + axis.step / 2) return svg;
    const double y = axis.Place(value, p.y0(), p.y1());
    absl::StrAppend(
        &svg, SvgLine("grid", p.x0(), y, p.x1(), y),
        SvgText(p.x0() - 8, y + 4, "end", absl::StrFormat("%.6g", value)));
  }
}

std::string Bar(double x, double width, double y, const Plot& p,
                const std::string& title) {
  return absl::StrFormat(
      "<rect class=\"ours\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" "
      "height=\"%.1f\">%s</rect>\n",
      x, y, width, std::max(p.y0() - y, 0.0), SvgTitle(title));
}

}  // namespace

std::string ExpertChart(const RunReport& report) {
  const std::vector<ExpertTokens> experts = ExpertTokensOf(report.tensors);
  if (experts.empty()) return "";
  int64_t most = 1;
  for (const ExpertTokens& e : experts) most = std::max(most, e.tokens);
  const Plot p;
  const Axis axis = NiceAxis(0, static_cast<double>(most), 5);
  const double slot = (p.x1() - p.x0()) / static_cast<double>(experts.size());
  std::string svg = SvgOpen(p, "Tokens that every expert saw");
  absl::StrAppend(&svg, CountGrid(p, axis, "tokens"));
  double last = p.x0() - 100;
  for (size_t i = 0; i < experts.size(); ++i) {
    const double x = p.x0() + slot * static_cast<double>(i);
    const ExpertTokens& e = experts[i];
    absl::StrAppend(
        &svg, Bar(x + slot * 0.1, slot * 0.8,
                  axis.Place(static_cast<double>(e.tokens), p.y0(), p.y1()), p,
                  absl::StrCat("layer ", e.layer, ", expert ", e.expert, ": ",
                               e.tokens, " tokens")));
    const bool first = i == 0 || experts[i - 1].layer != e.layer;
    if (!first || x - last < 30) continue;
    last = x;
    absl::StrAppend(&svg, SvgLine("grid", x, p.y1(), x, p.y0()),
                    SvgText(x + 2, p.y0() + 16, "start", e.layer));
  }
  return svg +
         SvgText((p.x0() + p.x1()) / 2, p.height - 8, "middle",
                 "layer (its experts in order)", "title") +
         "</svg>\n";
}

std::string ClipChart(const RunReport& report) {
  std::vector<double> counts;
  double sum = 0;
  for (const v1::TensorReport& tensor : report.tensors) {
    const auto& bins = tensor.solver().clip_histogram();
    if (counts.size() < static_cast<size_t>(bins.size())) {
      counts.resize(static_cast<size_t>(bins.size()));
    }
    for (int i = 0; i < bins.size(); ++i) {
      counts[static_cast<size_t>(i)] += static_cast<double>(bins[i]);
      sum += static_cast<double>(bins[i]);
    }
  }
  if (sum <= 0) return "";
  Plot p;
  p.width = 450;
  p.height = 260;
  for (double& count : counts) count *= 100 / sum;
  const Axis axis =
      NiceAxis(0, *std::max_element(counts.begin(), counts.end()), 4);
  const double slot = (p.x1() - p.x0()) / static_cast<double>(counts.size());
  std::string svg = SvgOpen(p, "Histogram of the clip limits");
  absl::StrAppend(&svg, SvgPercentGrid(p, axis, "share of the groups"));
  for (size_t i = 0; i < counts.size(); ++i) {
    const double x = p.x0() + slot * static_cast<double>(i);
    const double to = static_cast<double>(i + 1) / 10;
    absl::StrAppend(
        &svg,
        Bar(x + 1, slot - 2, axis.Place(counts[i], p.y0(), p.y1()), p,
            absl::StrFormat("%.1f to %.1f: %.3f%%", to - 0.1, to, counts[i])),
        SvgText(x + slot, p.y0() + 16, "middle", absl::StrFormat("%.1f", to)));
  }
  return svg +
         SvgText((p.x0() + p.x1()) / 2, p.height - 8, "middle",
                 "range kept / largest weight of the group", "title") +
         "</svg>\n";
}

}  // namespace qs::cli

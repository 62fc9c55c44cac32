// Tested by tests/cli/report_test.cc.
#include "service/cli/html_charts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "service/cli/svg.h"
#include "service/cli/text_table.h"
#include "service/cli/totals_text.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

std::string Segment(double x, double y, double width, double height,
                    const char* name, const std::string& what, int64_t bytes) {
  if (bytes <= 0) return "";
  std::string svg = absl::StrFormat(
      "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
      "rx=\"4\">%s</rect>\n",
      name, x, y, std::max(width, 1.0), height,
      SvgTitle(what + " " + FormatBytes(bytes)));
  if (width > 60) {
    absl::StrAppend(&svg, SvgText(x + width / 2, y + height / 2 + 4, "middle",
                                  FormatBytes(bytes), "inside"));
  }
  return svg;
}

// Percent of the sum by bin. Bins that next to nothing reached are left out, by
// halves; what they hold is added to the last one shown. Empty without any.
std::vector<double> SharesShown(const std::vector<int64_t>& histogram) {
  constexpr double kNothing = 1e-3;
  constexpr size_t kFewest = 8;
  const double sum = std::accumulate(histogram.begin(), histogram.end(), 0.0);
  if (sum <= 0) return {};
  size_t shown = histogram.size();
  double above = 0;
  while (shown % 2 == 0 && shown / 2 >= kFewest) {
    const auto half = histogram.begin() + static_cast<int64_t>(shown / 2);
    const double more =
        std::accumulate(half, half + static_cast<int64_t>(shown / 2), above);
    if (more > kNothing * sum) break;
    above = more;
    shown /= 2;
  }
  std::vector<double> shares;
  for (size_t i = 0; i < shown; ++i) {
    shares.push_back(100 * static_cast<double>(histogram[i]) / sum);
  }
  shares.back() += 100 * above / sum;
  return shares;
}

}  // namespace

std::string HistogramChart(const RunReport& report, const RunTotals& totals) {
  const std::vector<double> shares = SharesShown(totals.histogram);
  if (shares.empty()) return "";
  Plot p;
  p.width = 450;
  p.height = 260;
  const double bins = static_cast<double>(totals.histogram.size());
  const double shown = static_cast<double>(shares.size());
  const Axis axis =
      NiceAxis(0, *std::max_element(shares.begin(), shares.end()), 4);
  const double slot = (p.x1() - p.x0()) / shown;
  std::string svg = SvgOpen(p, "Histogram of the error over the step");
  absl::StrAppend(&svg, SvgPercentGrid(p, axis, "share of the weights"));
  for (size_t i = 0; i < shares.size(); ++i) {
    const double at = static_cast<double>(i);
    const double y = axis.Place(shares[i], p.y0(), p.y1());
    const std::string to = i + 1 == shares.size()
                               ? "more"
                               : absl::StrFormat("%.3f", (at + 1) / bins);
    absl::StrAppendFormat(
        &svg,
        "<rect class=\"ours\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
        "height=\"%.1f\">%s</rect>\n",
        p.x0() + slot * at + 1, y, slot - 2, p.y0() - y,
        SvgTitle(
            absl::StrFormat("%.3f to %s: %.3f%%", at / bins, to, shares[i])));
  }
  for (int quarter = 0; quarter <= 4; ++quarter) {
    absl::StrAppend(
        &svg, SvgText(p.x0() + quarter / 4.0 * (p.x1() - p.x0()), p.y0() + 16,
                      "middle",
                      absl::StrFormat("%.4g", quarter / 4.0 * shown / bins)));
  }
  // What the server divides by: absmax for a codebook, else the scale.
  const char* unit = report.plan.summary.resolved().has_nf4()
                         ? "absolute error / absmax of its block"
                         : "absolute error / step of its group";
  absl::StrAppend(
      &svg,
      SvgText((p.x0() + p.x1()) / 2, p.height - 8, "middle", unit, "title"),
      "</svg>\n");
  return svg;
}

std::string PhaseChart(const RunTotals& totals) {
  const std::vector<PhaseShare> phases = SharesOf(totals.all.phases());
  if (phases.empty()) return "";
  Plot p;
  p.width = 450;
  p.right = 110;
  p.height = 28 * static_cast<double>(phases.size()) + 16;
  double most = 0;
  for (const PhaseShare& phase : phases) most = std::max(most, phase.share);
  std::string svg = SvgOpen(p, "Worker time by phase");
  double y = 8;
  for (const PhaseShare& phase : phases) {
    const double width = std::max(1.0, phase.share / most * (p.x1() - p.x0()));
    absl::StrAppend(
        &svg, SvgText(p.x0() - 8, y + 15, "end", phase.name, "title"),
        absl::StrFormat("<rect class=\"ours\" x=\"%.1f\" y=\"%.1f\" "
                        "width=\"%.1f\" height=\"20\" rx=\"3\"/>\n",
                        p.x0(), y, width),
        SvgText(p.x0() + width + 6, y + 15, "start",
                phase.seconds < 1e-3
                    ? "under 1 ms"
                    : absl::StrFormat("%.3g s, %.1f%%", phase.seconds,
                                      100 * phase.share)));
    y += 28;
  }
  return svg + "</svg>\n";
}

std::string SizeChart(const RunReport& report, const RunTotals& totals) {
  Plot p;
  p.width = 450;
  p.height = 236;
  const int64_t carried = CountsOf(report.plan).carried_bytes;
  const int64_t before = totals.bytes_in + carried;
  const double scale = (p.x1() - p.x0()) /
                       static_cast<double>(std::max(
                           {before, totals.bytes_out + carried, int64_t{1}}));
  std::string svg = SvgOpen(p, "Size before and after");
  double y = 42;
  for (const bool after : {false, true}) {
    const int64_t bytes = after ? totals.bytes_out : totals.bytes_in;
    const double width = static_cast<double>(bytes) * scale;
    const std::string share =
        after && before > 0
            ? absl::StrFormat(", %.1f%% of before",
                              100 * static_cast<double>(bytes + carried) /
                                  static_cast<double>(before))
            : "";
    absl::StrAppend(
        &svg,
        SvgText(p.x0() - 10, y + 32, "end", after ? "after" : "before",
                "title"),
        Segment(p.x0(), y, width - 1, 56, after ? "ours" : "source",
                after ? "quantized" : "to quantize", bytes),
        Segment(p.x0() + width + 1, y, static_cast<double>(carried) * scale - 1,
                56, "carried", "carried unchanged", carried),
        SvgText(p.x0(), y - 9, "start",
                absl::StrCat(FormatBytes(bytes + carried), " in all", share)));
    y += 104;
  }
  return svg + "</svg>\n";
}

}  // namespace qs::cli

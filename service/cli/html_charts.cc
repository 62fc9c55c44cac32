// Tested by tests/cli/report_test.cc.
#include "service/cli/html_charts.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "service/cli/svg.h"
#include "service/cli/text_table.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

// In percent.
double Relative(const v1::ErrorStats& stats) {
  return 100 * stats.relative_frobenius_error();
}

// Where it is drawn; what has no place (infinite) at the top.
double HeightOf(const v1::ErrorStats& stats, const Plot& p, const Axis& axis) {
  const double value = Relative(stats);
  return std::isfinite(value) ? axis.Place(value, p.y0(), p.y1()) : p.y1();
}

// The first part of a name that is a number; empty without one.
std::string LayerOf(const std::string& name) {
  size_t begin = 0;
  while (begin < name.size()) {
    const size_t dot = std::min(name.find('.', begin), name.size());
    if (dot > begin &&
        std::all_of(name.begin() + static_cast<int64_t>(begin),
                    name.begin() + static_cast<int64_t>(dot),
                    [](unsigned char c) { return std::isdigit(c) != 0; })) {
      return name.substr(begin, dot - begin);
    }
    begin = dot + 1;
  }
  return "";
}

std::string Dots(const v1::TensorReport& tensor, double x, const Plot& p,
                 const Axis& axis, double radius) {
  const double y = HeightOf(tensor.error(), p, axis);
  const double r = HeightOf(tensor.rtn(), p, axis);
  return absl::StrFormat(
      "<g class=\"mark\">%s%s<circle class=\"rtn\" cx=\"%.1f\" cy=\"%.1f\" "
      "r=\"%.1f\"/><circle class=\"ours\" cx=\"%.1f\" cy=\"%.1f\" "
      "r=\"%.1f\"/></g>\n",
      SvgTitle(absl::StrFormat("%s\n%.3f%%, RTN %.3f%%\nSQNR %s dB",
                               tensor.name(), Relative(tensor.error()),
                               Relative(tensor.rtn()),
                               FormatFixed(tensor.error().sqnr_db(), 2))),
      SvgLine("stem", x, r, x, y), x, r, radius, x, y, radius);
}

std::vector<const v1::TensorReport*> WithErrors(const RunReport& report) {
  std::vector<const v1::TensorReport*> tensors;
  for (const v1::TensorReport& tensor : report.tensors) {
    if (tensor.has_error()) tensors.push_back(&tensor);
  }
  return tensors;
}

Axis ErrorAxis(const std::vector<const v1::TensorReport*>& tensors) {
  double low = std::numeric_limits<double>::infinity();
  double high = 0;
  for (const v1::TensorReport* tensor : tensors) {
    for (const v1::ErrorStats* stats : {&tensor->error(), &tensor->rtn()}) {
      if (!std::isfinite(Relative(*stats))) continue;
      low = std::min(low, Relative(*stats));
      high = std::max(high, Relative(*stats));
    }
  }
  return NiceAxis(std::min(low, high), high, 5);
}

// The layer's number where it changes, or at every second, fifth, ... change,
// so that labels stay apart.
std::string LayerTicks(const std::vector<const v1::TensorReport*>& tensors,
                       const Plot& p, double slot) {
  constexpr double kApart = 28;
  std::vector<std::pair<std::string, double>> changes;
  std::string before;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string layer = LayerOf(tensors[i]->name());
    if (layer.empty() || layer == before) continue;
    before = layer;
    changes.emplace_back(layer, p.x0() + slot * (static_cast<double>(i) + 0.5));
  }
  const double room = (p.x1() - p.x0()) /
                      static_cast<double>(std::max<size_t>(changes.size(), 1));
  size_t step = 1;
  for (const size_t next : {2, 5, 10, 20, 50, 100, 1000}) {
    if (static_cast<double>(step) * room < kApart) step = next;
  }
  std::string svg;
  double last = -kApart;
  for (size_t i = 0; i < changes.size(); i += step) {
    const auto& [layer, x] = changes[i];
    if (x - last < kApart * 0.8) continue;
    last = x;
    absl::StrAppend(&svg, SvgText(x, p.y0() + 16, "middle", layer));
  }
  return svg;
}

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

std::string ErrorChart(const RunReport& report) {
  const std::vector<const v1::TensorReport*> tensors = WithErrors(report);
  if (tensors.empty()) return "";
  const Plot p;
  const Axis axis = ErrorAxis(tensors);
  const double slot = (p.x1() - p.x0()) / static_cast<double>(tensors.size());
  const double radius = std::clamp(slot / 4, 1.8, 5.0);
  std::string svg = SvgOpen(p, "Relative error of every tensor");
  // Many tensors: the dots must show, not the lines between them.
  if (slot < 8) absl::StrAppend(&svg, "<g class=\"dense\">");
  absl::StrAppend(&svg, SvgPercentGrid(p, axis, "relative error"),
                  LayerTicks(tensors, p, slot));
  for (size_t i = 0; i < tensors.size(); ++i) {
    absl::StrAppend(
        &svg, Dots(*tensors[i], p.x0() + slot * (static_cast<double>(i) + 0.5),
                   p, axis, radius));
  }
  absl::StrAppend(&svg,
                  SvgText((p.x0() + p.x1()) / 2, p.height - 8, "middle",
                          "layer (tensors in checkpoint order)", "title"),
                  slot < 8 ? "</g></svg>\n" : "</svg>\n");
  return svg;
}

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

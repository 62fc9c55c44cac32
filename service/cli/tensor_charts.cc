// The charts with a mark for every tensor.
// Tested by tests/cli/report_test.cc.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "service/cli/html_charts.h"
#include "service/cli/svg.h"
#include "service/cli/text_table.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

// One tensor: our figure and rounding's, in percent.
struct Mark {
  const v1::TensorReport* tensor;
  double ours;
  double rtn;  // NaN: none
};
using Marks = std::vector<Mark>;

Marks WeightErrors(const RunReport& report) {
  Marks marks;
  for (const v1::TensorReport& tensor : report.tensors) {
    if (!tensor.has_error()) continue;
    marks.push_back({&tensor, 100 * tensor.error().relative_frobenius_error(),
                     tensor.rtn().count() > 0
                         ? 100 * tensor.rtn().relative_frobenius_error()
                         : std::numeric_limits<double>::quiet_NaN()});
  }
  return marks;
}

Marks OutputErrors(const RunReport& report) {
  Marks marks;
  for (const v1::TensorReport& tensor : report.tensors) {
    if (!tensor.has_output_error()) continue;
    marks.push_back(
        {&tensor, 100 * tensor.output_error(), 100 * RtnOutputError(tensor)});
  }
  return marks;
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

// Where it is drawn; what has no place (infinite) at the top.
double HeightOf(double value, const Plot& p, const Axis& axis) {
  return std::isfinite(value) ? axis.Place(value, p.y0(), p.y1()) : p.y1();
}

std::string Dots(const Mark& mark, double x, const Plot& p, const Axis& axis,
                 double radius) {
  const double y = HeightOf(mark.ours, p, axis);
  std::string title =
      absl::StrFormat("%s\n%.3f%%", mark.tensor->name(), mark.ours);
  std::string rounding;
  if (!std::isnan(mark.rtn)) {
    const double r = HeightOf(mark.rtn, p, axis);
    absl::StrAppendFormat(&title, ", RTN %.3f%%", mark.rtn);
    rounding = absl::StrFormat(
        "%s<circle class=\"rtn\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>",
        SvgLine("stem", x, r, x, y), x, r, radius);
  }
  absl::StrAppendFormat(&title, "\n%.3f bits a weight, SQNR %s dB",
                        mark.tensor->bits_per_weight(),
                        FormatFixed(mark.tensor->error().sqnr_db(), 2));
  return absl::StrFormat(
      "<g class=\"mark\">%s%s<circle class=\"ours\" cx=\"%.1f\" cy=\"%.1f\" "
      "r=\"%.1f\"/></g>\n",
      SvgTitle(title), rounding, x, y, radius);
}

Axis AxisOf(const Marks& marks) {
  // Figures that lie this far apart show on a logarithmic axis only.
  constexpr double kWide = 20;
  double low = std::numeric_limits<double>::infinity();
  double high = 0;
  for (const Mark& mark : marks) {
    for (const double value : {mark.ours, mark.rtn}) {
      if (!std::isfinite(value)) continue;
      if (value > 0) low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  low = std::min(low, high);
  if (low > 0 && high / low > kWide) return LogAxis(low, high);
  return NiceAxis(low, high, 5);
}

// The layer's number where it changes, or at every second, fifth, ... change,
// so that labels stay apart.
std::string LayerTicks(const Marks& marks, const Plot& p, double slot) {
  constexpr double kApart = 28;
  std::vector<std::pair<std::string, double>> changes;
  std::string before;
  for (size_t i = 0; i < marks.size(); ++i) {
    const std::string layer = LayerOf(marks[i].tensor->name());
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

std::string ByTensor(const Marks& marks, const char* label,
                     const std::string& what) {
  if (marks.empty()) return "";
  const Plot p;
  const Axis axis = AxisOf(marks);
  const double slot = (p.x1() - p.x0()) / static_cast<double>(marks.size());
  const double radius = std::clamp(slot / 4, 1.8, 5.0);
  std::string svg = SvgOpen(p, label);
  // Many tensors: the dots must show, not the lines between them.
  if (slot < 8) absl::StrAppend(&svg, "<g class=\"dense\">");
  absl::StrAppend(&svg, SvgPercentGrid(p, axis, what),
                  LayerTicks(marks, p, slot));
  for (size_t i = 0; i < marks.size(); ++i) {
    absl::StrAppend(
        &svg, Dots(marks[i], p.x0() + slot * (static_cast<double>(i) + 0.5), p,
                   axis, radius));
  }
  absl::StrAppend(&svg,
                  SvgText((p.x0() + p.x1()) / 2, p.height - 8, "middle",
                          "layer (tensors in checkpoint order)", "title"),
                  slot < 8 ? "</g></svg>\n" : "</svg>\n");
  return svg;
}

Axis BitsAxis(const Marks& marks) {
  double low = std::numeric_limits<double>::infinity();
  double high = 0;
  for (const Mark& mark : marks) {
    low = std::min(low, mark.tensor->bits_per_weight());
    high = std::max(high, mark.tensor->bits_per_weight());
  }
  return NiceAxis(std::min(low, high) - 0.05, high + 0.05, 5);
}

std::string BitsTicks(const Plot& p, const Axis& axis) {
  std::string svg;
  for (int i = 0;; ++i) {
    const double value = axis.low + i * axis.step;
    if (value > axis.high + axis.step / 2) break;
    absl::StrAppend(
        &svg, SvgText(axis.Place(value, p.x0(), p.x1()), p.y0() + 16, "middle",
                      absl::StrFormat("%.4g", value)));
  }
  return svg + SvgText((p.x0() + p.x1()) / 2, p.height - 8, "middle",
                       "bits a weight, all metadata counted", "title");
}

}  // namespace

std::string ErrorChart(const RunReport& report) {
  return ByTensor(WeightErrors(report), "Relative error of every tensor",
                  "relative error");
}

std::string OutputErrorChart(const RunReport& report) {
  return ByTensor(OutputErrors(report), "Output error of every tensor",
                  "output error");
}

std::string BitsChart(const RunReport& report) {
  Marks marks = OutputErrors(report);
  const bool output = !marks.empty();
  if (!output) marks = WeightErrors(report);
  if (marks.empty()) return "";
  Plot p;
  p.width = 450;
  p.height = 260;
  const Axis error = AxisOf(marks);
  const Axis bits = BitsAxis(marks);
  std::string svg = SvgOpen(p, "Bits a weight against error");
  absl::StrAppend(
      &svg,
      SvgPercentGrid(p, error, output ? "output error" : "relative error"),
      BitsTicks(p, bits));
  for (const Mark& mark : marks) {
    absl::StrAppend(
        &svg,
        Dots(mark, bits.Place(mark.tensor->bits_per_weight(), p.x0(), p.x1()),
             p, error, 3));
  }
  return svg + "</svg>\n";
}

}  // namespace qs::cli

// Tested by tests/cli/report_test.cc.
#include "service/cli/svg.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace qs::cli {

std::string HtmlEscape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\n') out += c;
    }
  }
  return out;
}

Axis NiceAxis(double low, double high, int count) {
  const double span = std::max(high - low, std::abs(high) * 1e-3 + 1e-12);
  const double raw = span / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double unit = raw / power;
  const double step = power * (unit <= 1   ? 1
                               : unit <= 2 ? 2
                               : unit <= 5 ? 5
                                           : 10);
  return {std::floor(low / step) * step, std::ceil(high / step + 1e-9) * step,
          step};
}

Axis LogAxis(double low, double high) {
  const double from = std::floor(std::log10(low));
  return {from, std::max(std::ceil(std::log10(high)), from + 1), 1, true};
}

double Axis::Place(double value, double from, double to) const {
  if (!log) return PlaceTick(value, from, to);
  const double tick = value > 0 ? std::log10(value) : low;
  return PlaceTick(std::max(tick, low), from, to);
}

std::string SvgOpen(const Plot& p, const char* label) {
  return absl::StrFormat(
      "<svg%s viewBox=\"0 0 %g %g\" role=\"img\" aria-label=\"%s\">\n",
      p.width > 600 ? " class=\"wide\"" : "", p.width, p.height, label);
}

std::string SvgText(double x, double y, const char* anchor,
                    const std::string& text, const char* name) {
  return absl::StrFormat(
      "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n",
      name, x, y, anchor, HtmlEscape(text));
}

std::string SvgLine(const char* name, double x0, double y0, double x1,
                    double y1) {
  return absl::StrFormat(
      "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n",
      name, x0, y0, x1, y1);
}

std::string SvgTitle(const std::string& text) {
  return "<title>" + HtmlEscape(text) + "</title>";
}

std::string SvgPercentGrid(const Plot& p, const Axis& axis,
                           const std::string& label) {
  const double middle = (p.y0() + p.y1()) / 2;
  std::string svg = absl::StrFormat(
      "<text class=\"title\" x=\"14\" y=\"%.1f\" text-anchor=\"middle\" "
      "transform=\"rotate(-90 14 %.1f)\">%s</text>\n",
      middle, middle, HtmlEscape(label));
  for (int i = 0;; ++i) {
    const double value = axis.low + i * axis.step;
    if (value > axis.high + axis.step / 2) return svg;
    const double y = axis.PlaceTick(value, p.y0(), p.y1());
    const double percent = axis.log ? std::pow(10, value) : value;
    absl::StrAppend(
        &svg, SvgLine("grid", p.x0(), y, p.x1(), y),
        SvgText(p.x0() - 8, y + 4, "end", absl::StrFormat("%.4g%%", percent)));
  }
}

}  // namespace qs::cli

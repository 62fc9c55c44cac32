// The few SVG elements that the report's charts are made of, and their axes.
// Classes ("tick", "title", "grid") are those of the page's style sheet.
// Thread: pure functions.
#ifndef QS_SERVICE_CLI_SVG_H_
#define QS_SERVICE_CLI_SVG_H_

#include <string>
#include <string_view>

namespace qs::cli {

// Safe as text and inside quoted attributes; control characters stay out.
std::string HtmlEscape(std::string_view text);

// The inner area of a chart, in its own units.
struct Plot {
  double width = 920;
  double height = 300;
  double left = 68;
  double right = 16;
  double top = 14;
  double bottom = 44;

  double x0() const { return left; }
  double x1() const { return width - right; }
  double y0() const { return height - bottom; }
  double y1() const { return top; }
};

struct Axis {
  double low = 0;
  double high = 1;
  double step = 1;
  bool log = false;  // the three above are powers of ten

  // On a log axis what is not above `low` lies there.
  double Place(double value, double from, double to) const;
  double PlaceTick(double tick, double from, double to) const {
    return from + (tick - low) / (high - low) * (to - from);
  }
};

// About `count` round steps around [low, high].
Axis NiceAxis(double low, double high, int count);
// Whole powers of ten around them. REQUIRES: 0 < low <= high.
Axis LogAxis(double low, double high);

std::string SvgOpen(const Plot& p, const char* label);
std::string SvgText(double x, double y, const char* anchor,
                    const std::string& text, const char* name = "tick");
std::string SvgLine(const char* name, double x0, double y0, double x1,
                    double y1);
// What a browser shows above an element.
std::string SvgTitle(const std::string& text);
// Horizontal grid lines with percent labels, and what they measure.
std::string SvgPercentGrid(const Plot& p, const Axis& axis,
                           const std::string& label);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_SVG_H_

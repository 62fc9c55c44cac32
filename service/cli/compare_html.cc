// Tested by tests/cli/compare_test.cc.
#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "service/cli/compare_report.h"
#include "service/cli/html_page.h"
#include "service/cli/run_report.h"
#include "service/cli/svg.h"
#include "service/cli/text_table.h"
#include "service/cli/totals_text.h"

namespace qs::cli {
namespace {

// A method that ran, and its sums.
struct Entry {
  const MethodRun* run;
  RunTotals totals;
};
using Entries = std::vector<Entry>;
using Figure = std::function<double(const Entry&)>;

Entries EntriesOf(const CompareReport& report) {
  Entries entries;
  for (const MethodRun& run : report.methods) {
    if (run.refused.empty()) entries.push_back({&run, TotalsOf(run.tensors)});
  }
  return entries;
}

bool Measured(const Entry& entry) { return entry.totals.with_output_error > 0; }

// Methods that can be compared by their outputs.
Entries WithOutput(const Entries& entries) {
  Entries measured;
  std::copy_if(entries.begin(), entries.end(), std::back_inserter(measured),
               Measured);
  return measured;
}

bool AllMeasured(const Entries& entries) {
  return std::all_of(entries.begin(), entries.end(), Measured);
}

// One bar a method, its value beside it.
std::string BarChart(const Entries& entries, const char* label,
                     const Figure& figure,
                     const std::function<std::string(double)>& text) {
  if (entries.empty()) return "";
  Plot p;
  p.width = 450;
  p.left = 54;
  p.right = 96;
  p.height = 34 * static_cast<double>(entries.size()) + 16;
  double most = 0;
  for (const Entry& e : entries) {
    if (std::isfinite(figure(e))) most = std::max(most, figure(e));
  }
  std::string svg = SvgOpen(p, label);
  double y = 8;
  for (const Entry& e : entries) {
    const double value = figure(e);
    const double part = most > 0 && std::isfinite(value) ? value / most : 0;
    const double width = std::max(1.0, part * (p.x1() - p.x0()));
    absl::StrAppend(
        &svg, SvgText(p.x0() - 8, y + 18, "end", e.run->name, "title"),
        absl::StrFormat("<rect class=\"ours\" x=\"%.1f\" y=\"%.1f\" "
                        "width=\"%.1f\" height=\"24\" rx=\"3\">%s</rect>\n",
                        p.x0(), y, width,
                        SvgTitle(e.run->name + ": " + text(value))),
        SvgText(p.x0() + width + 6, y + 17, "start", text(value)));
    y += 34;
  }
  return svg + "</svg>\n";
}

struct Point {
  double bits;
  double error;  // percent
  const Entry* entry;
};

std::vector<Point> PointsOf(const Entries& entries) {
  const bool output = AllMeasured(entries);
  std::vector<Point> points;
  for (const Entry& e : entries) {
    const double error =
        100 * (output ? e.totals.output_error
                      : e.totals.error.relative_frobenius_error());
    if (!std::isfinite(error)) continue;
    points.push_back({e.totals.bits_per_weight, error, &e});
  }
  return points;
}

std::string BitsTicks(const Plot& p, const Axis& bits) {
  std::string svg;
  for (int i = 0;; ++i) {
    const double value = bits.low + i * bits.step;
    if (value > bits.high + bits.step / 2) break;
    absl::StrAppend(
        &svg, SvgText(bits.Place(value, p.x0(), p.x1()), p.y0() + 16, "middle",
                      absl::StrFormat("%.4g", value)));
  }
  return svg + SvgText((p.x0() + p.x1()) / 2, p.height - 8, "middle",
                       "bits a weight, all metadata counted", "title");
}

Axis BitsAxis(const std::vector<Point>& points) {
  const auto [least, most] = std::minmax_element(
      points.begin(), points.end(),
      [](const Point& a, const Point& b) { return a.bits < b.bits; });
  return NiceAxis(least->bits - 0.1, most->bits + 0.1, 6);
}

Axis ErrorAxis(const std::vector<Point>& points) {
  constexpr double kWide = 5;  // names would lie on each other
  const auto [least, most] = std::minmax_element(
      points.begin(), points.end(),
      [](const Point& a, const Point& b) { return a.error < b.error; });
  if (least->error > 0 && most->error / least->error > kWide) {
    return LogAxis(least->error, most->error);
  }
  return NiceAxis(0, most->error, 5);
}

// A place on the chart, and the method that lies there.
struct Spot {
  double x;
  double y;
  const Point* point;
};

// Whether a name to the right of spot `i` would lie on a later one.
bool IsCrowded(const std::vector<Spot>& spots, size_t i) {
  constexpr double kHigh = 14;
  constexpr double kWide = 52;
  return std::any_of(spots.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                     spots.end(), [&](const Spot& other) {
                       return std::abs(other.y - spots[i].y) < kHigh &&
                              std::abs(other.x - spots[i].x) < kWide;
                     });
}

std::string SpotSvg(const Spot& spot, bool name_left) {
  const std::string& name = spot.point->entry->run->name;
  return absl::StrCat(
      absl::StrFormat(
          "<g class=\"mark\">%s<circle class=\"ours\" "
          "cx=\"%.1f\" cy=\"%.1f\" r=\"6\"/></g>\n",
          SvgTitle(absl::StrFormat("%s\n%.3f bits a weight\n%.3g%%", name,
                                   spot.point->bits, spot.point->error)),
          spot.x, spot.y),
      SvgText(spot.x + (name_left ? -10 : 10), spot.y + 4,
              name_left ? "end" : "start", name, "title"));
}

// Lower and further left is better.
std::string ScatterChart(const Entries& entries) {
  const std::vector<Point> points = PointsOf(entries);
  if (points.empty()) return "";
  const Plot p;
  const Axis bits = BitsAxis(points);
  const Axis error = ErrorAxis(points);
  std::string svg = SvgOpen(p, "Bits a weight against error");
  absl::StrAppend(&svg,
                  SvgPercentGrid(p, error,
                                 AllMeasured(entries) ? "mean output error"
                                                      : "relative error"),
                  BitsTicks(p, bits));
  std::vector<Spot> spots;
  for (const Point& point : points) {
    spots.push_back({bits.Place(point.bits, p.x0(), p.x1()),
                     error.Place(point.error, p.y0(), p.y1()), &point});
  }
  for (size_t i = 0; i < spots.size(); ++i) {
    svg += SpotSvg(spots[i], IsCrowded(spots, i));
  }
  return svg + "</svg>\n";
}

std::string MethodTable(const Entries& entries) {
  std::string html =
      "<div class=\"scroll\"><table>" +
      Head({"method", "options"},
           {"tensors", "bits/weight", "bytes out", "MSE", "SQNR dB", "cosine",
            "output error", "memory", "Mweights/s"});
  for (const Entry& e : entries) {
    const RunTotals& t = e.totals;
    const bool has = t.error.count() > 0;
    absl::StrAppend(
        &html, "<tr>", Cell(e.run->name, "name"),
        Cell(ConfigText(e.run->resolved), "text"),
        Cell(absl::StrCat(t.tensors), "n"),
        Cell(FormatFixed(t.bits_per_weight, 3), "n"),
        Cell(FormatBytes(t.bytes_out), "n"),
        Cell(has ? FormatError(t.error.mean_squared_error()) : "-", "n"),
        Cell(has ? FormatFixed(t.error.sqnr_db(), 2) : "-", "n"),
        Cell(has ? CosineText(t.error) : "-", "n"),
        Cell(t.with_output_error > 0 ? FormatError(t.output_error) : "-", "n"),
        Cell(FormatBytes(t.memory_bytes), "n"),
        Cell(FormatFixed(WeightsPerSecond(*e.run) / 1e6, 1), "n"), "</tr>\n");
  }
  return html + "</tbody></table></div>\n";
}

std::string TimeTable(const Entries& entries) {
  if (entries.empty()) return "";
  std::string html =
      "<div class=\"scroll\"><table>" +
      Head({"method", "worker time by phase"}, {"worker s", "in all s"});
  for (const Entry& e : entries) {
    absl::StrAppend(&html, "<tr>", Cell(e.run->name, "name"),
                    Cell(PhasesText(e.totals.all.phases()), "text"),
                    Cell(FormatFixed(e.totals.worker_seconds, 2), "n"),
                    Cell(FormatFixed(e.run->seconds, 2), "n"), "</tr>\n");
  }
  return html + "</tbody></table></div>\n";
}

std::string RefusedTable(const CompareReport& report) {
  std::string rows;
  for (const MethodRun& run : report.methods) {
    if (run.refused.empty()) continue;
    absl::StrAppend(&rows, "<tr>", Cell(run.name, "name"), Cell(run.refused),
                    "</tr>\n");
  }
  if (rows.empty()) return "";
  return "<div class=\"scroll\"><table>" + Head({"method", "why"}, {}) + rows +
         "</tbody></table></div>\n";
}

std::string Percent(double value) {
  return std::isfinite(value) ? absl::StrFormat("%.3g%%", 100 * value) : "inf";
}

std::string Charts(const Entries& entries) {
  const auto relative = [](const Entry& e) {
    return e.totals.error.relative_frobenius_error();
  };
  const auto output = [](const Entry& e) { return e.totals.output_error; };
  const auto bits = [](const Entry& e) { return e.totals.bits_per_weight; };
  const auto memory = [](const Entry& e) {
    return static_cast<double>(e.totals.memory_bytes);
  };
  const auto speed = [](const Entry& e) { return WeightsPerSecond(*e.run); };
  return absl::StrCat(
      Card("Bits against error", "Lower and further left is better", "",
           ScatterChart(entries)),
      "<div class=\"pair\">",
      Card("Output error",
           "Mean over the tensors, on the calibration&#39;s own tokens: with "
           "few of them it flatters gptq and awq, which fit to it",
           "", BarChart(WithOutput(entries), "Output error", output, Percent)),
      Card("Weight error", "||W - W&#39;|| / ||W|| over all weights", "",
           BarChart(entries, "Weight error", relative, Percent)),
      Card("Size", "Bits a weight, all metadata counted", "",
           BarChart(entries, "Bits a weight", bits,
                    [](double v) { return FormatFixed(v, 3); })),
      Card("Speed", "Weights a second of one worker, error report included", "",
           BarChart(entries, "Speed", speed,
                    [](double v) { return FormatFixed(v / 1e6, 1) + " M/s"; })),
      Card("Memory",
           "Of the server, the most for one tensor, or for a group that is "
           "solved together, with the second moments of its inputs",
           "",
           BarChart(entries, "Memory", memory,
                    [](double v) { return FormatBytes(std::llround(v)); })),
      "</div>\n");
}

std::string BaseName(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

std::string AskedText(const CompareReport& report) {
  return absl::StrCat(report.bits, " bits, ",
                      report.group_size < 0
                          ? "one scale a row"
                          : absl::StrCat("groups of ", report.group_size));
}

}  // namespace

std::string CompareHtml(const CompareReport& report) {
  const Entries entries = EntriesOf(report);
  const std::string title = BaseName(report.input_path) + ": methods compared";
  return HtmlPage(
      title,
      absl::StrCat("<h1>", HtmlEscape(title), "</h1>\n<dl>\n",
                   Fact("weights", report.input_path),
                   Fact("calibration", report.calibration_path),
                   Fact("asked for", AskedText(report)),
                   Fact("made", report.created), "</dl>\n", Charts(entries),
                   Card("Methods",
                        "The same tensors through every method; no "
                        "checkpoint was written",
                        "", MethodTable(entries)),
                   Card("Time",
                        "Of the workers, by what it went to; in all is from "
                        "start to end, transfers included",
                        "", TimeTable(entries)),
                   Card("Did not run", "", "", RefusedTable(report))));
}

}  // namespace qs::cli

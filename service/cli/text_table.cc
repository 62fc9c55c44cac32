// Tested by tests/cli/report_test.cc.
#include "service/cli/text_table.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"
#include "quant/formats/utf8.h"

namespace qs::cli {

TextTable::TextTable(std::vector<Column> columns)
    : columns_(std::move(columns)) {
  for (const Column& column : columns_) widths_.push_back(column.title.size());
}

void TextTable::AddRow(std::vector<std::string> cells) {
  for (size_t i = 0; i < widths_.size() && i < cells.size(); ++i) {
    cells[i] = EscapeControls(cells[i]);
    widths_[i] = std::max(widths_[i], Utf8Length(cells[i]));
  }
  rows_.push_back(std::move(cells));
}

void TextTable::AddRule() { rows_.emplace_back(); }

std::string TextTable::Line(const std::vector<std::string>& cells) const {
  std::string line;
  for (size_t i = 0; i < columns_.size() && i < cells.size(); ++i) {
    const std::string padding(widths_[i] - Utf8Length(cells[i]), ' ');
    if (i > 0) line += "  ";
    if (columns_[i].align == Align::kRight) line += padding;
    line += cells[i];
    if (columns_[i].align == Align::kLeft) line += padding;
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

std::string TextTable::Text() const {
  std::vector<std::string> titles;
  size_t width = 0;
  for (size_t i = 0; i < columns_.size(); ++i) {
    titles.push_back(columns_[i].title);
    width += widths_[i] + (i > 0 ? 2 : 0);
  }
  const std::string rule = std::string(width, '-') + "\n";
  std::string text = Line(titles) + rule;
  for (const auto& row : rows_) text += row.empty() ? rule : Line(row);
  return text;
}

std::string Counted(int64_t count, const char* noun) {
  return absl::StrFormat("%d %s%s", count, noun, count == 1 ? "" : "s");
}

std::string FormatBytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::abs(value) >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return absl::StrFormat("%d B", bytes);
  const int digits = std::abs(value) < 9.995   ? 2
                     : std::abs(value) < 99.95 ? 1
                                               : 0;
  return absl::StrFormat("%.*f %s", digits, value, kUnits[unit]);
}

std::string FormatError(double value) {
  if (std::isnan(value)) return "-";
  return value == 0 ? "0" : absl::StrFormat("%.3e", value);
}

std::string FormatFixed(double value, int digits) {
  if (std::isnan(value)) return "-";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return absl::StrFormat("%.*f", digits, value);
}

}  // namespace qs::cli

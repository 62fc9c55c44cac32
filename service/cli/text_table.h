// Aligned columns of text, and numbers as people read them. Thread: pure
// functions; TextTable is thread-compatible.
#ifndef QS_SERVICE_CLI_TEXT_TABLE_H_
#define QS_SERVICE_CLI_TEXT_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace qs::cli {

enum class Align { kLeft, kRight };

class TextTable {
 public:
  struct Column {
    std::string title;
    Align align = Align::kRight;
  };
  explicit TextTable(std::vector<Column> columns);

  // One cell a column; what a terminal would obey is escaped.
  void AddRow(std::vector<std::string> cells);
  void AddRule();
  // Every line ends in a newline and without trailing spaces.
  std::string Text() const;

 private:
  std::string Line(const std::vector<std::string>& cells) const;

  const std::vector<Column> columns_;
  std::vector<size_t> widths_;                  // in characters
  std::vector<std::vector<std::string>> rows_;  // an empty one is a rule
};

// "1 tensor", "2 tensors".
std::string Counted(int64_t count, const char* noun);
std::string FormatBytes(int64_t bytes);  // "8.39 MB", decimal units
// NaN, a figure that there is not, is "-" in both.
std::string FormatError(double value);              // "1.234e-05", "0"
std::string FormatFixed(double value, int digits);  // "inf", "-inf"
template <typename Shape>
std::string FormatShape(const Shape& shape) {  // "256x768"
  std::string text;
  for (const int64_t dimension : shape) {
    if (!text.empty()) text += 'x';
    text += std::to_string(dimension);
  }
  return text.empty() ? "scalar" : text;
}

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_TEXT_TABLE_H_

// Tested by tests/cli/report_test.cc.
#include "service/cli/progress.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "quant/formats/utf8.h"
#include "service/cli/text_table.h"

namespace qs::cli {
namespace {

constexpr int kMaxBarColumns = 24;
constexpr int kMinBarColumns = 4;

double Fraction(const ProgressState& state) {
  if (state.total_bytes <= 0) return 1;
  return std::clamp(
      static_cast<double>(state.bytes) / static_cast<double>(state.total_bytes),
      0.0, 1.0);
}

}  // namespace

std::string ProgressLine(const ProgressState& state) {
  const double fraction = Fraction(state);
  std::string line = absl::StrFormat(
      "%3d%%  %d/%d tensors  %s of %s", static_cast<int>(fraction * 100),
      state.tensors, state.total_tensors, FormatBytes(state.bytes),
      FormatBytes(state.total_bytes));
  if (state.solving.groups > 0) {
    absl::StrAppendFormat(&line, "  solving %d group%s: %d%%",
                          state.solving.groups,
                          state.solving.groups == 1 ? "" : "s",
                          static_cast<int>(state.solving.done * 100));
    return line;  // when they are through is not to be told from the bytes
  }
  if (state.seconds < 0.5 || state.bytes <= 0) return line;
  const double rate = static_cast<double>(state.bytes) / state.seconds;
  const int left = static_cast<int>(
      std::ceil(state.seconds * (1 - fraction) / std::max(fraction, 1e-9)));
  absl::StrAppendFormat(&line, "  %s/s", FormatBytes(std::llround(rate)));
  if (left > 0)
    absl::StrAppendFormat(&line, "  %d:%02d left", left / 60, left % 60);
  return line;
}

std::string ProgressBar(const ProgressState& state, int columns) {
  const std::string line = ProgressLine(state);
  // Beside the bar: two brackets, a space, and the last column.
  const int room = columns - static_cast<int>(line.size()) - 4;
  const int width = std::min(room, kMaxBarColumns);
  if (width < kMinBarColumns) {
    return line.substr(0, static_cast<size_t>(std::max(columns - 1, 0)));
  }
  const int full = static_cast<int>(Fraction(state) * width);
  std::string bar(static_cast<size_t>(full), '=');
  if (full < width) bar += '>';
  bar.resize(static_cast<size_t>(width), ' ');
  return "[" + bar + "] " + line;
}

Progress::Progress(std::ostream& out, int columns, int64_t total_bytes,
                   int64_t total_tensors)
    : out_(out),
      columns_(columns),
      started_(absl::Now()),
      state_{.total_bytes = total_bytes, .total_tensors = total_tensors},
      drawn_(started_) {}

void Progress::AddBytes(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  state_.bytes += bytes;
  Draw();
}

void Progress::AddTensor() {
  absl::MutexLock lock(&mutex_);
  ++state_.tensors;
  Draw();
}

void Progress::SetSolving(const void* stream, int64_t group, double done) {
  absl::MutexLock lock(&mutex_);
  if (done < 1) {
    solving_[{stream, group}] = done;
  } else {
    solving_.erase({stream, group});
  }
  CountSolving();
  Draw();
}

void Progress::ForgetSolving(const void* stream) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(solving_,
                [&](const auto& one) { return one.first.first == stream; });
  CountSolving();
}

void Progress::CountSolving() {
  Solving& solving = state_.solving;
  solving = {static_cast<int64_t>(solving_.size()), 0};
  for (const auto& [group, done] : solving_) {
    solving.done += done / static_cast<double>(solving_.size());
  }
}

void Progress::Finish() {
  absl::MutexLock lock(&mutex_);
  Clear();
}

void Progress::Note(const std::string& text) {
  absl::MutexLock lock(&mutex_);
  Clear();
  out_ << EscapeControls(text) << "\n" << std::flush;
}

void Progress::Clear() {
  if (bar_shown_) out_ << "\r\x1b[K" << std::flush;
  bar_shown_ = false;
}

void Progress::Draw() {
  const absl::Time now = absl::Now();
  if (now - drawn_ <
      (columns_ > 0 ? absl::Milliseconds(100) : absl::Seconds(2))) {
    return;
  }
  drawn_ = now;
  state_.seconds = absl::ToDoubleSeconds(now - started_);
  if (columns_ > 0) {
    out_ << "\r" << ProgressBar(state_, columns_) << "\x1b[K" << std::flush;
    bar_shown_ = true;
  } else {
    out_ << ProgressLine(state_) << "\n" << std::flush;
  }
}

}  // namespace qs::cli

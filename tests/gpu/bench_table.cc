#include "tests/gpu/bench_table.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"

namespace qs::cuda {
namespace {

using Clock = std::chrono::steady_clock;

// A series: long beside what one wait costs, short beside the patience of
// tests/gpu/run.sh.
constexpr double kSeriesSeconds = 0.03;
constexpr double kMostCalls = 500;

size_t Index(Ceiling ceiling) { return static_cast<size_t>(ceiling); }

bool CountsOperations(Ceiling ceiling) {
  return ceiling == Ceiling::kBf16 || ceiling == Ceiling::kTf32 ||
         ceiling == Ceiling::kF32;
}

const char* NameOf(Ceiling ceiling) {
  switch (ceiling) {
    case Ceiling::kCopy:
      return "device copy";
    case Ceiling::kBf16:
      return "BF16 product";
    case Ceiling::kTf32:
      return "TF32 product";
    case Ceiling::kF32:
      return "F32 product";
    case Ceiling::kHostIn:
      return "host to device";
    case Ceiling::kHostOut:
      return "device to host";
    case Ceiling::kBus:
      return "bus";
  }
  return "";
}

std::string AskedText(const Asked& asked) {
  if (asked.most_ms > 0) {
    std::string text = absl::StrCat("<= ", asked.most_ms, " ms");
    if (asked.goal_ms > 0) absl::StrAppend(&text, " (", asked.goal_ms, ")");
    return text;
  }
  if (asked.least_share > 0) {
    std::string text = absl::StrCat(">= ", 100 * asked.least_share, " %");
    if (asked.goal_share > 0) {
      absl::StrAppend(&text, " (", 100 * asked.goal_share, ")");
    }
    return text;
  }
  return "";
}

bool Reaches(const Row& row, double most_ms, double least_share) {
  return most_ms > 0 ? row.seconds * 1e3 <= most_ms : row.share >= least_share;
}

// "", "no", "yes" or "goal".
std::string MetText(const Row& row) {
  const Asked& asked = row.spec.asked;
  if (asked.most_ms <= 0 && asked.least_share <= 0) return "";
  if (!Reaches(row, asked.most_ms, asked.least_share)) return "no";
  const bool has_goal = asked.goal_ms > 0 || asked.goal_share > 0;
  return has_goal && Reaches(row, asked.goal_ms, asked.goal_share) ? "goal"
                                                                   : "yes";
}

std::string RateText(const Row& row) {
  if (row.spec.ceiling == Ceiling::kBus) return "";
  return CountsOperations(row.spec.ceiling)
             ? absl::StrFormat("%.1f TFLOP/s", row.rate * 1e-12)
             : absl::StrFormat("%.0f GB/s", row.rate * 1e-9);
}

}  // namespace

absl::StatusOr<double> BenchTable::SecondsOfSeries(
    int64_t calls, const std::function<absl::Status(int64_t)>& body) {
  const Clock::time_point start = Clock::now();
  for (int64_t call = 0; call < calls; ++call) {
    QS_RETURN_IF_ERROR(body(call));
    machine_.workspace().GiveBack();
  }
  QS_RETURN_IF_ERROR(machine_.workspace().Synchronize());
  return std::chrono::duration<double>(Clock::now() - start).count() /
         static_cast<double>(calls);
}

absl::Status BenchTable::Add(const RowSpec& spec,
                             const std::function<absl::Status(int64_t)>& body) {
  const auto measured = [&]() -> absl::StatusOr<double> {
    QS_RETURN_IF_ERROR(SecondsOfSeries(1, body).status());
    QS_ASSIGN_OR_RETURN(double least, SecondsOfSeries(1, body));
    const auto calls = static_cast<int64_t>(
        std::clamp(kSeriesSeconds / least, 1.0, kMostCalls));
    for (int run = 0; run < runs_; ++run) {
      QS_ASSIGN_OR_RETURN(
          const double seconds,
          SecondsOfSeries(machine_.emulated() ? 1 : calls, body));
      least = std::min(least, seconds);
    }
    return least;
  }();
  if (!measured.ok()) {
    return absl::Status(measured.status().code(),
                        absl::StrCat(spec.kernel, " ", spec.shape, ": ",
                                     std::string(measured.status().message())));
  }
  Row row{.spec = spec, .seconds = *measured, .rate = spec.work / *measured};
  if (spec.is_ceiling) {
    ceilings_[Index(spec.ceiling)] = row.rate;
  } else {
    row.share = ShareOf(spec, *measured);
  }
  Print(row);
  rows_.push_back(row);
  return absl::OkStatus();
}

double BenchTable::ShareOf(const RowSpec& spec, double seconds) const {
  if (spec.ceiling == Ceiling::kBus) {
    const double bus = spec.bytes_in / ceilings_[Index(Ceiling::kHostIn)] +
                       spec.bytes_out / ceilings_[Index(Ceiling::kHostOut)];
    return bus / seconds;
  }
  return spec.work / seconds / ceilings_[Index(spec.ceiling)];
}

void BenchTable::PrintHead() const {
  const DeviceFacts& facts = machine_.device().facts();
  std::fprintf(out_, "%s, compute capability %d.%d, %d multiprocessors; %s\n",
               facts.name.c_str(), facts.compute_major, facts.compute_minor,
               facts.multiprocessors, machine_.blas().description().c_str());
  if (machine_.emulated()) {
    std::fprintf(out_,
                 "EMULATED ON THE HOST, on small shapes: that every row runs; "
                 "its times are no device's\n");
  }
  std::fprintf(
      out_,
      "Least of %d series a row. A copy counts what it reads and what it "
      "writes; second moments count 2 N K^2.\n"
      "Staged rows begin and end in host memory; their share is the bus's "
      "alone of the time.\n\n%-44s %-20s %9s %14s %7s %-15s %-14s %s\n",
      runs_, "kernel", "shape", machine_.emulated() ? "host ms" : "ms", "rate",
      "share", "of", "asked (goal)", "met");
}

void BenchTable::Print(const Row& row) const {
  const bool judged = !machine_.emulated();
  std::fprintf(
      out_, "%-44s %-20s %9.4f %14s %7s %-15s %-14s %s\n",
      row.spec.kernel.c_str(), row.spec.shape.c_str(), row.seconds * 1e3,
      RateText(row).c_str(),
      row.spec.is_ceiling ? ""
                          : absl::StrFormat("%.1f %%", 100 * row.share).c_str(),
      row.spec.is_ceiling ? "(a ceiling)" : NameOf(row.spec.ceiling),
      AskedText(row.spec.asked).c_str(), judged ? MetText(row).c_str() : "");
  std::fflush(out_);
}

void BenchTable::PrintJson(const Row& row) const {
  const RowSpec& spec = row.spec;
  const bool judged = !machine_.emulated();
  std::fprintf(
      out_,
      "{\"name\":\"%s\",\"shape\":\"%s\",\"device\":\"%s\",\"%s\":%.6f,"
      "\"rate\":%.6g,\"unit\":\"%s\",\"ceiling\":\"%s\","
      "\"ceiling_rate\":%.6g,\"share\":%.4f,\"asked\":\"%s\",\"met\":\"%s\","
      "\"runs\":%d}\n",
      spec.kernel.c_str(), spec.shape.c_str(),
      machine_.device().facts().name.c_str(), judged ? "ms" : "emulated_ms",
      row.seconds * 1e3, row.rate,
      CountsOperations(spec.ceiling) ? "FLOP/s" : "B/s", NameOf(spec.ceiling),
      ceilings_[Index(spec.ceiling)], row.share, AskedText(spec.asked).c_str(),
      judged ? MetText(row).c_str() : "", runs_);
}

void BenchTable::PrintJson() const {
  for (const Row& row : rows_) PrintJson(row);
  std::fflush(out_);
}

}  // namespace qs::cuda

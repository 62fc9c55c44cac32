// Tested by tests/cli/report_test.cc and tests/cli/job_text_test.cc.
#include "service/cli/totals_text.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "quant/formats/utf8.h"
#include "service/cli/text_table.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

// Of the worst groups that a report has.
constexpr int kWorstShown = 5;

std::string Line(const std::string& label, const std::string& text) {
  if (text.empty()) return "";
  return absl::StrFormat("%-13s%s\n", label + ":", text);
}

std::string PercentText(double part) {
  if (std::isnan(part)) return "-";
  return std::isfinite(part) ? absl::StrFormat("%.3g%%", 100 * part) : "inf";
}

// Groups whose range was cut by more than a tenth.
std::string ClipText(const v1::SolverFacts& facts) {
  int64_t groups = 0;
  for (const int64_t count : facts.clip_histogram()) groups += count;
  if (groups == 0) return "";
  const int64_t whole = *facts.clip_histogram().rbegin();
  if (whole == groups) return "";
  return absl::StrFormat(
      "%.1f%% of groups clipped below 0.9",
      100 * static_cast<double>(groups - whole) / static_cast<double>(groups));
}

std::string TimeText(const v1::ReportTotals& totals) {
  if (totals.worker_seconds() <= 0) return "";
  const std::string phases = PhasesText(totals.phases());
  return absl::StrCat(FormatFixed(totals.worker_seconds(), 2), " s",
                      phases.empty() ? "" : ": ", phases);
}

std::string MemoryText(const v1::ReportTotals& totals) {
  if (totals.memory_bytes() <= 0) return "";
  return absl::StrCat("at most ", FormatBytes(totals.memory_bytes()),
                      " of the server's for a tensor or a group");
}

std::string WorstText(const v1::ReportTotals& totals) {
  std::string text;
  const int shown = std::min(kWorstShown, totals.worst_groups_size());
  for (int i = 0; i < shown; ++i) {
    const v1::WorstGroup& worst = totals.worst_groups(i);
    text += Line("worst group",
                 absl::StrCat("MSE ", FormatError(worst.mean_squared_error()),
                              " in ", EscapeControls(worst.tensor()),
                              ", group ", worst.group()));
  }
  return text;
}

}  // namespace

std::vector<PhaseShare> SharesOf(const v1::PhaseSeconds& phases) {
  std::vector<PhaseShare> shares;
  double sum = 0;
  const auto* descriptor = phases.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    const double seconds = phases.GetReflection()->GetDouble(phases, field);
    if (seconds <= 0) continue;
    shares.push_back({std::string(field->name()), seconds, 0});
    sum += seconds;
  }
  for (PhaseShare& share : shares) share.share = share.seconds / sum;
  return shares;
}

std::string PhasesText(const v1::PhaseSeconds& phases) {
  constexpr double kLeast = 0.005;
  std::vector<std::string> parts;
  for (const PhaseShare& share : SharesOf(phases)) {
    if (share.share < kLeast) continue;
    parts.push_back(
        absl::StrFormat("%s %.0f%%", share.name, 100 * share.share));
  }
  return absl::StrJoin(parts, ", ");
}

std::string CosineText(const v1::ErrorStats& stats) {
  const bool known = stats.has_dot_product() || stats.cosine_similarity() != 0;
  return known ? FormatFixed(stats.cosine_similarity(), 5) : "-";
}

std::string FiguresText(const v1::ErrorStats& stats) {
  return absl::StrCat(
      "MSE ", FormatError(stats.mean_squared_error()), ", mean |e| ",
      FormatError(stats.mean_absolute_error()), ", max |e| ",
      FormatError(stats.max_absolute_error()), ", relative ",
      PercentText(stats.relative_frobenius_error()), ", SQNR ",
      FormatFixed(stats.sqnr_db(), 2), " dB, cosine ", CosineText(stats));
}

std::string CarriedText(const v1::PlanSummary& summary) {
  constexpr int kShown = 4;
  std::string text;
  for (int i = 0; i < std::min(kShown, summary.carried_size()); ++i) {
    const v1::CarriedTensors& carried = summary.carried(i);
    absl::StrAppend(&text, "carried:     ", FormatBytes(carried.bytes()),
                    " in ", carried.tensors(),
                    carried.tensors() == 1 ? " tensor: " : " tensors: ",
                    carried.reason(), "\n");
  }
  const int more = summary.carried_size() - kShown;
  if (more > 0) {
    absl::StrAppend(&text, "carried:     for ", more, " more reasons\n");
  }
  return text;
}

std::string SolverFactsText(const v1::SolverFacts& s, int64_t weights) {
  std::vector<std::string> facts;
  if (s.damping() > 0) {
    facts.push_back(absl::StrFormat("damping %.3g", s.damping()));
  }
  if (s.damping_retries() > 0) {
    facts.push_back(absl::StrCat(s.damping_retries(), " retries"));
  }
  if (s.factor_in_f64()) facts.emplace_back("factor in f64");
  if (s.diagonal_only()) facts.emplace_back("diagonal only");
  if (s.dead_columns() > 0) {
    facts.push_back(absl::StrCat(s.dead_columns(), " dead columns"));
  }
  if (s.scale_max() > 0) {
    facts.push_back(absl::StrFormat(
        "exponent %.3g%s, scales %.3g to %.3g", s.scale_exponent(),
        s.scale_duo() ? " duo" : "", s.scale_min(), s.scale_max()));
  }
  if (const std::string clips = ClipText(s); !clips.empty()) {
    facts.push_back(clips);
  }
  if (s.iterations() > 0) {
    facts.push_back(absl::StrFormat("%.1f iterations", s.iterations()));
  }
  if (s.codes_changed() > 0) {
    facts.push_back(
        absl::StrFormat("%.1f%% of codes changed",
                        100 * static_cast<double>(s.codes_changed()) /
                            static_cast<double>(weights)));
  }
  return absl::StrJoin(facts, ", ");
}

std::string MadeByText(const v1::ReportTotals& totals) {
  const std::string devices = absl::StrJoin(totals.devices(), ", ");
  return absl::StrCat(absl::StrJoin(totals.algorithms(), ", "),
                      devices.empty() ? "" : " on ", devices);
}

std::string TotalsText(const TotalsLines& lines) {
  std::string text;
  const auto figures = [&](const char* label, const v1::ErrorStats* stats) {
    if (stats == nullptr || stats->count() == 0) return;
    text += Line(label, FiguresText(*stats));
  };
  figures("figures", lines.error);
  figures("RTN's", lines.rtn);
  const v1::ReportTotals& totals = *lines.totals;
  return absl::StrCat(
      text, Line("solver", SolverFactsText(totals.solver(), totals.weights())),
      Line("worker time", TimeText(totals)), Line("memory", MemoryText(totals)),
      Line("made by", MadeByText(totals)), WorstText(totals));
}

}  // namespace qs::cli

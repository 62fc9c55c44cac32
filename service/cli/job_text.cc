// Tested by tests/cli/job_text_test.cc.
#include "service/cli/job_text.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"
#include "quant/formats/utf8.h"
#include "service/cli/text_table.h"
#include "service/cli/totals_text.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

std::string TimeText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S",
                          absl::FromUnixSeconds(time.seconds()),
                          absl::UTCTimeZone());
}

std::string ConfigName(const v1::QuantizationConfig& config) {
  if (config.has_preset()) return config.preset();
  const auto* field = config.GetDescriptor()->FindFieldByNumber(
      static_cast<int>(config.method_case()));
  return field == nullptr ? "" : std::string(field->name());
}

std::string ReasonOf(const google::rpc::Status& error) {
  google::rpc::ErrorInfo info;
  for (const auto& detail : error.details()) {
    if (detail.UnpackTo(&info)) return info.reason();
  }
  return "";
}

std::string ProgressText(const v1::JobProgress& progress) {
  std::string text = absl::StrCat(
      progress.tensors_done(), " of ", progress.tensors_total(), " tensors, ",
      FormatBytes(progress.bytes_done()), " of ",
      FormatBytes(progress.bytes_total()), ", ", progress.shards_done(), " of ",
      progress.shards_total(), " shards");
  if (progress.tensors_waiting() > 0) {
    absl::StrAppend(&text, "; ", progress.tensors_waiting(),
                    progress.tensors_waiting() == 1
                        ? " tensor waits for sites"
                        : " tensors wait for sites");
  }
  return text;
}

std::string SourceText(const v1::JobSource& source) {
  if (!source.has_tensors()) return source.uri();
  const v1::JobTensors& tensors = source.tensors();
  return tensors.glob().empty()
             ? absl::StrCat(tensors.names_size(), " uploaded tensors")
             : absl::StrCat("uploaded tensors ", tensors.glob());
}

std::string WaitingText(const v1::JobWaiting& waiting) {
  std::string text =
      absl::StrCat("waiting for: ", waiting.open_sites(),
                   waiting.open_sites() == 1 ? " site of " : " sites of ",
                   waiting.calibration(), ": ");
  for (int i = 0; i < waiting.first_sites_size(); ++i) {
    absl::StrAppend(&text, i > 0 ? ", " : "",
                    EscapeControls(waiting.first_sites(i)));
  }
  if (waiting.open_sites() > waiting.first_sites_size()) text += ", ...";
  return text + "\n";
}

std::string SummaryText(const v1::JobSummary& summary) {
  std::string text = absl::StrCat("result:      ", summary.files(), " files, ",
                                  FormatBytes(summary.file_bytes()), " in ",
                                  FormatFixed(summary.seconds(), 1), " s\n",
                                  "tensors:     ", summary.tensors(), ", ",
                                  FormatBytes(summary.bytes_in()), " to ",
                                  FormatBytes(summary.bytes_out()), "\n");
  if (summary.has_error()) {
    absl::StrAppend(
        &text,
        "mse:         ", FormatError(summary.error().mean_squared_error()),
        summary.has_rtn() ? ", round to nearest " +
                                FormatError(summary.rtn().mean_squared_error())
                          : "",
        "\n");
  }
  if (summary.has_output_error()) {
    absl::StrAppend(
        &text, "output error:", " ", FormatError(summary.output_error()),
        summary.has_rtn_output_error()
            ? ", round to nearest " + FormatError(summary.rtn_output_error())
            : "",
        "\n");
  }
  if (summary.warnings() > 0) {
    absl::StrAppend(&text, "warnings:    ", summary.warnings(), "\n");
  }
  if (summary.has_totals()) {
    text += TotalsText({summary.has_error() ? &summary.error() : nullptr,
                        summary.has_rtn() ? &summary.rtn() : nullptr,
                        &summary.totals()});
  }
  return absl::StrCat(text, "digest:      ", summary.digest(), "\n");
}

// Two digits are more than an estimate has.
std::string AboutTime(const google::protobuf::Duration& time) {
  const double seconds =
      static_cast<double>(time.seconds()) + 1e-9 * time.nanos();
  if (seconds < 90) return absl::StrFormat("%.2g s", seconds);
  if (seconds < 90 * 60) return absl::StrFormat("%.0f min", seconds / 60);
  return absl::StrFormat("%.1f h", seconds / 3600);
}

std::string DestinationOf(const v1::Job& job) {
  return job.has_destination() ? job.destination().uri() : "the server's store";
}

}  // namespace

std::string JobIdOf(const std::string& name) {
  return name.substr(name.rfind('/') + 1);
}

std::string StateText(v1::Job::State state, int attempt, bool cancelling) {
  std::string text = v1::Job::State_Name(state);
  if (attempt > 1) absl::StrAppend(&text, ", attempt ", attempt);
  return cancelling ? text + ", cancelling" : text;
}

std::string PlanText(const v1::JobPlan& plan) {
  std::string text = absl::StrCat(
      "plan:        ", plan.tensors(), " tensors, ", FormatBytes(plan.bytes()),
      " to ", FormatBytes(plan.bytes_out()), ", ", plan.shards(),
      " shards, largest group ", FormatBytes(plan.largest_group_bytes()),
      ", about ", AboutTime(plan.estimated_time()), "\n",
      CarriedText(plan.summary()));
  for (const v1::Finding& finding : plan.findings()) {
    absl::StrAppend(
        &text, "warning:     ",
        EscapeControls(absl::StrCat(finding.rule(), " ", finding.tensor(), ": ",
                                    finding.text())),
        "\n");
  }
  return text;
}

std::string JobText(const v1::Job& job) {
  std::string text =
      absl::StrCat("job:         ", job.name(), "\nstate:       ",
                   StateText(job.state(), job.attempt(), job.cancelling()),
                   "\nsource:      ", SourceText(job.source()),
                   "\nmethod:      ", ConfigName(job.quantization()),
                   "\ndestination: ", DestinationOf(job), "\n");
  for (const v1::Override& rule : job.overrides()) {
    absl::StrAppend(&text, "override:    ", rule.tensors(), "=",
                    rule.skip() ? "skip" : ConfigName(rule.config()), "\n");
  }
  for (const auto& [key, value] : job.labels()) {
    absl::StrAppend(&text, "label:       ",
                    EscapeControls(absl::StrCat(key, "=", value)), "\n");
  }
  if (job.has_waiting_for()) text += WaitingText(job.waiting_for());
  if (job.has_plan()) text += PlanText(job.plan());
  if (job.has_progress()) {
    absl::StrAppend(&text, "progress:    ", ProgressText(job.progress()), "\n");
  }
  absl::StrAppend(&text, "created:     ", TimeText(job.create_time()), "\n");
  if (job.has_start_time()) {
    absl::StrAppend(&text, "started:     ", TimeText(job.start_time()), "\n");
  }
  if (job.has_end_time()) {
    absl::StrAppend(&text, "ended:       ", TimeText(job.end_time()), "\n");
  }
  if (job.has_error()) {
    absl::StrAppend(&text,
                    "error:       ", EscapeControls(job.error().message()),
                    " (", EscapeControls(ReasonOf(job.error())), ")\n");
  }
  if (job.has_summary()) text += SummaryText(job.summary());
  return EscapeControlsInLines(text);
}

std::string JobTable(const std::vector<v1::Job>& jobs) {
  TextTable table({{"job", Align::kLeft},
                   {"state", Align::kLeft},
                   {"done"},
                   {"method", Align::kLeft},
                   {"created (UTC)", Align::kLeft},
                   {"destination", Align::kLeft}});
  for (const v1::Job& job : jobs) {
    const v1::JobProgress& progress = job.progress();
    const int64_t percent =
        progress.bytes_total() > 0
            ? 100 * progress.bytes_done() / progress.bytes_total()
            : 0;
    table.AddRow({JobIdOf(job.name()),
                  StateText(job.state(), job.attempt(), job.cancelling()),
                  absl::StrCat(percent, " %"), ConfigName(job.quantization()),
                  TimeText(job.create_time()), DestinationOf(job)});
  }
  return table.Text();
}

}  // namespace qs::cli

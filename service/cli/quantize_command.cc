// Tested by tests/e2e/quantctl_test.py.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/checkpoint.h"
#include "quant/formats/posix_file.h"
#include "quant/formats/utf8.h"
#include "service/checkpoint/checkpoint_writer.h"
#include "service/checkpoint/header_check.h"
#include "service/checkpoint/planned_checkpoint.h"
#include "service/checkpoint/work_batch.h"
#include "service/cli/commands.h"
#include "service/cli/config_file.h"
#include "service/cli/exit_code.h"
#include "service/cli/output_staging.h"
#include "service/cli/plan_client.h"
#include "service/cli/progress.h"
#include "service/cli/run_control.h"
#include "service/cli/run_report.h"
#include "service/cli/signal_watcher.h"
#include "service/cli/stream_client.h"
#include "service/cli/text_output.h"
#include "service/cli/text_table.h"
#include "service/cli/work_board.h"
#include "service/server/spec_convert.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

absl::StatusOr<Checkpoint> OpenCheckpoint(const std::string& path) {
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(path);
  if (!checkpoint.ok()) return InputFault(checkpoint.status());
  return checkpoint;
}

void PrintWarnings(const PlanAnswer& plan, const Console& console) {
  for (const v1::Finding& finding : plan.findings) {
    if (finding.severity() != v1::Finding::WARNING) continue;
    console.error << "warning " << FindingText(finding) << "\n";
  }
}

v1::QuantizeConfig StreamConfig(const PlanAnswer& plan,
                                const RunArguments& run) {
  v1::QuantizeConfig config;
  *config.mutable_quantization() = plan.summary.resolved();
  *config.mutable_overrides() = plan.summary.overrides();
  config.set_send_progress(true);
  if (run.skip_error_report) config.set_skip_error_report(true);
  if (run.skip_digest) config.set_skip_digest(true);
  return config;
}

// By the number of the rule.
absl::StatusOr<std::vector<QuantSpec>> SpecsOf(const v1::PlanSummary& plan) {
  QS_ASSIGN_OR_RETURN(const QuantSpec spec,
                      SpecFromProto(plan.resolved(), "summary.resolved"));
  QS_ASSIGN_OR_RETURN(
      const std::vector<PlanOverride> overrides,
      OverridesFromProto(plan.overrides(), spec, "summary.overrides"));
  return SpecsByRule(spec, overrides);
}

absl::Status CheckNoWarning(const RunReport& report) {
  std::vector<std::string> warned;
  for (const v1::TensorReport& tensor : report.tensors) {
    if (!tensor.warnings().empty()) warned.push_back(tensor.name());
  }
  if (warned.empty()) return absl::OkStatus();
  return WithExitCode(
      absl::FailedPreconditionError(absl::StrCat(
          "--fail-on-warning: got warnings for ", warned.size(), " of ",
          Counted(static_cast<int64_t>(report.tensors.size()), "tensor"),
          ", the first is ", warned[0],
          ", allowed none; the output is complete")),
      ExitCode::kWarning);
}

// One run after its plan was accepted.
class QuantizeRun {
 public:
  QuantizeRun(const Arguments& arguments, const Console& console,
              const PlannedCheckpoint& checkpoint, const PlanAnswer& plan,
              const Calibration* calibration, RunControl& control)
      : arguments_(arguments),
        console_(console),
        checkpoint_(checkpoint),
        plan_(plan),
        calibration_(calibration),
        config_(StreamConfig(plan, arguments.run)),
        control_(control) {}

  absl::Status Run(const OutputTarget& target, TextOutput* json);

 private:
  // Streams and writes shards at the same time; then the other files.
  absl::Status Fill(const OutputTarget& target, const std::string& directory,
                    std::vector<WorkBatch> batches);
  absl::Status WriteShards(CheckpointWriter* writer, WorkBoard* board);
  int64_t InputBytes() const;
  void KeepReports(const std::vector<v1::TensorReport>& reports);
  absl::Status Report(const OutputTarget& target, TextOutput* json) const;

  const Arguments& arguments_;
  const Console& console_;
  const PlannedCheckpoint& checkpoint_;
  const PlanAnswer& plan_;
  const Calibration* const calibration_;  // or null
  const v1::QuantizeConfig config_;
  RunControl& control_;
  const absl::Time started_ = absl::Now();
  BatchTotals sent_;
  int64_t output_bytes_ = 0;
  std::vector<v1::TensorReport> reports_;
  std::vector<v1::TensorReport> folded_;
};

absl::Status QuantizeRun::Run(const OutputTarget& target, TextOutput* json) {
  QS_ASSIGN_OR_RETURN(std::vector<WorkBatch> batches,
                      MakeBatches(plan_, calibration_));
  QS_ASSIGN_OR_RETURN(const std::vector<QuantSpec> specs,
                      SpecsOf(plan_.summary));
  QS_RETURN_IF_ERROR(CheckHeaders(CheckpointShards(checkpoint_), plan_, specs));
  sent_ = TotalsOf(batches, checkpoint_.tensors());
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<OutputStaging> staging,
                      OutputStaging::Create(target));
  console_.error << absl::StrCat(
      "quantizing ", CountsOf(plan_).quantized, " of ",
      Counted(plan_.summary.tensors(), "tensor"), ", ",
      FormatBytes(sent_.bytes), ", ", Counted(arguments_.run.streams, "stream"),
      " to ", EscapeControls(arguments_.server.address), "\n");
  absl::Status status = Fill(target, staging->directory(), std::move(batches));
  // The last moment for a signal: what is published stays.
  if (status.ok()) status = control_.status();
  if (status.ok()) status = staging->Publish();
  if (!status.ok()) {
    return WithText(status, "; no output was written");
  }
  return Report(target, json);
}

int64_t QuantizeRun::InputBytes() const {
  int64_t bytes = 0;
  for (const CheckpointTensor& tensor : checkpoint_.files().tensors()) {
    bytes += tensor.entry.end - tensor.entry.begin;
  }
  return bytes;
}

absl::Status QuantizeRun::Fill(const OutputTarget& target,
                               const std::string& directory,
                               std::vector<WorkBatch> batches) {
  const int64_t streams = std::min<int64_t>(
      arguments_.run.streams, static_cast<int64_t>(batches.size()));
  WorkBoard board(checkpoint_, std::move(batches), directory);
  Progress progress(console_.error, console_.columns, sent_.bytes,
                    sent_.tensors);
  const CheckpointShards source(checkpoint_);
  CheckpointWriter writer(
      source, plan_, sent_.fold_only, directory,
      target.is_directory
          ? ""
          : std::filesystem::path(target.path).filename().string());
  const StreamContext context = {arguments_.server, config_, checkpoint_,
                                 calibration_,      board,   progress,
                                 control_};
  RunInParallel(context, streams, [&] {
    const absl::Status written = WriteShards(&writer, &board);
    if (!written.ok()) control_.Fail(written);
  });
  progress.Finish();
  QS_RETURN_IF_ERROR(control_.status());
  QS_RETURN_IF_ERROR(writer.WriteRest());
  output_bytes_ = writer.data_bytes();
  KeepReports(board.Reports());
  return absl::OkStatus();
}

void QuantizeRun::KeepReports(const std::vector<v1::TensorReport>& reports) {
  std::set<std::string> folded;
  for (const size_t tensor : sent_.fold_only) {
    folded.insert(checkpoint_.tensors()[tensor].entry.name);
  }
  for (const v1::TensorReport& report : reports) {
    (folded.contains(report.name()) ? folded_ : reports_).push_back(report);
  }
}

absl::Status QuantizeRun::WriteShards(CheckpointWriter* writer,
                                      WorkBoard* board) {
  while (const std::optional<int> shard = board->NextShard(control_)) {
    QS_RETURN_IF_ERROR(writer->WriteShard(*shard, board->TakeShard(*shard)));
  }
  return absl::OkStatus();
}

absl::Status QuantizeRun::Report(const OutputTarget& target,
                                 TextOutput* json) const {
  RunReport report;
  report.created =
      absl::FormatTime(absl::RFC3339_sec, started_, absl::UTCTimeZone());
  report.server = arguments_.server.address;
  report.input_path = checkpoint_.files().path();
  report.output_path = target.path;
  report.input_bytes = InputBytes();
  report.output_bytes = output_bytes_;
  report.target = TargetOf(arguments_.config);
  report.calibration_path = arguments_.calibration;
  report.streams = arguments_.run.streams;
  report.seconds = absl::ToDoubleSeconds(absl::Now() - started_);
  report.plan = plan_;
  report.tensors = reports_;
  report.folded = folded_;
  console_.out << ReportTable(report) << "wrote " << EscapeControls(target.path)
               << "\n";
  console_.out.flush();  // --json may be the same
  if (!arguments_.json_file.empty()) {
    const absl::Status written = json->Write(ReportToJson(report), &control_);
    if (!written.ok()) {
      return WithText(written, "; the output is complete, its report is not");
    }
  }
  return arguments_.run.fail_on_warning ? CheckNoWarning(report)
                                        : absl::OkStatus();
}

}  // namespace

absl::Status RunQuantize(const Arguments& arguments, const Console& console) {
  RunControl control;
  const SignalWatcher signals(control);
  QS_ASSIGN_OR_RETURN(ConfigArguments config, WithConfigFile(arguments.config));
  QS_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                      OpenCheckpoint(arguments.input));
  QS_ASSIGN_OR_RETURN(
      const OutputTarget target,
      ResolveOutput(arguments.output, arguments.input, arguments.run.overwrite,
                    FilesRead(arguments)));
  QS_ASSIGN_OR_RETURN(
      TextOutput json,
      TextOutput::Open(arguments.json_file, FilesRead(arguments), target));
  config.list_sites = !arguments.calibration.empty();
  QS_ASSIGN_OR_RETURN(const PlanAnswer plan,
                      FetchPlan(arguments.server, config, checkpoint, control));
  PrintWarnings(plan, console);
  QS_RETURN_IF_ERROR(CheckNotRefused(plan));
  QS_RETURN_IF_ERROR(CheckCalibrationGiven(arguments.calibration, plan));
  std::optional<Calibration> calibration;
  if (!arguments.calibration.empty()) {
    QS_ASSIGN_OR_RETURN(calibration,
                        OpenCalibration(arguments.calibration, plan));
  }
  QS_ASSIGN_OR_RETURN(const PlannedCheckpoint planned,
                      PlannedCheckpoint::Make(checkpoint, plan.entries));
  return QuantizeRun(arguments, console, planned, plan,
                     calibration ? &*calibration : nullptr, control)
      .Run(target, &json);
}

absl::Status RunPlan(const Arguments& arguments, const Console& console) {
  QS_ASSIGN_OR_RETURN(const ConfigArguments config,
                      WithConfigFile(arguments.config));
  QS_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                      OpenCheckpoint(arguments.input));
  RunControl control;
  QS_ASSIGN_OR_RETURN(const PlanAnswer plan,
                      FetchPlan(arguments.server, config, checkpoint, control));
  if (arguments.preset_assumed) {
    console.error << "quantctl: the plan of " << kPlanPreset
                  << ", as neither --preset nor --method says another\n";
  }
  console.out << (arguments.json ? PlanToJson(plan) : PlanTable(plan));
  console.out.flush();
  return CheckNotRefused(plan);
}

}  // namespace qs::cli

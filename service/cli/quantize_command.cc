// Tested by tests/e2e/quantctl_test.py.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/checkpoint.h"
#include "service/cli/checkpoint_writer.h"
#include "service/cli/commands.h"
#include "service/cli/exit_code.h"
#include "service/cli/output_staging.h"
#include "service/cli/plan_client.h"
#include "service/cli/progress.h"
#include "service/cli/run_control.h"
#include "service/cli/run_report.h"
#include "service/cli/signal_watcher.h"
#include "service/cli/stream_client.h"
#include "service/cli/text_table.h"
#include "service/cli/work_board.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

absl::StatusOr<Checkpoint> OpenCheckpoint(const std::string& path) {
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(path);
  if (!checkpoint.ok()) return InputError(checkpoint.status());
  return checkpoint;
}

void PrintWarnings(const PlanAnswer& plan, const Console& console) {
  for (const v1::Finding& finding : plan.findings) {
    if (finding.severity() != v1::Finding::WARNING) continue;
    console.error << "warning " << finding.rule()
                  << (finding.tensor().empty() ? "" : " ") << finding.tensor()
                  << ": " << finding.text() << "\n";
  }
}

std::vector<bool> Selected(const PlanAnswer& plan) {
  std::vector<bool> selected;
  for (const v1::PlanEntry& entry : plan.entries) {
    selected.push_back(entry.action() == v1::PlanEntry::QUANTIZE);
  }
  return selected;
}

// One run after its plan was accepted.
class QuantizeRun {
 public:
  QuantizeRun(const Arguments& arguments, const Console& console,
              const Checkpoint& checkpoint, const PlanAnswer& plan,
              RunControl& control)
      : arguments_(arguments),
        console_(console),
        checkpoint_(checkpoint),
        plan_(plan),
        control_(control) {}

  absl::Status Run(const OutputTarget& target);

 private:
  // Streams and writes shards at the same time; then the other files.
  absl::Status Fill(const OutputTarget& target, const std::string& directory);
  absl::Status WriteShards(CheckpointWriter* writer, WorkBoard* board);
  int64_t SelectedBytes() const;
  int64_t InputBytes() const;
  absl::Status Report(const OutputTarget& target) const;

  const Arguments& arguments_;
  const Console& console_;
  const Checkpoint& checkpoint_;
  const PlanAnswer& plan_;
  RunControl& control_;
  const absl::Time started_ = absl::Now();
  int64_t output_bytes_ = 0;
  std::vector<v1::TensorReport> reports_;
};

absl::Status QuantizeRun::Run(const OutputTarget& target) {
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<OutputStaging> staging,
                      OutputStaging::Create(target));
  console_.error << absl::StrCat(
      "quantizing ", CountsOf(plan_).quantized, " of ", plan_.entries.size(),
      " tensors, ", FormatBytes(SelectedBytes()), ", ", arguments_.streams,
      " streams to ", arguments_.server.address, "\n");
  absl::Status status = Fill(target, staging->directory());
  // The last moment for a signal: what is published stays.
  if (status.ok()) status = control_.status();
  if (status.ok()) status = staging->Publish();
  if (!status.ok()) {
    return WithText(status, "; no output was written");
  }
  return Report(target);
}

int64_t QuantizeRun::SelectedBytes() const {
  int64_t bytes = 0;
  for (size_t i = 0; i < plan_.entries.size(); ++i) {
    if (plan_.entries[i].action() != v1::PlanEntry::QUANTIZE) continue;
    const SafetensorsEntry& entry = checkpoint_.tensors()[i].entry;
    bytes += entry.end - entry.begin;
  }
  return bytes;
}

int64_t QuantizeRun::InputBytes() const {
  int64_t bytes = 0;
  for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
    bytes += tensor.entry.end - tensor.entry.begin;
  }
  return bytes;
}

absl::Status QuantizeRun::Fill(const OutputTarget& target,
                               const std::string& directory) {
  WorkBoard board(checkpoint_, Selected(plan_), directory);
  Progress progress(console_.error, console_.columns, SelectedBytes(),
                    CountsOf(plan_).quantized);
  CheckpointWriter writer(
      checkpoint_, plan_, directory,
      target.is_directory
          ? ""
          : std::filesystem::path(target.path).filename().string());
  const StreamContext context = {arguments_.server, plan_.summary.resolved(),
                                 checkpoint_,       board,
                                 progress,          control_};
  const int64_t streams =
      std::min<int64_t>(arguments_.streams, CountsOf(plan_).quantized);
  {
    std::vector<std::jthread> threads;
    for (int64_t i = 0; i < streams; ++i) {
      threads.emplace_back([&context] { RunStreams(context); });
    }
    const absl::Status written = WriteShards(&writer, &board);
    if (!written.ok()) control_.Fail(written);
  }
  progress.Finish();
  QS_RETURN_IF_ERROR(control_.status());
  QS_RETURN_IF_ERROR(writer.WriteRest());
  output_bytes_ = writer.data_bytes();
  reports_ = board.Reports();
  return absl::OkStatus();
}

absl::Status QuantizeRun::WriteShards(CheckpointWriter* writer,
                                      WorkBoard* board) {
  while (const std::optional<int> shard = board->NextShard(control_)) {
    QS_RETURN_IF_ERROR(writer->WriteShard(*shard, board->TakeShard(*shard)));
  }
  return absl::OkStatus();
}

absl::Status QuantizeRun::Report(const OutputTarget& target) const {
  RunReport report;
  report.created =
      absl::FormatTime(absl::RFC3339_sec, started_, absl::UTCTimeZone());
  report.server = arguments_.server.address;
  report.input_path = checkpoint_.path();
  report.output_path = target.path;
  report.input_bytes = InputBytes();
  report.output_bytes = output_bytes_;
  report.target = TargetOf(arguments_.config);
  report.streams = arguments_.streams;
  report.seconds = absl::ToDoubleSeconds(absl::Now() - started_);
  report.plan = plan_;
  report.tensors = reports_;
  console_.out << ReportTable(report) << "wrote " << target.path << "\n";
  if (arguments_.json_file.empty()) return absl::OkStatus();
  return WriteTextFile(arguments_.json_file, ReportToJson(report));
}

}  // namespace

absl::Status RunQuantize(const Arguments& arguments, const Console& console) {
  RunControl control;
  const SignalWatcher signals(control);
  QS_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                      OpenCheckpoint(arguments.input));
  QS_ASSIGN_OR_RETURN(
      const OutputTarget target,
      ResolveOutput(arguments.output, arguments.input, arguments.overwrite));
  if (!arguments.json_file.empty()) {
    QS_RETURN_IF_ERROR(
        CheckFileTarget(arguments.json_file, arguments.input, target));
  }
  QS_ASSIGN_OR_RETURN(
      const PlanAnswer plan,
      FetchPlan(arguments.server, arguments.config, checkpoint, control));
  QS_RETURN_IF_ERROR(CheckNotRefused(plan));
  PrintWarnings(plan, console);
  return QuantizeRun(arguments, console, checkpoint, plan, control).Run(target);
}

absl::Status RunPlan(const Arguments& arguments, const Console& console) {
  QS_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                      OpenCheckpoint(arguments.input));
  RunControl control;
  QS_ASSIGN_OR_RETURN(
      const PlanAnswer plan,
      FetchPlan(arguments.server, arguments.config, checkpoint, control));
  console.out << (arguments.json ? PlanToJson(plan) : PlanTable(plan));
  console.out.flush();
  return CheckNotRefused(plan);
}

}  // namespace qs::cli

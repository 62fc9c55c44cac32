// Tested by tests/e2e/quantctl_calibration_test.py.
#include <algorithm>
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
#include "service/checkpoint/planned_checkpoint.h"
#include "service/checkpoint/work_batch.h"
#include "service/cli/commands.h"
#include "service/cli/compare_report.h"
#include "service/cli/exit_code.h"
#include "service/cli/plan_client.h"
#include "service/cli/progress.h"
#include "service/cli/run_control.h"
#include "service/cli/run_report.h"
#include "service/cli/signal_watcher.h"
#include "service/cli/stream_client.h"
#include "service/cli/text_output.h"
#include "service/cli/text_table.h"
#include "service/cli/work_board.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

// What NF4 shares an absmax among, when it is asked for `group_size`.
int64_t BlockSizeFor(int64_t group_size) {
  const bool power = group_size > 0 && (group_size & (group_size - 1)) == 0;
  return power && group_size >= 32 && group_size <= 4096 ? group_size : 64;
}

ConfigArguments ConfigFor(const Arguments& arguments,
                          const std::string& method) {
  ConfigArguments config = arguments.config;
  config.method = method;
  config.list_sites = !arguments.calibration.empty();
  if (method == "nf4") {
    config.options["block_size"] = BlockSizeFor(arguments.compare.group_size);
  } else {
    config.options["bits"] = int64_t{arguments.compare.bits};
    config.options["group_size"] = arguments.compare.group_size;
  }
  return config;
}

// The server, or the plan, will not have this method with these options.
bool IsRefusal(const absl::Status& status) {
  const ExitCode code = ExitCodeOf(status);
  return code == ExitCode::kUsage || code == ExitCode::kRefused;
}

class Comparison {
 public:
  Comparison(const Arguments& arguments, const Console& console,
             const Checkpoint& checkpoint, RunControl& control)
      : arguments_(arguments),
        console_(console),
        checkpoint_(checkpoint),
        control_(control) {}

  // Errors: of a run; the first refusal when no method ran.
  absl::StatusOr<CompareReport> Run();

 private:
  absl::StatusOr<MethodRun> RunMethod(const std::string& method);
  absl::Status Quantize(const PlanAnswer& plan, MethodRun* run);

  const Arguments& arguments_;
  const Console& console_;
  const Checkpoint& checkpoint_;
  RunControl& control_;
};

absl::StatusOr<CompareReport> Comparison::Run() {
  CompareReport report;
  report.created =
      absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::UTCTimeZone());
  report.server = arguments_.server.address;
  report.input_path = checkpoint_.path();
  report.calibration_path = arguments_.calibration;
  report.bits = arguments_.compare.bits;
  report.group_size = arguments_.compare.group_size;
  std::vector<std::string> methods = {"rtn", "nf4", "hqq"};
  if (!arguments_.calibration.empty()) {
    methods.insert(methods.end(), {"gptq", "awq"});
  }
  absl::Status refused;
  for (const std::string& method : methods) {
    absl::StatusOr<MethodRun> run = RunMethod(method);
    if (!run.ok()) {
      if (control_.failed() || !IsRefusal(run.status())) return run.status();
      if (refused.ok()) refused = run.status();
      run = MethodRun{method, std::string(run.status().message()), {}, 0, {}};
    }
    report.methods.push_back(*std::move(run));
  }
  const bool any =
      std::any_of(report.methods.begin(), report.methods.end(),
                  [](const MethodRun& run) { return run.refused.empty(); });
  if (!any) return refused;
  return report;
}

absl::StatusOr<MethodRun> Comparison::RunMethod(const std::string& method) {
  MethodRun run;
  run.name = method;
  QS_ASSIGN_OR_RETURN(
      const PlanAnswer plan,
      FetchPlan(arguments_.server, ConfigFor(arguments_, method), checkpoint_,
                control_));
  QS_RETURN_IF_ERROR(CheckNotRefused(plan));
  run.resolved = plan.summary.resolved();
  console_.error << absl::StrCat("comparing ", method, ": ",
                                 Counted(CountsOf(plan).quantized, "tensor"),
                                 "\n");
  const absl::Time started = absl::Now();
  QS_RETURN_IF_ERROR(Quantize(plan, &run));
  run.seconds = absl::ToDoubleSeconds(absl::Now() - started);
  return run;
}

absl::Status Comparison::Quantize(const PlanAnswer& plan, MethodRun* run) {
  std::optional<Calibration> calibration;
  if (!arguments_.calibration.empty()) {
    QS_ASSIGN_OR_RETURN(calibration,
                        OpenCalibration(arguments_.calibration, plan));
  }
  QS_ASSIGN_OR_RETURN(std::vector<WorkBatch> batches,
                      MakeBatches(plan, calibration ? &*calibration : nullptr));
  const int64_t streams = std::min<int64_t>(
      arguments_.run.streams, static_cast<int64_t>(batches.size()));
  QS_ASSIGN_OR_RETURN(const PlannedCheckpoint planned,
                      PlannedCheckpoint::Make(checkpoint_, plan.entries));
  const BatchTotals totals = TotalsOf(batches, planned.tensors());
  WorkBoard board(planned, std::move(batches), "");
  Progress progress(console_.error, console_.columns, totals.bytes,
                    totals.tensors);
  v1::QuantizeConfig config;
  *config.mutable_quantization() = run->resolved;
  config.set_skip_digest(true);
  config.set_send_progress(true);
  const StreamContext context = {arguments_.server,
                                 config,
                                 planned,
                                 calibration ? &*calibration : nullptr,
                                 board,
                                 progress,
                                 control_};
  RunInParallel(context, streams, [] {});
  progress.Finish();
  QS_RETURN_IF_ERROR(control_.status());
  std::set<std::string> folded;
  for (const size_t tensor : totals.fold_only) {
    folded.insert(planned.tensors()[tensor].entry.name);
  }
  for (v1::TensorReport& report : board.Reports()) {
    if (folded.contains(report.name())) continue;
    run->tensors.push_back(std::move(report));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunCompare(const Arguments& arguments, const Console& console) {
  RunControl control;
  const SignalWatcher signals(control);
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(arguments.input);
  if (!checkpoint.ok()) return InputFault(checkpoint.status());
  std::vector<std::string> taken = FilesRead(arguments);
  QS_ASSIGN_OR_RETURN(TextOutput json, TextOutput::Open(arguments.json_file,
                                                        taken, OutputTarget()));
  taken.push_back(json.place());
  QS_ASSIGN_OR_RETURN(TextOutput html, TextOutput::Open(arguments.html_file,
                                                        taken, OutputTarget()));
  QS_ASSIGN_OR_RETURN(
      const CompareReport report,
      Comparison(arguments, console, *checkpoint, control).Run());
  console.out << CompareTable(report);
  console.out.flush();
  if (!arguments.json_file.empty()) {
    QS_RETURN_IF_ERROR(json.Write(CompareToJson(report), &control));
  }
  if (arguments.html_file.empty()) return absl::OkStatus();
  return html.Write(CompareHtml(report), &control);
}

}  // namespace qs::cli

// Tested by tests/e2e/quantctl_test.py and tests/cli/report_test.cc.
#include "service/cli/plan_client.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/utf8.h"
#include "quant/v1/quantization.grpc.pb.h"
#include "service/checkpoint/planned_checkpoint.h"
#include "service/cli/channel.h"
#include "service/cli/exit_code.h"
#include "service/cli/run_report.h"
#include "service/cli/text_table.h"
#include "service/server/proto_convert.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using Stream = grpc::ClientReaderWriter<v1::PlanCheckpointRequest,
                                        v1::PlanCheckpointResponse>;

constexpr size_t kMessageBytes = size_t{512} << 10;

v1::PlanCheckpointRequest ConfigMessage(
    const ConfigArguments& config, const v1::QuantizationConfig& quantization,
    const Checkpoint& checkpoint) {
  v1::PlanCheckpointRequest request;
  v1::PlanConfig* out = request.mutable_config();
  *out->mutable_quantization() = quantization;
  *out->mutable_target() = TargetOf(config);
  out->set_list_sites(config.list_sites);
  out->set_config_json(checkpoint.config_json());
  for (const std::string& glob : config.include) out->add_include(glob);
  for (const std::string& glob : config.exclude) out->add_exclude(glob);
  SetOverrides(config, out->mutable_overrides());
  return request;
}

void SetHeader(const CheckpointTensor& tensor, const std::string& file,
               v1::TensorHeader* out) {
  out->set_name(tensor.entry.name);
  out->set_dtype(DTypeToProto(tensor.entry.dtype));
  out->mutable_shape()->Add(tensor.entry.shape.begin(),
                            tensor.entry.shape.end());
  out->set_file(file);
  out->set_begin(tensor.entry.begin);
  out->set_end(tensor.entry.end);
}

// Collects items until a message is large enough.
class Sender {
 public:
  explicit Sender(Stream& stream) : stream_(stream) {}

  bool Send(const v1::PlanCheckpointRequest& request) {
    return stream_.Write(request);
  }
  bool AddTensor(const CheckpointTensor& tensor, const std::string& file) {
    v1::TensorHeader* added = pending_.mutable_tensors()->add_tensors();
    SetHeader(tensor, file, added);
    return Added(added->ByteSizeLong());
  }
  bool AddFile(const CheckpointSideFile& file) {
    v1::CheckpointFile* added = pending_.mutable_files()->add_files();
    added->set_path(file.path);
    added->set_size_bytes(file.size_bytes);
    return Added(added->ByteSizeLong());
  }
  bool Flush() {
    const bool ok = bytes_ == 0 || stream_.Write(pending_);
    pending_.Clear();
    bytes_ = 0;
    return ok;
  }

 private:
  bool Added(size_t bytes) {
    bytes_ += bytes;
    return bytes_ < kMessageBytes || Flush();
  }

  Stream& stream_;
  v1::PlanCheckpointRequest pending_;
  size_t bytes_ = 0;
};

// False: the server ended the call; Finish says why.
bool SendAll(Stream& stream, const v1::PlanCheckpointRequest& config,
             const Checkpoint& checkpoint) {
  Sender sender(stream);
  if (!sender.Send(config)) return false;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (!sender.AddTensor(tensor, checkpoint.shard_name(tensor.shard))) {
      return false;
    }
  }
  if (!sender.Flush()) return false;
  for (const CheckpointSideFile& file : AllFiles(checkpoint)) {
    if (!sender.AddFile(file)) return false;
  }
  return sender.Flush() && stream.WritesDone();
}

PlanAnswer ReadAll(Stream& stream) {
  PlanAnswer answer;
  v1::PlanCheckpointResponse response;
  while (stream.Read(&response)) AddTo(std::move(response), &answer);
  return answer;
}

// The server's own meaning of a preset, changed as the flags say.
absl::StatusOr<v1::QuantizationConfig> FetchChangedPreset(
    v1::QuantizeService::Stub& stub, const ServerArguments& server,
    const ConfigArguments& config, RunControl& control) {
  grpc::ClientContext context;
  RunControl::Call call(control, context);
  v1::Capabilities answer;
  const grpc::Status end =
      stub.GetCapabilities(&context, v1::GetCapabilitiesRequest(), &answer);
  if (control.failed()) return control.status();
  if (!end.ok()) return FromServer(end, server.address);
  std::vector<std::string> names;
  for (const v1::PresetInfo& preset : answer.presets()) {
    if (preset.name() == PresetOf(config)) {
      return WithExitCode(ChangedPreset(config, preset.config()),
                          ExitCode::kUsage);
    }
    names.push_back(preset.name());
  }
  return UsageError(absl::StrCat("--preset: got ", PresetOf(config),
                                 ", allowed ", absl::StrJoin(names, ", ")));
}

absl::StatusOr<PlanAnswer> FetchPlanOnce(
    v1::QuantizeService::Stub& stub, const ServerArguments& server,
    const v1::PlanCheckpointRequest& config, const Checkpoint& checkpoint,
    RunControl& control) {
  grpc::ClientContext context;
  RunControl::Call call(control, context);
  const std::unique_ptr<Stream> stream = stub.PlanCheckpoint(&context);
  SendAll(*stream, config, checkpoint);
  PlanAnswer answer = ReadAll(*stream);
  const grpc::Status end = stream->Finish();
  if (control.failed()) return control.status();
  if (!end.ok()) return FromServer(end, server.address);
  QS_RETURN_IF_ERROR(
      PlannedCheckpoint::Make(checkpoint, answer.entries).status());
  AddLeftOut(checkpoint, &answer);
  return answer;
}

// Why no tensor would be quantized: the plan's reasons, those of most first.
std::string ReasonsText(const PlanAnswer& plan) {
  constexpr size_t kShown = 10;
  std::map<std::string, std::pair<int64_t, std::string>> by_reason;
  for (const v1::PlanEntry& entry : plan.entries) {
    auto& [count, first] = by_reason[entry.reason()];
    if (++count == 1) first = entry.name();
  }
  std::vector<std::pair<int64_t, std::string>> lines;
  for (const auto& [reason, found] : by_reason) {
    if (reason.empty()) continue;  // tied, or split into others
    const auto& [count, first] = found;
    lines.emplace_back(
        count, EscapeControls(absl::StrCat(Counted(count, "tensor"), " (",
                                           count > 1 ? "the first is " : "",
                                           first, "): ", reason)));
  }
  std::stable_sort(
      lines.begin(), lines.end(),
      [](const auto& a, const auto& b) { return a.first > b.first; });
  std::string text;
  for (size_t i = 0; i < lines.size() && i < kShown; ++i) {
    absl::StrAppend(&text, "\n    ", lines[i].second);
  }
  if (lines.size() > kShown) {
    absl::StrAppend(&text, "\n    and ", lines.size() - kShown,
                    " more reasons: see quantctl plan");
  }
  return text;
}

}  // namespace

absl::StatusOr<PlanAnswer> FetchPlan(const ServerArguments& server,
                                     const ConfigArguments& config,
                                     const Checkpoint& checkpoint,
                                     RunControl& control) {
  QS_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                      MakeChannel(server));
  const auto stub = v1::QuantizeService::NewStub(channel);
  v1::QuantizationConfig quantization = QuantizationOf(config);
  if (ChangesPreset(config)) {
    QS_ASSIGN_OR_RETURN(quantization,
                        FetchChangedPreset(*stub, server, config, control));
  }
  const v1::PlanCheckpointRequest request =
      ConfigMessage(config, quantization, checkpoint);
  for (int retries = 0;; ++retries) {
    absl::StatusOr<PlanAnswer> answer =
        FetchPlanOnce(*stub, server, request, checkpoint, control);
    if (!IsBusy(answer.status()) || retries == kMaxBusyRetries ||
        !control.Sleep(RetryDelay(retries))) {
      return answer;
    }
  }
}

absl::StatusOr<v1::QuantizationConfig> FetchConfig(
    const ServerArguments& server, const ConfigArguments& config,
    RunControl& control) {
  if (!ChangesPreset(config)) return QuantizationOf(config);
  QS_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                      MakeChannel(server));
  const auto stub = v1::QuantizeService::NewStub(channel);
  return FetchChangedPreset(*stub, server, config, control);
}

absl::Status CheckNotRefused(const PlanAnswer& plan) {
  if (!plan.summary.refused()) return absl::OkStatus();
  std::string text = "refused by the plan, nothing was sent or written:";
  for (const v1::Finding& finding : plan.findings) {
    if (finding.severity() != v1::Finding::ERROR) continue;
    absl::StrAppend(&text, "\n  ", FindingText(finding));
    if (finding.rule() == "NOTHING_TO_QUANTIZE") text += ReasonsText(plan);
  }
  return WithExitCode(absl::FailedPreconditionError(text), ExitCode::kRefused);
}

}  // namespace qs::cli

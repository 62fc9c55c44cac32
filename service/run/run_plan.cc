// Tested by tests/service/checkpoint_run_test.cc.
#include "service/run/run_plan.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "quant/device_estimate.h"
#include "quant/formats/json.h"
#include "quant/solve_group.h"
#include "quant/time_estimate.h"
#include "service/checkpoint/fault.h"
#include "service/checkpoint/header_check.h"
#include "service/run/blob_input.h"
#include "service/server/error.h"
#include "service/server/options.h"
#include "service/server/plan_convert.h"
#include "service/server/proto_convert.h"
#include "service/server/spec_convert.h"
#include "service/stream/digest.h"
#include "service/stream/group_job.h"
#include "service/stream/input_errors.h"
#include "service/stream/tensor_job.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

// Changes whenever a run of the same input may give other bytes.
constexpr char kVersion[] = "checkpoint-run/1";

absl::Status RefusedError(const PlanAnswer& answer) {
  std::string text = "refused by the plan:";
  std::string rule;
  for (const v1::Finding& finding : answer.findings) {
    if (finding.severity() != v1::Finding::ERROR) continue;
    if (rule.empty()) rule = finding.rule();
    absl::StrAppend(&text, " ", finding.rule(), " ", finding.tensor(), ": ",
                    finding.text(), ";");
  }
  return RpcError(absl::StatusCode::kFailedPrecondition, "TARGET_REFUSED", text,
                  {{"rule", rule}});
}

// A job's messages name tensors, several in one.
absl::Status CheckNames(const PlanRequest& request) {
  for (const PlanTensor& tensor : request.tensors) {
    if (tensor.name.size() <= kMaxNameBytes) continue;
    return RpcError(
        absl::StatusCode::kInvalidArgument, "BAD_CHECKPOINT",
        absl::StrCat("tensor ", QuoteForError(tensor.name), ": got a name of ",
                     tensor.name.size(), " bytes, allowed ", kMaxNameBytes));
  }
  return absl::OkStatus();
}

absl::Status BadInput(const absl::Status& status) {
  const std::string text(status.message());
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return WithReason(status, "SOURCE_NOT_FOUND");
    case absl::StatusCode::kAborted:
      return WithReason(status, "SOURCE_CHANGED");
    default:
      return RpcError(absl::StatusCode::kInvalidArgument,
                      absl::StrContains(text, "calibration") ? "BAD_CALIBRATION"
                                                             : "BAD_CHECKPOINT",
                      text);
  }
}

}  // namespace

absl::Status RunError(const absl::Status& status) {
  if (status.ok() || !ErrorReason(status).empty()) return status;
  const std::string text(status.message());
  switch (FaultOf(status).value_or(Fault::kUnexpected)) {
    case Fault::kInput:
      return BadInput(status);
    case Fault::kUsage:
      return BadFieldError("calibration", text);
    case Fault::kOutput:
      if (absl::IsResourceExhausted(status)) {
        return RetryableError(status.code(), "DISK_FULL", text, {},
                              absl::Seconds(30));
      }
      return RpcError(absl::StatusCode::kFailedPrecondition, "OUTPUT_FAILED",
                      text);
    case Fault::kUnexpected:
      return absl::IsDataLoss(status) ? WithReason(status, "BLOB_CORRUPT")
                                      : ComputeError(status);
  }
  return status;
}

absl::StatusOr<std::unique_ptr<const RunPlan>> RunPlan::Make(
    CheckpointRunSpec spec) {
  std::unique_ptr<RunPlan> plan(new RunPlan());
  plan->spec = std::move(spec);
  const absl::Status status = [&]() -> absl::Status {
    QS_RETURN_IF_ERROR(plan->OpenInput());
    QS_RETURN_IF_ERROR(plan->MakeWork());
    return plan->Fingerprint();
  }();
  if (!status.ok()) return RunError(status);
  return std::unique_ptr<const RunPlan>(std::move(plan));
}

absl::Status RunPlan::OpenInput() {
  if (!spec.tensors.empty()) {
    std::sort(spec.tensors.begin(), spec.tensors.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    QS_RETURN_IF_ERROR(PlanBlobs());
    auto blobs = std::make_unique<BlobInput>(*spec.blobs, spec.tensors,
                                             spec.shard_bytes);
    shards = std::make_unique<BlobShards>(*blobs, spec.config_json);
    input = std::move(blobs);
    return CheckHeaders(*shards, answer, quants);
  }
  absl::StatusOr<Checkpoint> opened =
      Checkpoint::Open(spec.input, spec.input_opener);
  if (!opened.ok()) return InputFault(opened.status());
  checkpoint = *std::move(opened);
  QS_RETURN_IF_ERROR(PlanCheckpoint());
  QS_ASSIGN_OR_RETURN(planned,
                      PlannedCheckpoint::Make(*checkpoint, answer.entries));
  QS_ASSIGN_OR_RETURN(input, NewCheckpointInput(*planned));
  shards = std::make_unique<CheckpointShards>(*planned);
  return CheckHeaders(*shards, answer, quants);
}

// Without tensors and files.
absl::StatusOr<PlanRequest> RunPlan::RequestOf() const {
  v1::PlanCheckpointRequest message;
  v1::PlanConfig* const config = message.mutable_config();
  *config->mutable_quantization() = spec.quantization;
  *config->mutable_target() = spec.target;
  config->mutable_include()->Add(spec.include.begin(), spec.include.end());
  config->mutable_exclude()->Add(spec.exclude.begin(), spec.exclude.end());
  config->mutable_overrides()->Add(spec.overrides.begin(),
                                   spec.overrides.end());
  config->set_list_sites(has_calibration());
  config->set_config_json(checkpoint ? checkpoint->config_json()
                                     : spec.config_json);
  PlanInput collected(PlanLimits{spec.max_plan_tensors, INT64_MAX});
  QS_RETURN_IF_ERROR(collected.Add(message));
  return collected.request();
}

absl::Status RunPlan::PlanCheckpoint() {
  QS_ASSIGN_OR_RETURN(PlanRequest request, RequestOf());
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    request.tensors.push_back({tensor.entry.name, tensor.entry.dtype,
                               tensor.entry.shape,
                               checkpoint->shard_name(tensor.shard),
                               tensor.entry.begin, tensor.entry.end});
  }
  for (const CheckpointSideFile& file : AllFiles(*checkpoint)) {
    request.files.push_back({file.path, file.size_bytes});
  }
  QS_RETURN_IF_ERROR(Plan(std::move(request)));
  AddLeftOut(*checkpoint, &answer);
  return absl::OkStatus();
}

// Shapes and names alone decide, so no stack of experts is split.
absl::Status RunPlan::PlanBlobs() {
  QS_ASSIGN_OR_RETURN(PlanRequest request, RequestOf());
  for (const RunTensor& tensor : spec.tensors) {
    request.tensors.push_back(
        {tensor.name, tensor.dtype, tensor.shape, "", 0, 0});
  }
  return Plan(std::move(request));
}

absl::Status RunPlan::Plan(PlanRequest request) {
  QS_RETURN_IF_ERROR(CheckNames(request));
  quants = SpecsByRule(request.spec, request.overrides);
  QS_ASSIGN_OR_RETURN(const qs::Plan made, PlanWithReasons(request));
  for (v1::PlanCheckpointResponse& response : PlanToProto(made, request)) {
    AddTo(std::move(response), &answer);
  }
  return answer.summary.refused() ? RefusedError(answer) : absl::OkStatus();
}

absl::StatusOr<std::optional<Calibration>> RunPlan::OpenMoments() const {
  if (spec.moments != nullptr) {
    return MatchCalibration(CalibrationIndex(spec.moments), answer);
  }
  if (!spec.calibration.empty()) {
    return OpenCalibration(spec.calibration, answer, spec.calibration_opener);
  }
  if (!NeedsCalibration(answer.summary)) return std::nullopt;
  return RpcError(absl::StatusCode::kInvalidArgument, "CALIBRATION_MISSING",
                  "calibration: got none, allowed one with the second moments "
                  "of the inputs");
}

absl::StatusOr<std::shared_ptr<const RunWork>> RunPlan::Renewed(
    const RunWork& before,
    std::shared_ptr<const CalibrationSource> moments) const {
  QS_ASSIGN_OR_RETURN(
      Calibration calibration,
      MatchCalibration(before.calibration->index.Renewed(std::move(moments)),
                       answer));
  return MakeRunWork(answer, std::move(calibration));
}

absl::Status RunPlan::MakeWork() {
  QS_ASSIGN_OR_RETURN(std::optional<Calibration> calibration, OpenMoments());
  QS_ASSIGN_OR_RETURN(work, MakeRunWork(answer, std::move(calibration)));
  const std::vector<WorkBatch>& batches = work->batches;
  totals = TotalsOf(batches, input->tensors());
  size.tensors = totals.tensors;
  size.bytes = totals.bytes;
  size.bytes_out = answer.summary.bytes_out();
  size.file_bytes = FileBytes();
  size.batches = static_cast<int64_t>(batches.size());
  size.shards = shards->shards();
  for (const WorkBatch& batch : batches) {
    QS_ASSIGN_OR_RETURN(const int64_t bytes, BytesOf(batch, spec.workers));
    if (bytes > size.largest_batch_bytes) {
      size.largest_batch_bytes = bytes;
      size.largest_batch = batch.name;
    }
    QS_ASSIGN_OR_RETURN(const int64_t device_bytes, DeviceBytesOf(batch));
    size.largest_device_bytes =
        std::max(size.largest_device_bytes, device_bytes);
    size.core_seconds += SecondsOf(batch);
  }
  for (size_t b = 0; b < batches.size(); ++b) {
    if (work->open[b].empty()) continue;
    size.tensors_waiting += static_cast<int64_t>(batches[b].tensors.size());
  }
  size.algorithm = Algorithms();
  return absl::OkStatus();
}

// Of all batches; of a plan without overrides one.
std::string RunPlan::Algorithms() const {
  std::set<std::string> all;
  for (const WorkBatch& batch : work->batches) {
    all.insert(SpecAlgorithm(SpecOf(batch)));
  }
  return absl::StrJoin(all, "+");
}

// Tensors are exact; what describes them is rounded up.
int64_t RunPlan::FileBytes() const {
  // Of a tensor, in a header and in the index, beside its name.
  constexpr size_t kDescription = 200;
  constexpr int kMostOutputs = 6;
  int64_t bytes = answer.summary.bytes_out();
  for (const v1::PlanEntry& entry : answer.entries) {
    const int outputs =
        entry.action() == v1::PlanEntry::QUANTIZE ? kMostOutputs : 1;
    bytes +=
        outputs * static_cast<int64_t>(2 * entry.name().size() + kDescription);
  }
  bytes += 2 * static_cast<int64_t>(
                   answer.summary.quantization_config_json().size());
  for (const CheckpointSideFile& file : shards->side_files()) {
    bytes += file.size_bytes;
  }
  constexpr int64_t kHeaderPadding = 4096;  // of each shard, with its metadata
  return bytes + static_cast<int64_t>(shards->config_json().size()) +
         kHeaderPadding * (shards->shards() + 1);
}

// The same before and after a site is sealed.
absl::StatusOr<std::string> RunPlan::CalibrationIdentity() const {
  if (!spec.calibration.empty()) {
    return FileIdentity(spec.calibration, spec.calibration_opener.get());
  }
  if (spec.moments == nullptr) return "";
  std::string text = spec.moments->Identity();
  if (!text.empty()) return text;
  for (const size_t i : work->calibration->match.used) {
    const CalibrationSite& site = spec.moments->sites()[i];
    absl::StrAppend(&text, site.name, " ", site.tokens, " ", site.digest, "\n");
  }
  return text;
}

absl::Status RunPlan::Fingerprint() {
  std::string text = absl::StrCat(kVersion, "\n");
  answer.summary.resolved().AppendToString(&text);
  spec.target.AppendToString(&text);
  for (const v1::PlanEntry& entry : answer.entries) {
    absl::StrAppend(&text, entry.name(), " ", static_cast<int>(entry.action()),
                    "\n");
  }
  for (const v1::Override& rule : answer.summary.overrides()) {
    rule.AppendToString(&text);
  }
  absl::StrAppend(&text, answer.summary.quantization_config_json(), "\n",
                  spec.error_report ? 1 : 0, "\n");
  QS_ASSIGN_OR_RETURN(const std::string identity, input->Identity());
  absl::StrAppend(&text, identity, "\n", spec.config_json, "\n");
  QS_ASSIGN_OR_RETURN(const std::string moments, CalibrationIdentity());
  absl::StrAppend(&text, moments);
  Sha256 hash;
  hash.Update({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  fingerprint = hash.Finish();
  return absl::OkStatus();
}

TensorInfo RunPlan::InfoOf(size_t tensor) const {
  const SafetensorsEntry& entry = input->tensors()[tensor].entry;
  return {entry.name, entry.dtype, entry.shape};
}

absl::StatusOr<GroupInfo> RunPlan::GroupOf(const WorkBatch& batch) const {
  v1::GroupBegin begin;
  begin.set_name(batch.name);
  for (const BatchSite& site : batch.sites) *begin.add_sites() = site.declared;
  for (const BatchTensor& tensor : batch.tensors) {
    const SafetensorsEntry& entry = input->tensors()[tensor.tensor].entry;
    v1::GroupTensor* const out = begin.add_tensors();
    out->set_name(entry.name);
    out->set_dtype(DTypeToProto(entry.dtype));
    out->mutable_shape()->Add(entry.shape.begin(), entry.shape.end());
    out->set_site(tensor.site);
    if (tensor.fold_only) out->set_role(v1::GroupTensor::FOLD_ONLY);
  }
  return GroupFromProto(SpecOf(batch), begin);
}

double RunPlan::SecondsOf(const WorkBatch& batch) const {
  double seconds = 0;
  for (const BatchTensor& tensor : batch.tensors) {
    const std::vector<int64_t>& shape =
        input->tensors()[tensor.tensor].entry.shape;
    if (tensor.fold_only || shape.empty()) continue;
    const int64_t cols = shape.back();
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
    seconds +=
        EstimateCoreSeconds(SpecOf(batch), rows, cols, spec.error_report);
  }
  return seconds;
}

QuantizeOptions RunPlan::Options() const {
  QuantizeOptions options;
  options.error_report = spec.error_report;
  options.tiled_input = true;
  options.large_tiles = spec.large_tiles;
  return options;
}

absl::StatusOr<int64_t> RunPlan::BytesOf(const WorkBatch& batch,
                                         int workers) const {
  const QuantizeOptions options = Options();
  const auto tensors = static_cast<int64_t>(batch.tensors.size());
  int64_t bytes = 0;
  if (batch.sites.empty()) {
    QS_ASSIGN_OR_RETURN(
        bytes,
        EstimateMemoryBytes(SpecOf(batch), InfoOf(batch.tensors[0].tensor),
                            options, workers));
  } else {
    QS_ASSIGN_OR_RETURN(const GroupInfo info, GroupOf(batch));
    QS_ASSIGN_OR_RETURN(
        bytes, EstimateGroupBytes(SpecOf(batch), info, options, workers));
  }
  return bytes + tensors * TensorJob::kOverhead;
}

absl::StatusOr<int64_t> RunPlan::DeviceBytesOf(const WorkBatch& batch) const {
  const QuantSpec& quant = SpecOf(batch);
  if (batch.sites.empty()) {
    return DeviceMemoryFor(
        TensorDeviceBytes(quant, InfoOf(batch.tensors[0].tensor),
                          {.large_tiles = spec.large_tiles}));
  }
  QS_ASSIGN_OR_RETURN(const GroupInfo info, GroupOf(batch));
  int64_t bytes = DeviceMemoryFor(SolveDeviceBytes(quant, info));
  const DeviceUse use = GroupDeviceUse(quant, info, Options());
  for (const GroupTensor& tensor : info.tensors) {
    if (tensor.role != GroupRole::kQuantize) continue;
    bytes = std::max(
        bytes, DeviceMemoryFor(TensorDeviceBytes(quant, tensor.info, use)));
  }
  return bytes;
}

}  // namespace qs

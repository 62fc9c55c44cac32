// Tested by tests/service/jobs/job_service_test.cc.
#include "service/jobs/job_creator.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/jobs/inline_calibration.h"
#include "service/jobs/job.h"
#include "service/jobs/job_calibrations.h"
#include "service/jobs/job_log.h"
#include "service/jobs/job_messages.h"
#include "service/jobs/job_output.h"
#include "service/jobs/job_request.h"
#include "service/jobs/job_tensors.h"
#include "service/server/error.h"
#include "service/store/stored_calibration.h"
#include "service/stream/digest.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

constexpr size_t kMaxFindings = 100;
// Of a plan's config. A job's message has what was asked for beside it.
constexpr size_t kMaxConfigBytes = size_t{1} << 20;

std::string HashOf(const v1::Job& spec) {
  const std::string bytes = DeterministicBytes(spec);
  Sha256 digest;
  digest.Update({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  return digest.Finish();
}

v1::JobPlan PlanOf(const JobPace& pace, const CheckpointRun& run) {
  v1::JobPlan plan;
  v1::PlanSummary& summary = *plan.mutable_summary();
  summary = run.plan();
  if (summary.quantization_config_json().size() > kMaxConfigBytes) {
    summary.clear_quantization_config_json();
  }
  std::vector<v1::Finding> findings = run.findings();
  findings.resize(std::min(findings.size(), kMaxFindings));
  for (v1::Finding& finding : findings) {
    *plan.add_findings() = std::move(finding);
  }
  plan.set_tensors(run.size().tensors);
  plan.set_bytes(run.size().bytes);
  plan.set_bytes_out(run.size().bytes_out);
  plan.set_shards(run.size().shards);
  plan.set_largest_group_bytes(run.size().largest_batch_bytes);
  plan.set_largest_device_bytes(run.size().largest_device_bytes);
  *plan.mutable_estimated_time() = DurationToProto(pace.Estimate(run.size()));
  return plan;
}

absl::Status CheckFree(const std::string& destination) {
  if (!Exists(destination)) return absl::OkStatus();
  return RpcError(absl::StatusCode::kAlreadyExists, "DESTINATION_EXISTS",
                  "job.destination.uri: got a place that is taken, allowed a "
                  "new one");
}

// `resolved`: the path of the request's destination; empty: it has none.
absl::Status SetDestination(const JobsContext& context,
                            const std::string& resolved, JobRecord* job) {
  job->stored = resolved.empty();
  job->destination = resolved;
  if (!job->stored) return CheckFree(resolved);
  if (context.results == nullptr) {
    return BadFieldError("job.destination",
                         "got none, allowed one: this server has no store");
  }
  job->destination = context.results->PathOf(job->key);
  return absl::OkStatus();
}

absl::StatusOr<JobRecord> SameRequest(JobRecord job, const std::string& hash) {
  if (job.request_hash == hash) return job;
  return RpcError(absl::StatusCode::kAlreadyExists, "REQUEST_ID_REUSED",
                  "request_id: it was used for another job",
                  {{"job", job.key.id}});
}

absl::Status QueueFull(int64_t max_queued) {
  return RetryableError(absl::StatusCode::kResourceExhausted, "QUEUE_FULL",
                        absl::StrCat("jobs: got one more than the ", max_queued,
                                     " queued that are allowed"),
                        {{"allowed", absl::StrCat(max_queued)}},
                        absl::Seconds(10));
}

absl::StatusOr<JobRecord> Store(const JobsContext& context,
                                const JobRecord& job, int64_t max_queued) {
  using Created = JobRecords::Created;
  absl::StatusOr<Created> created = context.records.Create(job, max_queued);
  if (!created.ok()) return FromRecords(created.status());
  switch (created->outcome) {
    case Created::kMade:
      LogJobState(created->job);
      return std::move(created->job);
    case Created::kExisted:
      return SameRequest(std::move(created->job), job.request_hash);
    case Created::kQueueFull:
      return QueueFull(max_queued);
    case Created::kInputGone:
      return RpcError(absl::StatusCode::kNotFound, "TENSOR_NOT_FOUND",
                      "job.source.tensors: one was deleted just now");
    case Created::kInlineFull:
      return RetryableError(
          absl::StatusCode::kResourceExhausted, "INLINE_FULL",
          absl::StrCat("job.calibration.inline: with it the project's jobs "
                       "would have more than the ",
                       JobRecords::kMaxInlineBytes,
                       " bytes that are allowed; a calibration by name or uri "
                       "is not counted"),
          {{"allowed", absl::StrCat(JobRecords::kMaxInlineBytes)}},
          absl::Seconds(10));
    case Created::kDestinationInUse:
      break;
  }
  return RpcError(absl::StatusCode::kAlreadyExists, "DESTINATION_IN_USE",
                  "job.destination.uri: another job will write there");
}

// Nullopt: it is a new request.
absl::StatusOr<std::optional<JobRecord>> FindMade(
    const JobsContext& context, const std::string& project,
    const v1::CreateJobRequest& request, const std::string& hash) {
  if (request.request_id().empty() || request.validate_only()) {
    return std::nullopt;
  }
  absl::StatusOr<std::optional<JobRecord>> found =
      context.records.FindRequest(project, request.request_id());
  if (!found.ok()) return FromRecords(found.status());
  if (!*found) return std::nullopt;
  QS_ASSIGN_OR_RETURN(JobRecord job, SameRequest(**std::move(found), hash));
  return job;
}

// Names with "-" as project become whole. Errors: IdFromName's.
absl::Status UseOwnProject(const std::string& project, v1::Job* spec) {
  if (spec->source().has_tensors()) {
    QS_RETURN_IF_ERROR(
        UseOwnTensors(project, spec->mutable_source()->mutable_tensors()));
  }
  if (!spec->calibration().has_name()) return absl::OkStatus();
  QS_ASSIGN_OR_RETURN(const std::string id,
                      CalibrationIdOf(project, spec->calibration().name()));
  spec->mutable_calibration()->set_name(CalibrationName(project, id));
  return absl::OkStatus();
}

absl::Status ResolveCalibration(const JobsContext& context,
                                const std::string& project, const v1::Job& spec,
                                CheckpointRunSpec* out) {
  if (!spec.has_calibration()) return absl::OkStatus();
  const v1::JobCalibration& from = spec.calibration();
  if (from.has_name()) {
    QS_ASSIGN_OR_RETURN(const std::string id,
                        CalibrationIdOf(project, from.name()));
    QS_ASSIGN_OR_RETURN(CalibrationRecord record,
                        FindCalibration(context, {project, id}));
    out->moments = SourceOf(context, std::move(record));
    return absl::OkStatus();
  }
  if (from.has_inline_()) {
    QS_ASSIGN_OR_RETURN(out->moments, NewInlineSource(from.inline_()));
    return absl::OkStatus();
  }
  QS_ASSIGN_OR_RETURN(
      InputPath file,
      context.paths.existing(project, from.uri(), "job.calibration.uri"));
  out->calibration = std::move(file.path);
  out->calibration_opener = std::move(file.opener);
  return absl::OkStatus();
}

// They are kept beside the record.
void TakeNumbers(v1::Job* spec, JobRecord* job) {
  if (!spec->calibration().has_inline_()) return;
  v1::InlineCalibration* const numbers =
      spec->mutable_calibration()->mutable_inline_();
  job->inline_calibration = numbers->SerializeAsString();
  DropNumbers(numbers);
}

// The wait of a job whose run was planned with the calibration `planned`.
// Errors: NOT_FOUND CALIBRATION_NOT_FOUND — it was deleted meanwhile.
absl::Status SetWait(const JobsContext& context, const CheckpointRun& run,
                     JobRecord* job) {
  QS_ASSIGN_OR_RETURN(
      const CalibrationRecord now,
      FindCalibration(context, {job->key.project, job->calibration}));
  const auto& planned =
      static_cast<const StoredCalibration&>(*run.spec().moments);
  if (now.key != planned.record().key) {
    return RpcError(absl::StatusCode::kNotFound, "CALIBRATION_NOT_FOUND",
                    "job.calibration.name: it was deleted just now");
  }
  job->waiting = WaitOf(run, now);
  return absl::OkStatus();
}

// As Store; see job_calibrations.h.
absl::StatusOr<JobRecord> StoreUsing(const JobsContext& context,
                                     const CheckpointRun& run, JobRecord job,
                                     int64_t max_queued) {
  absl::StatusOr<JobRecord> stored = absl::InternalError("not stored");
  {
    absl::ReaderMutexLock lock(&context.calibrations->use_mutex());
    QS_RETURN_IF_ERROR(SetWait(context, run, &job));
    stored = Store(context, job, max_queued);
  }
  if (!stored.ok() || stored->waiting.sites.empty()) return stored;
  const CalibrationKey key = {job.key.project, job.calibration};
  const absl::StatusOr<bool> starts =
      UpdateWaiting(context, key, FindCalibration(context, key));
  if (!starts.ok()) return FromRecords(starts.status());
  stored = context.records.Get(stored->key);
  if (!stored.ok()) return FromRecords(stored.status());
  return stored;
}

}  // namespace

absl::StatusOr<CheckpointRunSpec> ResolveSpec(const JobsContext& context,
                                              const std::string& project,
                                              const v1::Job& spec) {
  CheckpointRunSpec out;
  if (spec.source().has_tensors()) {
    out.blobs = context.blobs;
    out.config_json = spec.source().tensors().config_json();
  } else {
    QS_ASSIGN_OR_RETURN(
        InputPath source,
        context.paths.existing(project, spec.source().uri(), "job.source.uri"));
    out.input = std::move(source.path);
    out.input_opener = std::move(source.opener);
  }
  QS_RETURN_IF_ERROR(ResolveCalibration(context, project, spec, &out));
  if (spec.has_destination()) {
    QS_ASSIGN_OR_RETURN(out.output,
                        context.paths.fresh(project, spec.destination().uri(),
                                            "job.destination.uri"));
  }
  out.quantization = spec.quantization();
  out.target = spec.target();
  out.include.assign(spec.source().include().begin(),
                     spec.source().include().end());
  out.exclude.assign(spec.source().exclude().begin(),
                     spec.source().exclude().end());
  out.overrides.assign(spec.overrides().begin(), spec.overrides().end());
  out.max_plan_tensors = context.max_plan_tensors;
  out.workers = context.pool.threads();
  out.large_tiles = context.pool.kinds().prefer_large;
  return out;
}

absl::StatusOr<JobRecord> CreateJobRecord(const JobsContext& context,
                                          const std::string& project,
                                          const v1::CreateJobRequest& request,
                                          int64_t max_queued,
                                          const std::string& trace) {
  QS_ASSIGN_OR_RETURN(v1::Job spec, SpecFromRequest(request));
  QS_RETURN_IF_ERROR(UseOwnProject(project, &spec));
  JobRecord job;
  job.request_hash = HashOf(spec);
  QS_ASSIGN_OR_RETURN(std::optional<JobRecord> made,
                      FindMade(context, project, request, job.request_hash));
  if (made) return *std::move(made);
  QS_ASSIGN_OR_RETURN(CheckpointRunSpec resolved,
                      ResolveSpec(context, project, spec));
  job.created = context.now();
  job.key = {project, NewJobId(job.created)};
  QS_RETURN_IF_ERROR(SetDestination(context, resolved.output, &job));
  if (spec.source().has_tensors()) {
    QS_ASSIGN_OR_RETURN(job.inputs,
                        FindTensors(context, project, spec.source().tensors()));
    ReadInputs(job.inputs, &resolved);
  }
  QS_ASSIGN_OR_RETURN(const std::shared_ptr<CheckpointRun> run,
                      context.prepare(std::move(resolved)));
  QS_RETURN_IF_ERROR(CheckFits(run->size(), context.budget.capacity()));
  if (job.stored) {
    QS_RETURN_IF_ERROR(
        context.results->CheckRoom(project, run->size().file_bytes));
  }
  const v1::JobPlan plan = PlanOf(*context.pace, *run);
  job.plan = plan.SerializeAsString();
  job.estimate = DurationFromProto(plan.estimated_time());
  TakeNumbers(&spec, &job);
  job.spec = spec.SerializeAsString();
  if (spec.calibration().has_name()) {
    QS_ASSIGN_OR_RETURN(job.calibration,
                        CalibrationIdOf(project, spec.calibration().name()));
    if (request.validate_only()) {
      QS_RETURN_IF_ERROR(SetWait(context, *run, &job));
    }
  }
  if (request.validate_only()) return job;
  job.request_id = request.request_id();
  job.trace = trace;
  job.priority = spec.priority();
  job.labels = {spec.labels().begin(), spec.labels().end()};
  job.queue_deadline = QueueDeadline(job, job.created);
  return job.calibration.empty()
             ? Store(context, job, max_queued)
             : StoreUsing(context, *run, std::move(job), max_queued);
}

}  // namespace qs

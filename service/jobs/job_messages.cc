// Tested by tests/service/jobs/job_test.cc.
#include "service/jobs/job_messages.h"

#include <string>

#include "service/access/access.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"

namespace qs {

namespace v1 = quant::v1;

namespace {

// Bytes of an own record; what cannot be read stays unset.
template <typename Message>
void ParseInto(const std::string& bytes, Message* to) {
  if (!to->ParseFromString(bytes)) to->Clear();
}

void SetTimes(const JobRecord& job, v1::Job* out) {
  *out->mutable_create_time() = TimeToProto(job.created);
  if (job.started > absl::InfinitePast()) {
    *out->mutable_start_time() = TimeToProto(job.started);
  }
  if (job.ended > absl::InfinitePast()) {
    *out->mutable_end_time() = TimeToProto(job.ended);
  }
}

}  // namespace

absl::Duration DurationFromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) +
         absl::Nanoseconds(duration.nanos());
}

google::protobuf::Duration DurationToProto(absl::Duration duration) {
  google::protobuf::Duration out;
  out.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return out;
}

google::protobuf::Timestamp TimeToProto(absl::Time time) {
  google::protobuf::Timestamp out;
  const int64_t seconds = absl::ToUnixSeconds(time);
  out.set_seconds(seconds);
  out.set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return out;
}

google::rpc::Status ErrorToProto(const absl::Status& error) {
  const grpc::Status status = ToGrpcStatus(error);
  google::rpc::Status out;
  if (!out.ParseFromString(status.error_details())) out.Clear();
  out.set_code(static_cast<int>(status.error_code()));
  out.set_message(status.error_message());
  return out;
}

v1::Job JobToProto(const JobRecord& job) {
  v1::Job out;
  ParseInto(job.spec, &out);
  out.set_name(NameFromId(job.key.project, "jobs", job.key.id));
  out.set_state(static_cast<v1::Job::State>(job.state));
  out.set_attempt(job.attempt);
  out.set_cancelling(job.cancel_requested);
  out.set_revision(job.revision);
  if (!job.plan.empty()) ParseInto(job.plan, out.mutable_plan());
  if (!job.waiting.text.empty()) {
    ParseInto(job.waiting.text, out.mutable_waiting_for());
  }
  if (!job.progress.empty()) ParseInto(job.progress, out.mutable_progress());
  if (!job.error.empty()) ParseInto(job.error, out.mutable_error());
  if (job.state == JobState::kSucceeded) {
    ParseInto(job.summary, out.mutable_summary());
  }
  SetTimes(job, &out);
  return out;
}

v1::JobEvent SnapshotToProto(const JobRecord& job) {
  v1::JobEvent out;
  out.set_revision(job.revision);
  *out.mutable_snapshot() = JobToProto(job);
  return out;
}

v1::JobEvent EventToProto(const JobEventRecord& event, const JobRecord* job) {
  v1::JobEvent out;
  out.set_revision(event.revision);
  v1::JobChange* change = out.mutable_change();
  change->set_state(static_cast<v1::Job::State>(event.state));
  change->set_attempt(event.attempt);
  change->set_cancelling(event.cancel_requested);
  *change->mutable_time() = TimeToProto(event.time);
  if (job != nullptr && IsTerminal(event.state)) {
    *change->mutable_job() = JobToProto(*job);
  }
  return out;
}

absl::Status FromRecords(const absl::Status& status) {
  if (status.ok() || !ErrorReason(status).empty()) return status;
  const std::string text(status.message());
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return RpcError(status.code(), "JOB_NOT_FOUND", text);
    case absl::StatusCode::kResourceExhausted:
      return RetryableError(status.code(), "DISK_FULL", text, {},
                            absl::Seconds(30));
    default:
      return RpcError(status.code(), "STORE_FAILED", text);
  }
}

}  // namespace qs

// Tested by tests/service/jobs/job_test.cc.
#include "service/jobs/job.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/v1/jobs.pb.h"
#include "service/jobs/job_messages.h"
#include "service/server/error.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

bool IsLegal(JobState from, JobState to) {
  switch (from) {
    case JobState::kQueued:
      return to == JobState::kRunning || to == JobState::kFailed ||
             to == JobState::kCancelled;
    case JobState::kRunning:
      return to != JobState::kRunning;
    case JobState::kSucceeded:
    case JobState::kFailed:
    case JobState::kCancelled:
      return false;
  }
  return false;
}

std::string NameOf(JobState state) {
  return v1::Job::State_Name(static_cast<v1::Job::State>(state));
}

absl::Status BadState(const JobRecord& job, const std::string& allowed) {
  return RpcError(absl::StatusCode::kFailedPrecondition, "BAD_STATE",
                  absl::StrCat("job ", job.key.id, ": got ", NameOf(job.state),
                               ", allowed ", allowed),
                  {{"state", NameOf(job.state)}});
}

// Every change of the state is one of these.
absl::Status Move(JobRecord& job, JobState to, absl::Time now) {
  if (!IsLegal(job.state, to)) {
    return BadState(job, "one that may become " + NameOf(to));
  }
  job.state = to;
  job.cancel_requested = false;
  job.publishing = false;
  if (IsTerminal(to)) job.waiting = {};
  if (to != JobState::kSucceeded) job.summary.clear();
  job.queue_deadline = to == JobState::kQueued ? QueueDeadline(job, now)
                                               : absl::InfiniteFuture();
  if (IsTerminal(to)) job.ended = now;
  return absl::OkStatus();
}

absl::Status CheckRunning(const JobRecord& job) {
  return job.state == JobState::kRunning ? absl::OkStatus()
                                         : BadState(job, "RUNNING");
}

}  // namespace

absl::Time QueueDeadline(const JobRecord& job, absl::Time now) {
  v1::Job spec;
  if (!spec.ParseFromString(job.spec) || !spec.has_queue_timeout()) {
    return absl::InfiniteFuture();
  }
  return now + DurationFromProto(spec.queue_timeout());
}

absl::Status StartJob(JobRecord& job, absl::Time now) {
  if (job.state != JobState::kQueued || !job.waiting.first.empty()) {
    return BadState(job, "QUEUED, with a tensor whose sites are sealed");
  }
  QS_RETURN_IF_ERROR(Move(job, JobState::kRunning, now));
  job.started = now;
  return absl::OkStatus();
}

absl::Status PublishJob(JobRecord& job, std::string summary) {
  QS_RETURN_IF_ERROR(CheckRunning(job));
  if (job.cancel_requested) return BadState(job, "one that is not cancelled");
  job.publishing = true;
  job.summary = std::move(summary);
  return absl::OkStatus();
}

absl::Status SucceedJob(JobRecord& job, absl::Time now) {
  if (!job.publishing) return BadState(job, "one whose result is complete");
  return Move(job, JobState::kSucceeded, now);
}

absl::Status FailJob(JobRecord& job, absl::Time now,
                     const absl::Status& error) {
  QS_RETURN_IF_ERROR(Move(job, JobState::kFailed, now));
  job.error = ErrorToProto(error).SerializeAsString();
  return absl::OkStatus();
}

absl::Status CancelJob(JobRecord& job, absl::Time now) {
  if (job.state == JobState::kQueued) {
    return Move(job, JobState::kCancelled, now);
  }
  if (job.state == JobState::kRunning && !job.publishing) {
    job.cancel_requested = true;
  }
  return absl::OkStatus();
}

absl::Status StoppedJob(JobRecord& job, absl::Time now) {
  QS_RETURN_IF_ERROR(CheckRunning(job));
  if (!job.cancel_requested) return BadState(job, "one that is cancelled");
  return Move(job, JobState::kCancelled, now);
}

absl::Status ReleaseJob(JobRecord& job, absl::Time now) {
  QS_RETURN_IF_ERROR(CheckRunning(job));
  return Move(job,
              job.cancel_requested ? JobState::kCancelled : JobState::kQueued,
              now);
}

absl::Status CrashJob(JobRecord& job, absl::Time now) {
  QS_RETURN_IF_ERROR(CheckRunning(job));
  if (job.cancel_requested) return Move(job, JobState::kCancelled, now);
  ++job.crashes;
  if (job.crashes < kMaxCrashes) {
    ++job.attempt;
    return Move(job, JobState::kQueued, now);
  }
  return FailJob(
      job, now,
      RpcError(absl::StatusCode::kInternal, "WORKER_CRASHED",
               absl::StrCat("the server ended ", job.crashes,
                            " times in a row while the job ran, with no "
                            "shard done between"),
               {{"crashes", absl::StrCat(job.crashes)}}));
}

}  // namespace qs

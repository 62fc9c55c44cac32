// The state machine of jobs: the one place that knows which change of a record
// is legal.
//
//            Start            Publish          Succeed
//   QUEUED --------> RUNNING --------> (publishing) --> SUCCEEDED
//     | ^              | |  \                |
//     | |   Release,   | |   \ Fail          | Fail
//     | +-- Crash -----+ |    +------------> FAILED  (Crash: the third time)
//     | Fail, Cancel     | Cancel, then Stopped
//     +--> FAILED,       +--> CANCELLED
//          CANCELLED
//
// All are for JobRecords::Update. Errors: FAILED_PRECONDITION BAD_STATE — the
// job is not in a state from which the change is legal; nothing was changed.
// Thread: pure functions.
#ifndef QS_SERVICE_JOBS_JOB_H_
#define QS_SERVICE_JOBS_JOB_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "service/store/job_records.h"

namespace qs {

// Processes in a row that may end while a job runs.
constexpr int kMaxCrashes = 3;
// From so many on a job runs alone, so that it takes nobody with it.
constexpr int kSuspectCrashes = 2;

absl::Status StartJob(JobRecord& job, absl::Time now);
// The result is complete: from now on the job is not cancelled any more. Also
// an error when it was told to stop before.
absl::Status PublishJob(JobRecord& job, std::string summary);
absl::Status SucceedJob(JobRecord& job, absl::Time now);
// `error` becomes the job's google.rpc.Status.
absl::Status FailJob(JobRecord& job, absl::Time now, const absl::Status& error);
// A queued job is CANCELLED, a running one told to stop; one that is done or
// publishing stays as it is, without an error.
absl::Status CancelJob(JobRecord& job, absl::Time now);
// A running job has stopped as it was told.
absl::Status StoppedJob(JobRecord& job, absl::Time now);
// A running job goes back to the queue: the server drains. One that was told to
// stop is CANCELLED.
absl::Status ReleaseJob(JobRecord& job, absl::Time now);
// The process that ran the job is gone. As ReleaseJob, with one more attempt
// and crash; FAILED with WORKER_CRASHED at kMaxCrashes.
absl::Status CrashJob(JobRecord& job, absl::Time now);

// Until when a job that is queued now may wait.
absl::Time QueueDeadline(const JobRecord& job, absl::Time now);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_H_

// Which jobs wait and which run: the queue of all projects, and jobs by the
// calibration that they read. Errors of all: SqliteStatement's.
#ifndef QS_SERVICE_STORE_SQLITE_JOB_QUEUE_H_
#define QS_SERVICE_STORE_SQLITE_JOB_QUEUE_H_

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "service/store/job_records.h"
#include "service/store/sqlite_database.h"

namespace qs {

// As JobRecords has them: NextQueued, Running, QueueTimedOut, QueueCounts.
absl::StatusOr<std::optional<JobRecord>> NextQueuedJob(
    SqliteConnection& c, const std::set<std::string>& full,
    const std::set<std::string>& no_more_open);
absl::StatusOr<std::vector<JobKey>> RunningJobs(SqliteConnection& c);
absl::StatusOr<std::vector<JobKey>> TimedOutJobs(SqliteConnection& c,
                                                 absl::Time now);
absl::StatusOr<std::vector<QueueCount>> CountQueue(SqliteConnection& c);

// Awaited, UpdateWaiting, UserOf.
absl::StatusOr<std::vector<CalibrationKey>> AwaitedCalibrations(
    SqliteConnection& c);
absl::StatusOr<bool> UpdateWaitingJobs(
    SqliteConnection& c, const CalibrationKey& calibration,
    const std::function<void(JobWait&)>& change);
absl::StatusOr<std::optional<JobKey>> UserOfCalibration(
    SqliteConnection& c, const CalibrationKey& calibration,
    const JobKey& except);

}  // namespace qs

#endif  // QS_SERVICE_STORE_SQLITE_JOB_QUEUE_H_

// The row of a job: its columns to and from JobRecord.
#ifndef QS_SERVICE_STORE_SQLITE_JOB_ROWS_H_
#define QS_SERVICE_STORE_SQLITE_JOB_ROWS_H_

#include "service/store/job_records.h"
#include "service/store/sqlite_database.h"

namespace qs {

// In the order in which JobFromRow reads them.
#define QS_JOB_COLUMNS                                                         \
  "sequence, project, id, request_id, request_hash, spec, destination, "       \
  "stored, trace, "                                                            \
  "priority, created, state, attempt, crashes, cancel_requested, publishing, " \
  "queue_deadline, started, ended, fingerprint, progress, error, summary, "    \
  "revision, awaited, awaited_text, awaited_first, calibration"

// `with_plan`: the column after QS_JOB_COLUMNS is `plan`.
JobRecord JobFromRow(const SqliteStatement& row, bool with_plan);

// To three columns, QS_WAIT_COLUMNS; NULL: it waits for nothing; can begin.
#define QS_WAIT_COLUMNS "awaited, awaited_text, awaited_first"
void BindWait(SqliteStatement& row, int position, const JobWait& wait);
// The columns from `column` on.
JobWait WaitFromRow(const SqliteStatement& row, int column);

// "1,2,3".
std::vector<int64_t> NumbersFromText(const std::string& text);

// Inserts `job` and its labels; sets job->sequence.
absl::Status InsertJob(SqliteConnection& c, JobRecord* job);
// What Update may change, and the revision.
absl::Status WriteJob(SqliteConnection& c, const JobRecord& job);
absl::StatusOr<JobRecord> ReadJob(SqliteConnection& c, const JobKey& key);

}  // namespace qs

#endif  // QS_SERVICE_STORE_SQLITE_JOB_ROWS_H_

// Tested by tests/service/store/job_records_test.cc.
#include "service/store/sqlite_job_rows.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"

namespace qs {
namespace {

// Times that never come are NULL.
void BindTime(SqliteStatement& row, int position, absl::Time time) {
  if (time == absl::InfiniteFuture() || time == absl::InfinitePast()) {
    row.BindNull(position);
  } else {
    row.Bind(position, absl::ToUnixMicros(time));
  }
}

absl::Time TimeOr(const SqliteStatement& row, int column, absl::Time none) {
  return row.IsNull(column) ? none : absl::FromUnixMicros(row.Int(column));
}

void BindBytesOrNull(SqliteStatement& row, int position,
                     const std::string& bytes) {
  if (bytes.empty()) {
    row.BindNull(position);
  } else {
    row.BindBlob(position, bytes);
  }
}

// Binds the changing columns from `first` on; returns the next position.
int BindChanging(SqliteStatement& row, int first, const JobRecord& job) {
  int i = first;
  row.Bind(i++, static_cast<int64_t>(job.state));
  row.Bind(i++, int64_t{job.attempt});
  row.Bind(i++, int64_t{job.crashes});
  row.Bind(i++, int64_t{job.cancel_requested ? 1 : 0});
  row.Bind(i++, int64_t{job.publishing ? 1 : 0});
  BindTime(row, i++, job.queue_deadline);
  BindTime(row, i++, job.started);
  BindTime(row, i++, job.ended);
  row.Bind(i++, job.fingerprint);
  row.BindBlob(i++, job.progress);
  BindBytesOrNull(row, i++, job.error);
  BindBytesOrNull(row, i++, job.summary);
  row.Bind(i++, job.revision);
  BindWait(row, i, job.waiting);
  return i + 3;
}

absl::Status InsertLabels(SqliteConnection& c, const JobRecord& job) {
  for (const auto& [name, value] : job.labels) {
    QS_RETURN_IF_ERROR(
        c.Prepare("INSERT INTO job_labels(project, name, value, sequence) "
                  "VALUES(?, ?, ?, ?)")
            .Bind(1, job.key.project)
            .Bind(2, name)
            .Bind(3, value)
            .Bind(4, job.sequence)
            .Run());
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<int64_t> NumbersFromText(const std::string& text) {
  std::vector<int64_t> numbers;
  const std::vector<std::string> parts =
      absl::StrSplit(text, ',', absl::SkipEmpty());
  for (const std::string& part : parts) {
    int64_t number = 0;
    if (absl::SimpleAtoi(part, &number)) numbers.push_back(number);
  }
  return numbers;
}

void BindWait(SqliteStatement& row, int position, const JobWait& wait) {
  if (wait.sites.empty()) {
    row.BindNull(position).BindNull(position + 1).BindNull(position + 2);
    return;
  }
  row.Bind(position, absl::StrJoin(wait.sites, ","));
  row.BindBlob(position + 1, wait.text);
  if (wait.first.empty()) {
    row.BindNull(position + 2);
    return;
  }
  std::vector<std::string> sets;
  for (const std::vector<int64_t>& set : wait.first) {
    sets.push_back(absl::StrJoin(set, ","));
  }
  row.Bind(position + 2, absl::StrJoin(sets, ";"));
}

JobWait WaitFromRow(const SqliteStatement& row, int column) {
  JobWait wait = {NumbersFromText(row.Text(column)), row.Text(column + 1)};
  const std::vector<std::string> sets =
      absl::StrSplit(row.Text(column + 2), ';', absl::SkipEmpty());
  for (const std::string& set : sets) {
    wait.first.push_back(NumbersFromText(set));
  }
  return wait;
}

JobRecord JobFromRow(const SqliteStatement& row, bool with_plan) {
  JobRecord job;
  int i = 0;
  job.sequence = row.Int(i++);
  job.key.project = row.Text(i++);
  job.key.id = row.Text(i++);
  job.request_id = row.Text(i++);
  job.request_hash = row.Text(i++);
  job.spec = row.Text(i++);
  job.destination = row.Text(i++);
  job.stored = row.Int(i++) != 0;
  job.trace = row.Text(i++);
  job.priority = static_cast<int>(row.Int(i++));
  job.created = absl::FromUnixMicros(row.Int(i++));
  job.state = static_cast<JobState>(row.Int(i++));
  job.attempt = static_cast<int>(row.Int(i++));
  job.crashes = static_cast<int>(row.Int(i++));
  job.cancel_requested = row.Int(i++) != 0;
  job.publishing = row.Int(i++) != 0;
  job.queue_deadline = TimeOr(row, i++, absl::InfiniteFuture());
  job.started = TimeOr(row, i++, absl::InfinitePast());
  job.ended = TimeOr(row, i++, absl::InfinitePast());
  job.fingerprint = row.Text(i++);
  job.progress = row.Text(i++);
  job.error = row.Text(i++);
  job.summary = row.Text(i++);
  job.revision = row.Int(i++);
  job.waiting = WaitFromRow(row, i);
  i += 3;
  job.calibration = row.Text(i++);
  if (with_plan) job.plan = row.Text(i);
  return job;
}

absl::Status InsertJob(SqliteConnection& c, JobRecord* job) {
  {
    SqliteStatement row = c.Prepare(
        "INSERT INTO jobs(project, id, request_id, request_hash, spec, plan, "
        "destination, priority, created, state, attempt, crashes, "
        "cancel_requested, publishing, queue_deadline, started, ended, "
        "fingerprint, progress, error, summary, revision, " QS_WAIT_COLUMNS
        ", trace, stored, calibration, estimate) VALUES(?, ?, ?, ?, ?, ?, ?, "
        "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    row.Bind(1, job->key.project).Bind(2, job->key.id);
    if (job->request_id.empty()) {
      row.BindNull(3);
    } else {
      row.Bind(3, job->request_id);
    }
    row.Bind(4, job->request_hash).BindBlob(5, job->spec);
    row.BindBlob(6, job->plan).Bind(7, job->destination);
    row.Bind(8, int64_t{job->priority});
    row.Bind(9, absl::ToUnixMicros(job->created));
    const int next = BindChanging(row, 10, *job);
    row.Bind(next, job->trace).Bind(next + 1, int64_t{job->stored ? 1 : 0});
    row.Bind(next + 2, job->calibration);
    row.Bind(next + 3, absl::ToInt64Microseconds(job->estimate));
    QS_RETURN_IF_ERROR(row.Run());
  }
  job->sequence = c.last_row_id();
  return InsertLabels(c, *job);
}

absl::Status WriteJob(SqliteConnection& c, const JobRecord& job) {
  SqliteStatement row = c.Prepare(
      "UPDATE jobs SET state = ?, attempt = ?, crashes = ?, "
      "cancel_requested = ?, publishing = ?, queue_deadline = ?, started = ?, "
      "ended = ?, fingerprint = ?, progress = ?, error = ?, summary = ?, "
      "revision = ?, awaited = ?, awaited_text = ?, awaited_first = ? WHERE "
      "sequence = ?");
  const int next = BindChanging(row, 1, job);
  return row.Bind(next, job.sequence).Run();
}

absl::StatusOr<JobRecord> ReadJob(SqliteConnection& c, const JobKey& key) {
  SqliteStatement row = c.Prepare(
      "SELECT " QS_JOB_COLUMNS ", plan FROM jobs WHERE project = ? AND id = ?");
  row.Bind(1, key.project).Bind(2, key.id);
  if (row.Step()) return JobFromRow(row, true);
  QS_RETURN_IF_ERROR(row.status());
  return absl::NotFoundError(absl::StrCat("job ", key.id, ": not found"));
}

}  // namespace qs

// Tested by tests/service/store/job_records_test.cc.
#include "service/store/sqlite_job_queue.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/store/sqlite_job_rows.h"

namespace qs {
namespace {

constexpr int64_t kMaxTimedOut = 100;

// Of jobs that can begin, or of those of them that wait for nothing.
const char* QueueOf(bool with_waiting) {
  return with_waiting
             ? " FROM jobs INDEXED BY jobs_queued WHERE state = 1 AND "
               "awaited_first IS NULL AND "
             : " FROM jobs INDEXED BY jobs_queued_whole WHERE state = 1 AND "
               "awaited IS NULL AND ";
}

// The first job of one project in the queue.
absl::StatusOr<std::optional<JobRecord>> HeadOf(SqliteConnection& c,
                                                const std::string& project,
                                                bool with_waiting) {
  const std::string sql =
      absl::StrCat("SELECT " QS_JOB_COLUMNS ", plan", QueueOf(with_waiting),
                   "project = ? ORDER BY priority DESC, sequence LIMIT 1");
  SqliteStatement row = c.Prepare(sql.c_str());
  row.Bind(1, project);
  if (row.Step()) return JobFromRow(row, true);
  QS_RETURN_IF_ERROR(row.status());
  return std::nullopt;
}

// The next project, by name, with a queued job that can begin; empty: there is
// none.
absl::StatusOr<std::string> NextProject(SqliteConnection& c,
                                        const std::string& after) {
  const std::string sql = absl::StrCat("SELECT project", QueueOf(true),
                                       "project > ? ORDER BY project LIMIT 1");
  SqliteStatement row = c.Prepare(sql.c_str());
  row.Bind(1, after);
  const std::string project = row.Step() ? row.Text(0) : "";
  QS_RETURN_IF_ERROR(row.status());
  return project;
}

bool Before(const JobRecord& a, const JobRecord& b) {
  if (a.priority != b.priority) return a.priority > b.priority;
  return a.sequence < b.sequence;
}

absl::StatusOr<std::vector<JobKey>> Keys(SqliteStatement& rows) {
  std::vector<JobKey> keys;
  while (rows.Step()) keys.push_back({rows.Text(0), rows.Text(1)});
  QS_RETURN_IF_ERROR(rows.status());
  return keys;
}

}  // namespace

absl::StatusOr<std::optional<JobRecord>> NextQueuedJob(
    SqliteConnection& c, const std::set<std::string>& full,
    const std::set<std::string>& no_more_open) {
  std::optional<JobRecord> best;
  std::string project;
  while (true) {
    QS_ASSIGN_OR_RETURN(project, NextProject(c, project));
    if (project.empty()) return best;
    if (full.count(project) > 0) continue;
    QS_ASSIGN_OR_RETURN(std::optional<JobRecord> head,
                        HeadOf(c, project, no_more_open.count(project) == 0));
    if (head && (!best || Before(*head, *best))) best = std::move(head);
  }
}

absl::StatusOr<std::vector<JobKey>> RunningJobs(SqliteConnection& c) {
  SqliteStatement rows = c.Prepare(
      "SELECT project, id FROM jobs WHERE state = 2 ORDER BY sequence");
  return Keys(rows);
}

absl::StatusOr<std::vector<JobKey>> TimedOutJobs(SqliteConnection& c,
                                                 absl::Time now) {
  SqliteStatement rows = c.Prepare(
      "SELECT project, id FROM jobs WHERE state = 1 AND "
      "queue_deadline IS NOT NULL AND queue_deadline <= ? LIMIT ?");
  rows.Bind(1, absl::ToUnixMicros(now)).Bind(2, kMaxTimedOut);
  return Keys(rows);
}

absl::StatusOr<std::vector<QueueCount>> CountQueue(SqliteConnection& c) {
  SqliteStatement rows = c.Prepare(
      "SELECT state, priority, COUNT(*), MIN(created), SUM(estimate) FROM jobs "
      "INDEXED BY jobs_waiting WHERE state <= 2 GROUP BY state, priority");
  std::vector<QueueCount> counts;
  while (rows.Step()) {
    counts.push_back({static_cast<JobState>(rows.Int(0)),
                      static_cast<int>(rows.Int(1)), rows.Int(2),
                      absl::FromUnixMicros(rows.Int(3)),
                      absl::Microseconds(rows.Int(4))});
  }
  QS_RETURN_IF_ERROR(rows.status());
  return counts;
}

absl::StatusOr<std::vector<CalibrationKey>> AwaitedCalibrations(
    SqliteConnection& c) {
  SqliteStatement rows = c.Prepare(
      "SELECT DISTINCT project, calibration FROM jobs INDEXED BY "
      "jobs_by_calibration WHERE state <= 2 AND calibration <> '' AND "
      "awaited IS NOT NULL");
  std::vector<CalibrationKey> keys;
  while (rows.Step()) keys.push_back({rows.Text(0), rows.Text(1)});
  QS_RETURN_IF_ERROR(rows.status());
  return keys;
}

absl::StatusOr<bool> UpdateWaitingJobs(
    SqliteConnection& c, const CalibrationKey& calibration,
    const std::function<void(JobWait&)>& change) {
  std::map<int64_t, JobWait> waits;  // by sequence
  {
    SqliteStatement rows = c.Prepare(
        "SELECT sequence, " QS_WAIT_COLUMNS
        " FROM jobs INDEXED BY jobs_by_calibration WHERE project = ? AND "
        "calibration = ? AND state <= 2 AND calibration <> '' AND awaited IS "
        "NOT NULL");
    rows.Bind(1, calibration.project).Bind(2, calibration.id);
    while (rows.Step()) {
      waits[rows.Int(0)] = WaitFromRow(rows, 1);
    }
    QS_RETURN_IF_ERROR(rows.status());
  }
  bool starts = false;
  for (auto& [sequence, wait] : waits) {
    const JobWait before = wait;
    change(wait);
    if (wait == before) continue;
    SqliteStatement row = c.Prepare(
        "UPDATE jobs SET awaited = ?, awaited_text = ?, awaited_first = ? "
        "WHERE sequence = ?");
    BindWait(row, 1, wait);
    QS_RETURN_IF_ERROR(row.Bind(4, sequence).Run());
    starts |=
        wait.sites.empty() || (wait.first.empty() && !before.first.empty());
  }
  return starts;
}

absl::StatusOr<std::optional<JobKey>> UserOfCalibration(
    SqliteConnection& c, const CalibrationKey& calibration,
    const JobKey& except) {
  SqliteStatement row = c.Prepare(
      "SELECT project, id FROM jobs INDEXED BY jobs_by_calibration "
      "WHERE project = ?1 AND calibration = ?2 AND state <= 2 AND "
      "calibration <> '' AND (project <> ?3 OR id <> ?4) LIMIT 1");
  row.Bind(1, calibration.project).Bind(2, calibration.id);
  row.Bind(3, except.project).Bind(4, except.id);
  QS_ASSIGN_OR_RETURN(const std::vector<JobKey> keys, Keys(row));
  if (keys.empty()) return std::nullopt;
  return keys.front();
}

}  // namespace qs

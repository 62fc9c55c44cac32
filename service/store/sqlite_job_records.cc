// Tested by tests/service/store/job_records_test.cc.
#include "service/store/sqlite_job_records.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/store/sqlite_job_inputs.h"
#include "service/store/sqlite_job_outputs.h"
#include "service/store/sqlite_job_queue.h"
#include "service/store/sqlite_job_rows.h"

namespace qs {
namespace {

JobEventRecord EventOf(const JobRecord& job, absl::Time now) {
  return {job.revision, now, job.state, job.attempt, job.cancel_requested};
}

absl::Status InsertEvent(SqliteConnection& c, int64_t sequence,
                         const JobEventRecord& event) {
  QS_RETURN_IF_ERROR(
      c.Prepare("INSERT INTO job_events(sequence, revision, time, state, "
                "attempt, cancel_requested) VALUES(?, ?, ?, ?, ?, ?)")
          .Bind(1, sequence)
          .Bind(2, event.revision)
          .Bind(3, absl::ToUnixMicros(event.time))
          .Bind(4, static_cast<int64_t>(event.state))
          .Bind(5, int64_t{event.attempt})
          .Bind(6, int64_t{event.cancel_requested ? 1 : 0})
          .Run());
  return c
      .Prepare("DELETE FROM job_events WHERE sequence = ? AND revision <= ?")
      .Bind(1, sequence)
      .Bind(2, event.revision - JobRecords::kMaxEvents)
      .Run();
}

// The text differs with the terms that there are, not with their values.
std::string ListText(const JobQuery& query) {
  std::string sql = "SELECT " QS_JOB_COLUMNS
                    " FROM jobs WHERE project = ?1 AND sequence < ?2";
  if (query.state) sql += " AND state = ?4";
  if (query.created_after > absl::InfinitePast()) sql += " AND created > ?5";
  if (query.created_before < absl::InfiniteFuture()) sql += " AND created < ?6";
  for (size_t i = 0; i < query.labels.size(); ++i) {
    const size_t at = 7 + 2 * i;
    absl::StrAppend(&sql,
                    " AND sequence IN (SELECT sequence FROM job_labels WHERE "
                    "project = ?1 AND name = ?",
                    at, " AND value = ?", at + 1, ")");
  }
  return sql + " ORDER BY sequence DESC LIMIT ?3";
}

absl::StatusOr<std::optional<JobRecord>> ReadRequest(
    SqliteConnection& c, const std::string& project,
    const std::string& request_id) {
  if (request_id.empty()) return std::nullopt;
  SqliteStatement row =
      c.Prepare("SELECT " QS_JOB_COLUMNS
                ", plan FROM jobs WHERE project = ? AND request_id = ?");
  row.Bind(1, project).Bind(2, request_id);
  if (row.Step()) return JobFromRow(row, true);
  QS_RETURN_IF_ERROR(row.status());
  return std::nullopt;
}

absl::StatusOr<int64_t> Number(SqliteStatement& row) {
  const int64_t number = row.Step() ? row.Int(0) : 0;
  QS_RETURN_IF_ERROR(row.status());
  return number;
}

// As it will be read.
absl::Time Rounded(absl::Time time) {
  if (time == absl::InfiniteFuture() || time == absl::InfinitePast()) {
    return time;
  }
  return absl::FromUnixMicros(absl::ToUnixMicros(time));
}

void RoundTimes(JobRecord* job) {
  job->created = Rounded(job->created);
  job->queue_deadline = Rounded(job->queue_deadline);
  job->started = Rounded(job->started);
  job->ended = Rounded(job->ended);
}

absl::StatusOr<JobRecords::Created> CreateIn(SqliteConnection& c,
                                             const JobRecord& job,
                                             int64_t max_queued) {
  using Created = JobRecords::Created;
  QS_ASSIGN_OR_RETURN(std::optional<JobRecord> existing,
                      ReadRequest(c, job.key.project, job.request_id));
  if (existing) return Created{Created::kExisted, *std::move(existing)};
  SqliteStatement queued =
      c.Prepare("SELECT COUNT(*) FROM jobs WHERE project = ? AND state = 1");
  queued.Bind(1, job.key.project);
  QS_ASSIGN_OR_RETURN(const int64_t count, Number(queued));
  if (count >= max_queued) return Created{Created::kQueueFull, {}};
  SqliteStatement same = c.Prepare(
      "SELECT COUNT(*) FROM jobs WHERE destination = ? AND state <= 2");
  same.Bind(1, job.destination);
  QS_ASSIGN_OR_RETURN(const int64_t used, Number(same));
  if (used > 0) return Created{Created::kDestinationInUse, {}};
  QS_ASSIGN_OR_RETURN(const bool there, InputsAreThere(c, job));
  if (!there) return Created{Created::kInputGone, {}};
  if (!job.inline_calibration.empty()) {
    QS_ASSIGN_OR_RETURN(const int64_t bytes,
                        CountInlineBytes(c, job.key.project));
    const auto more = static_cast<int64_t>(job.inline_calibration.size());
    if (bytes + more > JobRecords::kMaxInlineBytes) {
      return Created{Created::kInlineFull, {}};
    }
  }
  Created made{Created::kMade, job};
  RoundTimes(&made.job);
  QS_RETURN_IF_ERROR(InsertJob(c, &made.job));
  QS_RETURN_IF_ERROR(InsertInputs(c, made.job));
  made.job.inputs.clear();
  QS_RETURN_IF_ERROR(InsertInlineCalibration(c, made.job));
  made.job.inline_calibration.clear();
  QS_RETURN_IF_ERROR(
      InsertEvent(c, made.job.sequence, EventOf(made.job, job.created)));
  return made;
}

bool IsEvent(const JobRecord& a, const JobRecord& b) {
  return a.state != b.state || a.attempt != b.attempt ||
         a.cancel_requested != b.cancel_requested;
}

absl::StatusOr<JobRecords::Updated> UpdateIn(SqliteConnection& c,
                                             const JobKey& key, absl::Time now,
                                             const JobRecords::Change& change,
                                             std::vector<std::string>* freed) {
  QS_ASSIGN_OR_RETURN(const JobRecord before, ReadJob(c, key));
  JobRecords::Updated out{before, std::nullopt};
  QS_RETURN_IF_ERROR(change(out.job));
  RoundTimes(&out.job);
  if (IsEvent(before, out.job)) {
    out.job.revision = before.revision + 1;
    out.event = EventOf(out.job, Rounded(now));
    QS_RETURN_IF_ERROR(InsertEvent(c, before.sequence, *out.event));
  }
  QS_RETURN_IF_ERROR(WriteJob(c, out.job));
  if (IsTerminal(out.job.state) && !IsTerminal(before.state)) {
    QS_RETURN_IF_ERROR(DropInputs(c, out.job, freed));
    QS_RETURN_IF_ERROR(DropInlineCalibration(c, before.sequence));
  }
  return out;
}

class SqliteJobRecords final : public JobRecords {
 public:
  SqliteJobRecords(SqliteDatabase& db, BlobsFreed on_freed)
      : db_(db), on_freed_(std::move(on_freed)) {}

  absl::StatusOr<Created> Create(const JobRecord& job,
                                 int64_t max_queued) override {
    return Write<Created>(
        [&](SqliteConnection& c) { return CreateIn(c, job, max_queued); });
  }

  absl::StatusOr<JobRecord> Get(const JobKey& key) override {
    return Read<JobRecord>(
        [&](SqliteConnection& c) { return ReadJob(c, key); });
  }

  absl::StatusOr<std::optional<JobRecord>> FindRequest(
      const std::string& project, const std::string& request_id) override {
    return Read<std::optional<JobRecord>>([&](SqliteConnection& c) {
      return ReadRequest(c, project, request_id);
    });
  }

  absl::StatusOr<std::vector<JobRecord>> List(const JobQuery& query) override;

  absl::StatusOr<Updated> Update(const JobKey& key, absl::Time now,
                                 const Change& change) override {
    std::vector<std::string> freed;
    absl::StatusOr<Updated> out = Write<Updated>([&](SqliteConnection& c) {
      freed.clear();
      return UpdateIn(c, key, now, change, &freed);
    });
    if (out.ok() && !freed.empty() && on_freed_) on_freed_(std::move(freed));
    return out;
  }

  absl::StatusOr<std::vector<JobInput>> Inputs(const JobKey& key) override {
    return Read<std::vector<JobInput>>(
        [&](SqliteConnection& c) -> absl::StatusOr<std::vector<JobInput>> {
          QS_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(c, key));
          return ReadInputs(c, job.sequence);
        });
  }

  absl::StatusOr<std::string> InlineCalibration(const JobKey& key) override {
    return Read<std::string>(
        [&](SqliteConnection& c) -> absl::StatusOr<std::string> {
          QS_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(c, key));
          return ReadInlineCalibration(c, job.sequence);
        });
  }

  absl::Status Delete(
      const JobKey& key,
      const std::function<absl::Status(const JobRecord&)>& allowed) override {
    return db_.Write([&](SqliteConnection& c) -> absl::Status {
      QS_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(c, key));
      QS_RETURN_IF_ERROR(allowed(job));
      return c.Prepare("DELETE FROM jobs WHERE sequence = ?")
          .Bind(1, job.sequence)
          .Run();
    });
  }

  absl::Status TrimHistory(int64_t keep) override {
    return db_.Write([&](SqliteConnection& c) {
      return c
          .Prepare(
              "DELETE FROM jobs WHERE sequence IN (SELECT sequence FROM jobs "
              "INDEXED BY jobs_ended WHERE state > 2 AND NOT (stored = 1 AND "
              "state = 3) ORDER BY ended DESC, "
              "sequence DESC LIMIT -1 OFFSET ?)")
          .Bind(1, keep)
          .Run();
    });
  }

  absl::StatusOr<std::optional<JobRecord>> NextQueued(
      const std::set<std::string>& full,
      const std::set<std::string>& no_more_open) override {
    return Read<std::optional<JobRecord>>([&](SqliteConnection& c) {
      return NextQueuedJob(c, full, no_more_open);
    });
  }
  absl::StatusOr<std::vector<JobKey>> Running() override {
    return Read<std::vector<JobKey>>(RunningJobs);
  }
  absl::StatusOr<std::vector<JobKey>> QueueTimedOut(absl::Time now) override {
    return Read<std::vector<JobKey>>(
        [&](SqliteConnection& c) { return TimedOutJobs(c, now); });
  }
  absl::StatusOr<std::vector<QueueCount>> QueueCounts() override {
    return Read<std::vector<QueueCount>>(CountQueue);
  }

  absl::StatusOr<std::vector<CalibrationKey>> Awaited() override {
    return Read<std::vector<CalibrationKey>>(AwaitedCalibrations);
  }
  absl::StatusOr<bool> UpdateWaiting(
      const CalibrationKey& calibration,
      const std::function<void(JobWait&)>& change) override {
    return Write<bool>([&](SqliteConnection& c) {
      return UpdateWaitingJobs(c, calibration, change);
    });
  }
  absl::StatusOr<std::optional<JobKey>> UserOf(
      const CalibrationKey& calibration, const JobKey& except) override {
    return Read<std::optional<JobKey>>([&](SqliteConnection& c) {
      return UserOfCalibration(c, calibration, except);
    });
  }

  absl::Status Commit(const JobKey& key, int attempt,
                      const std::optional<ShardRecord>& shard,
                      const std::vector<JobTensorRecord>& tensors) override {
    return db_.Write([&](SqliteConnection& c) -> absl::Status {
      QS_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(c, key));
      if (job.state != JobState::kRunning || job.attempt != attempt) {
        return absl::FailedPreconditionError(
            absl::StrCat("job ", key.id, ": got a commit of attempt ", attempt,
                         ", allowed of the one that runs"));
      }
      return WriteOutputs(c, job.sequence, shard, tensors);
    });
  }

  absl::StatusOr<std::vector<ShardRecord>> Shards(const JobKey& key) override {
    return Read<std::vector<ShardRecord>>(
        [&](SqliteConnection& c) { return ReadShards(c, key); });
  }
  absl::Status Tensors(
      const JobKey& key,
      const std::function<absl::Status(const JobTensorRecord&)>& each)
      override {
    return db_.Read(
        [&](SqliteConnection& c) { return ReadTensors(c, key, each); });
  }
  absl::StatusOr<std::vector<JobTensorRecord>> ShardTensors(
      const JobKey& key, int shard, const std::string& after,
      int64_t limit) override {
    return Read<std::vector<JobTensorRecord>>([&](SqliteConnection& c) {
      return ReadShardTensors(c, key, shard, after, limit);
    });
  }
  absl::StatusOr<JobTensorRecord> Tensor(const JobKey& key,
                                         const std::string& name) override {
    return Read<JobTensorRecord>(
        [&](SqliteConnection& c) { return ReadTensor(c, key, name); });
  }
  absl::Status SetFiles(const JobKey& key,
                        const std::vector<JobFileRecord>& files) override {
    return WithJob(key, [&](SqliteConnection& c, const JobRecord& job) {
      return WriteFiles(c, job.sequence, files);
    });
  }
  absl::StatusOr<std::vector<JobFileRecord>> Files(const JobKey& key,
                                                   int64_t skip,
                                                   int64_t limit) override {
    return Read<std::vector<JobFileRecord>>(
        [&](SqliteConnection& c) { return ReadFiles(c, key, skip, limit); });
  }
  absl::Status StartOver(const JobKey& key) override {
    return WithJob(key, [&](SqliteConnection& c, const JobRecord& job) {
      return DropOutputs(c, job.sequence);
    });
  }
  absl::StatusOr<std::vector<JobEventRecord>> Events(const JobKey& key,
                                                     int64_t after) override;

 private:
  template <typename Body>
  absl::Status WithJob(const JobKey& key, const Body& body) {
    return db_.Write([&](SqliteConnection& c) -> absl::Status {
      QS_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(c, key));
      return body(c, job);
    });
  }
  template <typename T, typename Body>
  absl::StatusOr<T> Write(const Body& body) {
    absl::StatusOr<T> out = absl::InternalError("not run");
    QS_RETURN_IF_ERROR(db_.Write([&](SqliteConnection& c) {
      out = body(c);
      return out.status();
    }));
    return out;
  }
  template <typename T, typename Body>
  absl::StatusOr<T> Read(const Body& body) {
    absl::StatusOr<T> out = absl::InternalError("not run");
    QS_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& c) {
      out = body(c);
      return out.status();
    }));
    return out;
  }

  SqliteDatabase& db_;
  const BlobsFreed on_freed_;
};

absl::StatusOr<std::vector<JobRecord>> SqliteJobRecords::List(
    const JobQuery& query) {
  const std::string sql = ListText(query);
  return Read<std::vector<JobRecord>>(
      [&](SqliteConnection& c) -> absl::StatusOr<std::vector<JobRecord>> {
        SqliteStatement rows = c.Prepare(sql.c_str());
        rows.Bind(1, query.project);
        rows.Bind(2, query.before > 0 ? query.before : INT64_MAX);
        rows.Bind(3, query.limit);
        if (query.state) rows.Bind(4, static_cast<int64_t>(*query.state));
        // Times of creation are whole microseconds.
        if (query.created_after > absl::InfinitePast()) {
          rows.Bind(5, absl::ToUnixMicros(query.created_after));
        }
        if (query.created_before < absl::InfiniteFuture()) {
          rows.Bind(6, absl::ToUnixMicros(query.created_before +
                                          absl::Nanoseconds(999)));
        }
        int at = 7;
        for (const auto& [name, value] : query.labels) {
          rows.Bind(at, name).Bind(at + 1, value);
          at += 2;
        }
        std::vector<JobRecord> jobs;
        size_t bytes = 0;
        while (bytes <= kMaxListBytes && rows.Step()) {
          jobs.push_back(JobFromRow(rows, false));
          bytes += jobs.back().spec.size();
        }
        QS_RETURN_IF_ERROR(rows.status());
        return jobs;
      });
}

absl::StatusOr<std::vector<JobEventRecord>> SqliteJobRecords::Events(
    const JobKey& key, int64_t after) {
  return Read<std::vector<JobEventRecord>>(
      [&](SqliteConnection& c) -> absl::StatusOr<std::vector<JobEventRecord>> {
        SqliteStatement rows = c.Prepare(
            "SELECT revision, time, state, attempt, cancel_requested FROM "
            "job_events WHERE sequence = (SELECT sequence FROM jobs WHERE "
            "project = ? AND id = ?) AND revision > ? ORDER BY revision");
        rows.Bind(1, key.project).Bind(2, key.id).Bind(3, after);
        std::vector<JobEventRecord> events;
        while (rows.Step()) {
          events.push_back({rows.Int(0), absl::FromUnixMicros(rows.Int(1)),
                            static_cast<JobState>(rows.Int(2)),
                            static_cast<int>(rows.Int(3)), rows.Int(4) != 0});
        }
        QS_RETURN_IF_ERROR(rows.status());
        return events;
      });
}

}  // namespace

std::unique_ptr<JobRecords> NewSqliteJobRecords(SqliteDatabase& db,
                                                BlobsFreed on_freed) {
  return std::make_unique<SqliteJobRecords>(db, std::move(on_freed));
}

}  // namespace qs

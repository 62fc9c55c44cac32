// Tested by tests/service/store/job_records_test.cc.
#include "service/store/sqlite_job_records.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_job_rows.h"

namespace qs {
namespace {

constexpr int64_t kMaxTimedOut = 100;

// Partial indices, as only few of many jobs are queued or run; each serves one
// query below. The CHECKs are the states that there can be.
constexpr char kVersion1[] = R"(
CREATE TABLE jobs(
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  project TEXT NOT NULL, id TEXT NOT NULL,
  request_id TEXT, request_hash TEXT NOT NULL,
  spec BLOB NOT NULL, plan BLOB NOT NULL,
  destination TEXT NOT NULL, trace TEXT NOT NULL,
  priority INTEGER NOT NULL, created INTEGER NOT NULL,
  state INTEGER NOT NULL CHECK(state BETWEEN 1 AND 5),
  attempt INTEGER NOT NULL CHECK(attempt >= 1),
  crashes INTEGER NOT NULL CHECK(crashes >= 0),
  cancel_requested INTEGER NOT NULL CHECK(cancel_requested IN (0, 1)),
  publishing INTEGER NOT NULL CHECK(publishing IN (0, 1)),
  queue_deadline INTEGER, started INTEGER, ended INTEGER,
  fingerprint TEXT NOT NULL, progress BLOB NOT NULL,
  error BLOB, summary BLOB,
  revision INTEGER NOT NULL CHECK(revision >= 1),
  UNIQUE(project, id),
  CHECK((state > 2) = (ended IS NOT NULL)),
  CHECK(state NOT IN (2, 3) OR started IS NOT NULL),
  CHECK((state = 4) = (error IS NOT NULL)),
  CHECK((state = 3 OR publishing = 1) = (summary IS NOT NULL)),
  CHECK(state = 2 OR (cancel_requested = 0 AND publishing = 0)),
  CHECK(cancel_requested = 0 OR publishing = 0)
) STRICT;
CREATE UNIQUE INDEX jobs_by_request ON jobs(project, request_id)
  WHERE request_id IS NOT NULL;
CREATE UNIQUE INDEX jobs_by_destination ON jobs(destination) WHERE state <= 2;
CREATE INDEX jobs_of_project ON jobs(project, sequence);
CREATE INDEX jobs_in_state ON jobs(project, state, sequence);
CREATE INDEX jobs_queued ON jobs(project, priority DESC, sequence)
  WHERE state = 1;
CREATE INDEX jobs_queue_deadline ON jobs(queue_deadline)
  WHERE state = 1 AND queue_deadline IS NOT NULL;
CREATE INDEX jobs_waiting ON jobs(state, priority, created) WHERE state <= 2;
CREATE INDEX jobs_running ON jobs(sequence) WHERE state = 2;
CREATE INDEX jobs_ended ON jobs(ended, sequence) WHERE state > 2;
CREATE TABLE job_labels(
  project TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
  sequence INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  PRIMARY KEY(project, name, value, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_labels_of_job ON job_labels(sequence);
CREATE TABLE job_shards(
  sequence INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  shard INTEGER NOT NULL, file TEXT NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY(sequence, shard)
) STRICT, WITHOUT ROWID;
CREATE TABLE job_tensors(
  sequence INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  name TEXT NOT NULL, bytes INTEGER NOT NULL, report BLOB NOT NULL,
  PRIMARY KEY(sequence, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE job_events(
  sequence INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  revision INTEGER NOT NULL, time INTEGER NOT NULL, state INTEGER NOT NULL,
  attempt INTEGER NOT NULL, cancel_requested INTEGER NOT NULL,
  PRIMARY KEY(sequence, revision)
) STRICT, WITHOUT ROWID;
)";

// Results that the server itself keeps.
constexpr char kVersion2[] = R"(
ALTER TABLE jobs ADD COLUMN stored INTEGER NOT NULL DEFAULT 0
  CHECK(stored IN (0, 1));
ALTER TABLE job_shards ADD COLUMN digest TEXT NOT NULL DEFAULT '';
ALTER TABLE job_tensors ADD COLUMN shard INTEGER NOT NULL DEFAULT 0;
CREATE INDEX job_tensors_of_shard ON job_tensors(sequence, shard, name);
DROP INDEX jobs_ended;
CREATE INDEX jobs_ended ON jobs(ended, sequence)
  WHERE state > 2 AND NOT (stored = 1 AND state = 3);
CREATE TABLE job_files(
  sequence INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  place INTEGER NOT NULL, file TEXT NOT NULL, bytes INTEGER NOT NULL,
  digest TEXT NOT NULL,
  PRIMARY KEY(sequence, place)
) STRICT, WITHOUT ROWID;
)";

// What waits for sites of a calibration is not in the queue's index.
constexpr char kVersion3[] = R"(
ALTER TABLE jobs ADD COLUMN calibration TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN waiting TEXT
  CHECK(waiting IS NULL OR (state = 1 AND calibration <> ''));
ALTER TABLE jobs ADD COLUMN waiting_text BLOB
  CHECK((waiting_text IS NULL) = (waiting IS NULL));
DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs(project, priority DESC, sequence)
  WHERE state = 1 AND waiting IS NULL;
CREATE INDEX jobs_by_calibration ON jobs(project, calibration)
  WHERE state <= 2 AND calibration <> '';
)";

// What jobs that are not done read from the blobs.
constexpr char kVersion4[] = R"(
CREATE TABLE job_inputs(
  sequence INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  name TEXT NOT NULL, dtype TEXT NOT NULL, shape TEXT NOT NULL,
  digest TEXT NOT NULL,
  PRIMARY KEY(sequence, name)
) STRICT, WITHOUT ROWID;
)";

#define QS_SEQUENCE_OF_JOB \
  "(SELECT sequence FROM jobs WHERE project = ? AND id = ?)"

// Not that of a result.
BlobOwner InputOwner(const JobKey& job) {
  return {"job-input", job.project + "/" + job.id};
}

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

// The first job of one project in the queue.
absl::StatusOr<std::optional<JobRecord>> HeadOf(SqliteConnection& c,
                                                const std::string& project) {
  SqliteStatement row = c.Prepare(
      "SELECT " QS_JOB_COLUMNS
      ", plan FROM jobs INDEXED BY jobs_queued WHERE project = ? AND state = 1 "
      "AND waiting IS NULL ORDER BY priority DESC, sequence LIMIT 1");
  row.Bind(1, project);
  if (row.Step()) return JobFromRow(row, true);
  QS_RETURN_IF_ERROR(row.status());
  return std::nullopt;
}

// The next project, by name, that has a queued job; empty: there is none.
absl::StatusOr<std::string> NextProject(SqliteConnection& c,
                                        const std::string& after) {
  SqliteStatement row = c.Prepare(
      "SELECT project FROM jobs INDEXED BY jobs_queued WHERE state = 1 AND "
      "waiting IS NULL AND project > ? ORDER BY project LIMIT 1");
  row.Bind(1, after);
  const std::string project = row.Step() ? row.Text(0) : "";
  QS_RETURN_IF_ERROR(row.status());
  return project;
}

#define QS_TENSOR_COLUMNS "name, bytes, report, shard"

JobTensorRecord TensorFromRow(const SqliteStatement& row) {
  return {row.Text(0), row.Int(1), row.Text(2), static_cast<int>(row.Int(3))};
}

bool Before(const JobRecord& a, const JobRecord& b) {
  if (a.priority != b.priority) return a.priority > b.priority;
  return a.sequence < b.sequence;
}

absl::StatusOr<std::optional<JobRecord>> Head(
    SqliteConnection& c, const std::set<std::string>& full) {
  std::optional<JobRecord> best;
  std::string project;
  while (true) {
    QS_ASSIGN_OR_RETURN(project, NextProject(c, project));
    if (project.empty()) return best;
    if (full.count(project) > 0) continue;
    QS_ASSIGN_OR_RETURN(std::optional<JobRecord> head, HeadOf(c, project));
    if (head && (!best || Before(*head, *best))) best = std::move(head);
  }
}

// The text differs with the number of labels alone.
std::string ListText(const JobQuery& query) {
  std::string sql = "SELECT " QS_JOB_COLUMNS
                    " FROM jobs WHERE project = ?1 AND sequence < ?2";
  if (query.state) sql += " AND state = ?4";
  for (size_t i = 0; i < query.labels.size(); ++i) {
    const size_t at = 5 + 2 * i;
    absl::StrAppend(&sql,
                    " AND sequence IN (SELECT sequence FROM job_labels WHERE "
                    "project = ?1 AND name = ?",
                    at, " AND value = ?", at + 1, ")");
  }
  return sql + " ORDER BY sequence DESC LIMIT ?3";
}

absl::StatusOr<std::vector<JobKey>> Keys(SqliteStatement& rows) {
  std::vector<JobKey> keys;
  while (rows.Step()) keys.push_back({rows.Text(0), rows.Text(1)});
  QS_RETURN_IF_ERROR(rows.status());
  return keys;
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

absl::StatusOr<bool> UpdateWaitingIn(
    SqliteConnection& c, const CalibrationKey& calibration,
    const std::function<void(JobWait&)>& change) {
  std::map<int64_t, JobWait> waits;  // by sequence
  {
    SqliteStatement rows = c.Prepare(
        "SELECT sequence, waiting, waiting_text FROM jobs INDEXED BY "
        "jobs_by_calibration WHERE project = ? AND calibration = ? AND state "
        "<= 2 AND calibration <> '' AND waiting IS NOT NULL");
    rows.Bind(1, calibration.project).Bind(2, calibration.id);
    while (rows.Step()) {
      waits[rows.Int(0)] = {NumbersFromText(rows.Text(1)), rows.Text(2)};
    }
    QS_RETURN_IF_ERROR(rows.status());
  }
  bool starts = false;
  for (auto& [sequence, wait] : waits) {
    const JobWait before = wait;
    change(wait);
    if (wait == before) continue;
    SqliteStatement row = c.Prepare(
        "UPDATE jobs SET waiting = ?, waiting_text = ? WHERE sequence = ?");
    BindWait(row, 1, wait);
    QS_RETURN_IF_ERROR(row.Bind(3, sequence).Run());
    starts |= wait.sites.empty();
  }
  return starts;
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

// Whether something of the job's project refers to each of its inputs.
absl::StatusOr<bool> InputsAreThere(SqliteConnection& c, const JobRecord& job) {
  for (const JobInput& input : job.inputs) {
    SqliteStatement row =
        c.Prepare("SELECT 1 FROM blob_refs WHERE digest = ? AND project = ?");
    row.Bind(1, input.digest).Bind(2, job.key.project);
    const bool found = row.Step();
    QS_RETURN_IF_ERROR(row.status());
    if (!found) return false;
  }
  return true;
}

absl::Status InsertInputs(SqliteConnection& c, const JobRecord& job) {
  for (const JobInput& input : job.inputs) {
    QS_RETURN_IF_ERROR(c.Prepare("INSERT INTO job_inputs(sequence, name, "
                                 "dtype, shape, digest) VALUES(?, ?, ?, ?, ?)")
                           .Bind(1, job.sequence)
                           .Bind(2, input.name)
                           .Bind(3, std::string(DTypeName(input.dtype)))
                           .Bind(4, absl::StrJoin(input.shape, ","))
                           .Bind(5, input.digest)
                           .Run());
    QS_RETURN_IF_ERROR(
        AddBlobRef(c, job.key.project, input.digest, InputOwner(job.key)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<JobInput>> ReadInputs(SqliteConnection& c,
                                                 int64_t sequence) {
  SqliteStatement rows = c.Prepare(
      "SELECT name, dtype, shape, digest FROM job_inputs WHERE sequence = ? "
      "ORDER BY name");
  rows.Bind(1, sequence);
  std::vector<JobInput> inputs;
  while (rows.Step()) {
    const std::optional<DType> dtype = ParseDType(rows.Text(1));
    if (!dtype) return absl::DataLossError("records: a dtype is none");
    inputs.push_back(
        {rows.Text(0), *dtype, NumbersFromText(rows.Text(2)), rows.Text(3)});
  }
  QS_RETURN_IF_ERROR(rows.status());
  return inputs;
}

// Appends the digests that nobody refers to now.
absl::Status DropInputs(SqliteConnection& c, const JobRecord& job,
                        std::vector<std::string>* freed) {
  {
    SqliteStatement row =
        c.Prepare("SELECT 1 FROM job_inputs WHERE sequence = ? LIMIT 1");
    row.Bind(1, job.sequence);
    const bool has = row.Step();
    QS_RETURN_IF_ERROR(row.status());
    if (!has) return absl::OkStatus();
  }
  QS_RETURN_IF_ERROR(DropBlobRefs(c, InputOwner(job.key), freed));
  return c.Prepare("DELETE FROM job_inputs WHERE sequence = ?")
      .Bind(1, job.sequence)
      .Run();
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
  Created made{Created::kMade, job};
  RoundTimes(&made.job);
  QS_RETURN_IF_ERROR(InsertJob(c, &made.job));
  QS_RETURN_IF_ERROR(InsertInputs(c, made.job));
  made.job.inputs.clear();
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
  }
  return out;
}

absl::Status CommitIn(SqliteConnection& c, const JobRecord& job,
                      const std::optional<ShardRecord>& shard,
                      const std::vector<JobTensorRecord>& tensors) {
  for (const JobTensorRecord& tensor : tensors) {
    QS_RETURN_IF_ERROR(
        c.Prepare("INSERT OR REPLACE INTO job_tensors(sequence, "
                  "name, bytes, report, shard) VALUES(?, ?, ?, ?, ?)")
            .Bind(1, job.sequence)
            .Bind(2, tensor.name)
            .Bind(3, tensor.bytes)
            .BindBlob(4, tensor.report)
            .Bind(5, int64_t{tensor.shard})
            .Run());
  }
  if (!shard) return absl::OkStatus();
  QS_RETURN_IF_ERROR(
      c.Prepare("INSERT OR REPLACE INTO job_shards(sequence, "
                "shard, file, bytes, digest) VALUES(?, ?, ?, ?, ?)")
          .Bind(1, job.sequence)
          .Bind(2, int64_t{shard->shard})
          .Bind(3, shard->file)
          .Bind(4, shard->bytes)
          .Bind(5, shard->digest)
          .Run());
  return c.Prepare("UPDATE jobs SET crashes = 0 WHERE sequence = ?")
      .Bind(1, job.sequence)
      .Run();
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
      const std::set<std::string>& full) override {
    return Read<std::optional<JobRecord>>(
        [&](SqliteConnection& c) { return Head(c, full); });
  }

  absl::StatusOr<std::vector<JobKey>> Running() override {
    return Read<std::vector<JobKey>>([&](SqliteConnection& c) {
      SqliteStatement rows = c.Prepare(
          "SELECT project, id FROM jobs WHERE state = 2 ORDER BY sequence");
      return Keys(rows);
    });
  }

  absl::StatusOr<std::vector<JobKey>> QueueTimedOut(absl::Time now) override {
    return Read<std::vector<JobKey>>([&](SqliteConnection& c) {
      SqliteStatement rows = c.Prepare(
          "SELECT project, id FROM jobs WHERE state = 1 AND "
          "queue_deadline IS NOT NULL AND queue_deadline <= ? LIMIT ?");
      rows.Bind(1, absl::ToUnixMicros(now)).Bind(2, kMaxTimedOut);
      return Keys(rows);
    });
  }

  absl::StatusOr<std::vector<CalibrationKey>> Awaited() override {
    return Read<std::vector<CalibrationKey>>(
        [&](SqliteConnection& c)
            -> absl::StatusOr<std::vector<CalibrationKey>> {
          SqliteStatement rows = c.Prepare(
              "SELECT DISTINCT project, calibration FROM jobs INDEXED BY "
              "jobs_by_calibration WHERE state <= 2 AND calibration <> '' AND "
              "waiting IS NOT NULL");
          std::vector<CalibrationKey> keys;
          while (rows.Step()) keys.push_back({rows.Text(0), rows.Text(1)});
          QS_RETURN_IF_ERROR(rows.status());
          return keys;
        });
  }

  absl::StatusOr<bool> UpdateWaiting(
      const CalibrationKey& calibration,
      const std::function<void(JobWait&)>& change) override {
    return Write<bool>([&](SqliteConnection& c) {
      return UpdateWaitingIn(c, calibration, change);
    });
  }

  absl::StatusOr<std::optional<JobKey>> UserOf(
      const CalibrationKey& calibration, const JobKey& except) override {
    return Read<std::optional<JobKey>>(
        [&](SqliteConnection& c) -> absl::StatusOr<std::optional<JobKey>> {
          SqliteStatement row = c.Prepare(
              "SELECT project, id FROM jobs INDEXED BY jobs_by_calibration "
              "WHERE project = ?1 AND calibration = ?2 AND state <= 2 AND "
              "calibration <> '' AND (project <> ?3 OR id <> ?4) LIMIT 1");
          row.Bind(1, calibration.project).Bind(2, calibration.id);
          row.Bind(3, except.project).Bind(4, except.id);
          QS_ASSIGN_OR_RETURN(const std::vector<JobKey> keys, Keys(row));
          if (keys.empty()) return std::nullopt;
          return keys.front();
        });
  }

  absl::StatusOr<std::vector<QueueCount>> QueueCounts() override;

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
      return CommitIn(c, job, shard, tensors);
    });
  }

  absl::StatusOr<std::vector<ShardRecord>> Shards(const JobKey& key) override;
  absl::Status Tensors(
      const JobKey& key,
      const std::function<absl::Status(const JobTensorRecord&)>& each) override;
  absl::StatusOr<std::vector<JobTensorRecord>> ShardTensors(
      const JobKey& key, int shard, const std::string& after,
      int64_t limit) override;
  absl::StatusOr<JobTensorRecord> Tensor(const JobKey& key,
                                         const std::string& name) override;
  absl::Status SetFiles(const JobKey& key,
                        const std::vector<JobFileRecord>& files) override;
  absl::StatusOr<std::vector<JobFileRecord>> Files(const JobKey& key,
                                                   int64_t skip,
                                                   int64_t limit) override;
  absl::Status StartOver(const JobKey& key) override;
  absl::StatusOr<std::vector<JobEventRecord>> Events(const JobKey& key,
                                                     int64_t after) override;

 private:
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
        int at = 5;
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

absl::StatusOr<std::vector<QueueCount>> SqliteJobRecords::QueueCounts() {
  return Read<std::vector<QueueCount>>(
      [&](SqliteConnection& c) -> absl::StatusOr<std::vector<QueueCount>> {
        SqliteStatement rows = c.Prepare(
            "SELECT state, priority, COUNT(*), MIN(created) FROM jobs INDEXED "
            "BY jobs_waiting WHERE state <= 2 GROUP BY state, priority");
        std::vector<QueueCount> counts;
        while (rows.Step()) {
          counts.push_back({static_cast<JobState>(rows.Int(0)),
                            static_cast<int>(rows.Int(1)), rows.Int(2),
                            absl::FromUnixMicros(rows.Int(3))});
        }
        QS_RETURN_IF_ERROR(rows.status());
        return counts;
      });
}

absl::StatusOr<std::vector<ShardRecord>> SqliteJobRecords::Shards(
    const JobKey& key) {
  return Read<std::vector<ShardRecord>>(
      [&](SqliteConnection& c) -> absl::StatusOr<std::vector<ShardRecord>> {
        SqliteStatement rows = c.Prepare(
            "SELECT shard, file, bytes, digest FROM job_shards WHERE sequence "
            "= " QS_SEQUENCE_OF_JOB
            " "
            "ORDER BY shard");
        rows.Bind(1, key.project).Bind(2, key.id);
        std::vector<ShardRecord> shards;
        while (rows.Step()) {
          shards.push_back({static_cast<int>(rows.Int(0)), rows.Text(1),
                            rows.Int(2), rows.Text(3)});
        }
        QS_RETURN_IF_ERROR(rows.status());
        return shards;
      });
}

absl::Status SqliteJobRecords::Tensors(
    const JobKey& key,
    const std::function<absl::Status(const JobTensorRecord&)>& each) {
  return db_.Read([&](SqliteConnection& c) -> absl::Status {
    SqliteStatement rows =
        c.Prepare("SELECT " QS_TENSOR_COLUMNS
                  " FROM job_tensors WHERE sequence = " QS_SEQUENCE_OF_JOB
                  " ORDER BY name");
    rows.Bind(1, key.project).Bind(2, key.id);
    while (rows.Step()) {
      QS_RETURN_IF_ERROR(each(TensorFromRow(rows)));
    }
    return rows.status();
  });
}

absl::StatusOr<std::vector<JobTensorRecord>> SqliteJobRecords::ShardTensors(
    const JobKey& key, int shard, const std::string& after, int64_t limit) {
  using Tensors = std::vector<JobTensorRecord>;
  return Read<Tensors>([&](SqliteConnection& c) -> absl::StatusOr<Tensors> {
    SqliteStatement rows =
        c.Prepare("SELECT " QS_TENSOR_COLUMNS
                  " FROM job_tensors INDEXED BY job_tensors_of_shard WHERE "
                  "sequence = " QS_SEQUENCE_OF_JOB
                  " AND shard = ? AND name > ? ORDER BY name LIMIT ?");
    rows.Bind(1, key.project).Bind(2, key.id).Bind(3, int64_t{shard});
    rows.Bind(4, after).Bind(5, limit);
    Tensors tensors;
    while (rows.Step()) tensors.push_back(TensorFromRow(rows));
    QS_RETURN_IF_ERROR(rows.status());
    return tensors;
  });
}

absl::StatusOr<JobTensorRecord> SqliteJobRecords::Tensor(
    const JobKey& key, const std::string& name) {
  return Read<JobTensorRecord>(
      [&](SqliteConnection& c) -> absl::StatusOr<JobTensorRecord> {
        SqliteStatement row =
            c.Prepare("SELECT " QS_TENSOR_COLUMNS
                      " FROM job_tensors WHERE sequence = " QS_SEQUENCE_OF_JOB
                      " AND name = ?");
        row.Bind(1, key.project).Bind(2, key.id).Bind(3, name);
        if (row.Step()) return TensorFromRow(row);
        QS_RETURN_IF_ERROR(row.status());
        return absl::NotFoundError(
            absl::StrCat("job ", key.id, ": no tensor \"", name, "\""));
      });
}

absl::Status SqliteJobRecords::SetFiles(
    const JobKey& key, const std::vector<JobFileRecord>& files) {
  return db_.Write([&](SqliteConnection& c) -> absl::Status {
    QS_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(c, key));
    QS_RETURN_IF_ERROR(c.Prepare("DELETE FROM job_files WHERE sequence = ?")
                           .Bind(1, job.sequence)
                           .Run());
    int64_t place = 0;
    for (const JobFileRecord& file : files) {
      QS_RETURN_IF_ERROR(c.Prepare("INSERT INTO job_files(sequence, place, "
                                   "file, bytes, digest) VALUES(?, ?, ?, ?, ?)")
                             .Bind(1, job.sequence)
                             .Bind(2, place++)
                             .Bind(3, file.file)
                             .Bind(4, file.bytes)
                             .Bind(5, file.digest)
                             .Run());
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<JobFileRecord>> SqliteJobRecords::Files(
    const JobKey& key, int64_t skip, int64_t limit) {
  using Files = std::vector<JobFileRecord>;
  return Read<Files>([&](SqliteConnection& c) -> absl::StatusOr<Files> {
    SqliteStatement rows = c.Prepare(
        "SELECT file, bytes, digest FROM job_files WHERE "
        "sequence = " QS_SEQUENCE_OF_JOB
        " AND place >= ? ORDER BY place LIMIT ?");
    rows.Bind(1, key.project).Bind(2, key.id).Bind(3, skip).Bind(4, limit);
    Files files;
    while (rows.Step()) {
      files.push_back({rows.Text(0), rows.Int(1), rows.Text(2)});
    }
    QS_RETURN_IF_ERROR(rows.status());
    return files;
  });
}

absl::Status SqliteJobRecords::StartOver(const JobKey& key) {
  return db_.Write([&](SqliteConnection& c) -> absl::Status {
    QS_ASSIGN_OR_RETURN(const JobRecord job, ReadJob(c, key));
    QS_RETURN_IF_ERROR(c.Prepare("DELETE FROM job_shards WHERE sequence = ?")
                           .Bind(1, job.sequence)
                           .Run());
    QS_RETURN_IF_ERROR(c.Prepare("DELETE FROM job_files WHERE sequence = ?")
                           .Bind(1, job.sequence)
                           .Run());
    return c.Prepare("DELETE FROM job_tensors WHERE sequence = ?")
        .Bind(1, job.sequence)
        .Run();
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

SqliteSchema JobRecordsSchema() {
  return {"jobs", {kVersion1, kVersion2, kVersion3, kVersion4}};
}

std::unique_ptr<JobRecords> NewSqliteJobRecords(SqliteDatabase& db,
                                                BlobsFreed on_freed) {
  return std::make_unique<SqliteJobRecords>(db, std::move(on_freed));
}

}  // namespace qs

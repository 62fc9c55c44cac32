// Tested by tests/service/store/job_records_test.cc.
#include "service/store/sqlite_job_records.h"

namespace qs {
namespace {

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

// Running jobs wait, too. Before, a job began when all of its sites were there.
constexpr char kVersion5[] = R"(
ALTER TABLE jobs ADD COLUMN awaited TEXT
  CHECK(awaited IS NULL OR (state <= 2 AND calibration <> ''));
ALTER TABLE jobs ADD COLUMN awaited_text BLOB
  CHECK((awaited_text IS NULL) = (awaited IS NULL));
ALTER TABLE jobs ADD COLUMN awaited_first TEXT
  CHECK(awaited_first IS NULL OR (state = 1 AND awaited IS NOT NULL));
UPDATE jobs SET awaited = waiting, awaited_text = waiting_text,
  awaited_first = waiting WHERE waiting IS NOT NULL;
DROP INDEX jobs_queued;
ALTER TABLE jobs DROP COLUMN waiting_text;
ALTER TABLE jobs DROP COLUMN waiting;
CREATE INDEX jobs_queued ON jobs(project, priority DESC, sequence)
  WHERE state = 1 AND awaited_first IS NULL;
CREATE INDEX jobs_queued_whole ON jobs(project, priority DESC, sequence)
  WHERE state = 1 AND awaited IS NULL;
)";

// Numbers that a job came with, while it is not done; and how long it will run,
// in microseconds, which the queue's index has for their sum.
constexpr char kVersion6[] = R"(
CREATE TABLE job_calibrations(
  sequence INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
  project TEXT NOT NULL, size INTEGER NOT NULL, bytes BLOB NOT NULL
) STRICT;
CREATE INDEX job_calibrations_of_project ON job_calibrations(project, size);
ALTER TABLE jobs ADD COLUMN estimate INTEGER NOT NULL DEFAULT 0;
DROP INDEX jobs_waiting;
CREATE INDEX jobs_waiting ON jobs(state, priority, created, estimate)
  WHERE state <= 2;
)";

}  // namespace

SqliteSchema JobRecordsSchema() {
  return {"jobs",
          {kVersion1, kVersion2, kVersion3, kVersion4, kVersion5, kVersion6}};
}

}  // namespace qs

// JobRecords: what is kept of jobs — their state, the shards that are done, the
// reports of their tensors, and what happened to them.
//
// An implementation is a database; it knows no transition that is legal or not
// (service/jobs/job.h does) and none of the messages, which are bytes here. All
// of them pass tests/service/store/job_records_conformance.h.
//
// Thread: thread-safe. Everything blocks: not in a reaction. Errors of every
// call: RESOURCE_EXHAUSTED — the disk is full, nothing was changed; DATA_LOSS;
// INTERNAL.
#ifndef QS_SERVICE_STORE_JOB_RECORDS_H_
#define QS_SERVICE_STORE_JOB_RECORDS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/base/dtype.h"

namespace qs {

// Numbers as in the .proto and in the database: not to be changed.
enum class JobState {
  kQueued = 1,
  kRunning = 2,
  kSucceeded = 3,
  kFailed = 4,
  kCancelled = 5
};
inline bool IsTerminal(JobState state) { return state > JobState::kRunning; }

struct JobKey {
  std::string project;
  std::string id;
  auto operator<=>(const JobKey&) const = default;
};

// What parts of a queued or running job wait for.
struct JobWait {
  // Places of sites in the calibration, ascending. Empty: it waits for nothing.
  std::vector<int64_t> sites;
  std::string text;  // the same for people, a message of the .proto
  // Of these, sets of which one must be there before a queued job can begin.
  // Empty: it can.
  std::vector<std::vector<int64_t>> first = {};
  bool operator==(const JobWait&) const = default;
};

// A calibration that jobs use.
struct CalibrationKey {
  std::string project;
  std::string id;
  auto operator<=>(const CalibrationKey&) const = default;
};

// A tensor that a job reads from the blobs.
struct JobInput {
  std::string name;  // no two of a job have the same
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string digest;
  bool operator==(const JobInput&) const = default;
};

struct JobRecord {
  // --- fixed when it is made
  JobKey key;
  int64_t sequence = 0;      // given by Create, in the order of creation
  std::string request_id;    // empty: none
  std::string request_hash;  // of what was asked for
  std::string spec;
  std::string plan;
  // Path of the result: no two jobs that are not done have the same.
  std::string destination;
  bool stored = false;      // the destination is the server's store
  std::string calibration;  // id of the project's that it uses; empty: none
  int priority = 0;         // the higher, the sooner
  std::string trace;        // of the call that made it, a W3C traceparent
  std::map<std::string, std::string> labels;  // for List; not read back
  // For Inputs; not read back. The job refers to their blobs (see BlobRefs,
  // kind "job-input") until it is done; then they are forgotten.
  std::vector<JobInput> inputs;
  // For InlineCalibration; not read back. Numbers that the job came with; they
  // are forgotten when it is done. Empty: none.
  std::string inline_calibration;
  absl::Time created = absl::UnixEpoch();
  // How long it will run; for QueueCounts, not read back.
  absl::Duration estimate = absl::ZeroDuration();

  // --- what Update may change
  JobState state = JobState::kQueued;
  int attempt = 1;
  int crashes = 0;  // processes in a row that ended while it ran
  bool cancel_requested = false;
  bool publishing = false;  // the result is complete and gets its name
  absl::Time queue_deadline = absl::InfiniteFuture();  // while it is queued
  absl::Time started = absl::InfinitePast();           // last attempt; or never
  absl::Time ended = absl::InfinitePast();             // or not yet
  JobWait waiting;                                     // until it is done
  std::string fingerprint;  // of the run whose shards are kept
  std::string progress;
  std::string error;
  std::string summary;  // from publishing on

  // Kept by Update: one more with each event.
  int64_t revision = 1;
};

// What is kept of a change that others should see: of state, attempt or
// cancel_requested.
struct JobEventRecord {
  int64_t revision = 0;
  absl::Time time = absl::UnixEpoch();
  JobState state = JobState::kQueued;
  int attempt = 1;
  bool cancel_requested = false;
};

struct JobQuery {
  std::string project;
  std::optional<JobState> state;
  std::vector<std::pair<std::string, std::string>> labels;  // all must hold
  // Made later, and earlier, than that.
  absl::Time created_after = absl::InfinitePast();
  absl::Time created_before = absl::InfiniteFuture();
  int64_t before = 0;  // jobs with a smaller sequence only; 0: from the newest
  int64_t limit = 50;
};

struct ShardRecord {
  int shard = 0;
  std::string file;
  int64_t bytes = 0;
  std::string digest = {};  // of the whole file; empty: not known
};

// A file of a result that is complete.
struct JobFileRecord {
  std::string file;  // path below the destination
  int64_t bytes = 0;
  std::string digest;
};

struct JobTensorRecord {
  std::string name;
  int64_t bytes = 0;  // of its input
  std::string report;
  int shard = 0;  // where its outputs are
};

// What is in the queue, for metrics.
struct QueueCount {
  JobState state = JobState::kQueued;  // or kRunning
  int priority = 0;
  int64_t jobs = 0;
  absl::Time oldest = absl::InfiniteFuture();      // made at
  absl::Duration estimate = absl::ZeroDuration();  // of all of them
};

class JobRecords {
 public:
  // Events kept of one job; older ones are trimmed.
  static constexpr int64_t kMaxEvents = 64;
  static constexpr size_t kMaxListBytes = size_t{8} << 20;
  // Of inline calibrations of one project's jobs that are not done.
  static constexpr int64_t kMaxInlineBytes = int64_t{64} << 20;

  virtual ~JobRecords() = default;

  struct Created {
    enum Outcome {
      kMade,
      kExisted,    // a job of that project has this request_id: it
      kQueueFull,  // nothing was made, as below
      kDestinationInUse,
      kInputGone,  // nothing of the project refers to a blob of `inputs`
      kInlineFull  // more than kMaxInlineBytes of the project
    };
    Outcome outcome = kMade;
    JobRecord job;
  };
  // Stores a job with its first event, unless `max_queued` jobs of the project
  // are queued already.
  virtual absl::StatusOr<Created> Create(const JobRecord& job,
                                         int64_t max_queued) = 0;

  // Errors: NOT_FOUND.
  virtual absl::StatusOr<JobRecord> Get(const JobKey& key) = 0;
  virtual absl::StatusOr<std::optional<JobRecord>> FindRequest(
      const std::string& project, const std::string& request_id) = 0;
  // Of a job that is not done, by name.
  virtual absl::StatusOr<std::vector<JobInput>> Inputs(const JobKey& key) = 0;
  // Of a job that is not done; empty: it came without. Errors: NOT_FOUND.
  virtual absl::StatusOr<std::string> InlineCalibration(const JobKey& key) = 0;
  // Newest first, without `plan`. Ends before `limit` behind kMaxListBytes of
  // specs.
  virtual absl::StatusOr<std::vector<JobRecord>> List(
      const JobQuery& query) = 0;

  struct Updated {
    JobRecord job;
    // Whether there is an event for it, with job.revision.
    std::optional<JobEventRecord> event;
  };
  // Reads, lets `change` change, and writes, as one. `change` may run again; an
  // error of it is returned and nothing changes. Errors: NOT_FOUND; those of
  // `change`.
  using Change = std::function<absl::Status(JobRecord& job)>;
  virtual absl::StatusOr<Updated> Update(const JobKey& key, absl::Time now,
                                         const Change& change) = 0;
  // With all that belongs to it, if `allowed` agrees. Errors: NOT_FOUND; those
  // of `allowed`.
  virtual absl::Status Delete(
      const JobKey& key,
      const std::function<absl::Status(const JobRecord&)>& allowed) = 0;
  // Deletes the terminal jobs that ended first until `keep` are left. Those
  // that succeeded and are `stored` stay, and do not count.
  virtual absl::Status TrimHistory(int64_t keep) = 0;

  // --- for the scheduler
  // The queued job of the highest priority, of those the oldest, of a project
  // that is not in `full`, that can begin; of a project in `no_more_open`: that
  // waits for nothing.
  virtual absl::StatusOr<std::optional<JobRecord>> NextQueued(
      const std::set<std::string>& full,
      const std::set<std::string>& no_more_open = {}) = 0;
  virtual absl::StatusOr<std::vector<JobKey>> Running() = 0;
  // Queued jobs whose deadline is not after `now`, 100 at most.
  virtual absl::StatusOr<std::vector<JobKey>> QueueTimedOut(absl::Time now) = 0;
  // Calibrations for which a job waits.
  virtual absl::StatusOr<std::vector<CalibrationKey>> Awaited() = 0;
  // Lets `change` change the `waiting` of all jobs, queued and running ones,
  // that wait for the calibration, as one; it may run again. Returns whether
  // one may begin now, or waits for nothing any more.
  virtual absl::StatusOr<bool> UpdateWaiting(
      const CalibrationKey& calibration,
      const std::function<void(JobWait&)>& change) = 0;
  // A job that is not done and uses the calibration, but for `except`.
  virtual absl::StatusOr<std::optional<JobKey>> UserOf(
      const CalibrationKey& calibration, const JobKey& except) = 0;
  // Queued and running ones, by state and priority; empty ones are left out.
  virtual absl::StatusOr<std::vector<QueueCount>> QueueCounts() = 0;

  // --- what a run has done
  // One step: the shard, if there is one, the reports (in place of earlier ones
  // of the same tensor), and, with a shard, no crashes any more. Errors:
  // FAILED_PRECONDITION — the job is not running with this attempt.
  virtual absl::Status Commit(const JobKey& key, int attempt,
                              const std::optional<ShardRecord>& shard,
                              const std::vector<JobTensorRecord>& tensors) = 0;
  virtual absl::StatusOr<std::vector<ShardRecord>> Shards(
      const JobKey& key) = 0;
  // By name. An error of `each` ends it.
  virtual absl::Status Tensors(
      const JobKey& key,
      const std::function<absl::Status(const JobTensorRecord&)>& each) = 0;
  // Those of one shard, by name, from the one behind `after` on; `limit` at
  // most.
  virtual absl::StatusOr<std::vector<JobTensorRecord>> ShardTensors(
      const JobKey& key, int shard, const std::string& after,
      int64_t limit) = 0;
  // Errors: NOT_FOUND.
  virtual absl::StatusOr<JobTensorRecord> Tensor(const JobKey& key,
                                                 const std::string& name) = 0;
  // In place of those that were kept; in this order. Errors: NOT_FOUND.
  virtual absl::Status SetFiles(const JobKey& key,
                                const std::vector<JobFileRecord>& files) = 0;
  // `limit` of them, without the first `skip`.
  virtual absl::StatusOr<std::vector<JobFileRecord>> Files(const JobKey& key,
                                                           int64_t skip,
                                                           int64_t limit) = 0;
  // Forgets shards, tensors and files.
  virtual absl::Status StartOver(const JobKey& key) = 0;

  // Those kept with a revision above `after`, in order.
  virtual absl::StatusOr<std::vector<JobEventRecord>> Events(const JobKey& key,
                                                             int64_t after) = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_JOB_RECORDS_H_

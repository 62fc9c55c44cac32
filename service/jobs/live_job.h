// LiveJob: one attempt of one job, from its record to its end.
//
//   Start -> prepare (resolve, plan, compare fingerprints) -> the run
//         -> digest -> PublishJob -> rename -> SucceedJob
//         or, stopped: CANCELLED, back to the queue, FAILED
//
// Every step that may block is on the IoPool. Thread: thread-safe.
#ifndef QS_SERVICE_JOBS_LIVE_JOB_H_
#define QS_SERVICE_JOBS_LIVE_JOB_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "quant/v1/jobs.pb.h"
#include "service/jobs/job_log.h"
#include "service/jobs/job_output.h"
#include "service/jobs/jobs_context.h"

namespace qs {

class LiveJob final : public CheckpointRunObserver,
                      public std::enable_shared_from_this<LiveJob> {
 public:
  enum class Why { kGoOn, kCancelled, kDrained, kTimedOut };

  // What it tells. Called on the IoPool.
  struct Listener {
    std::function<void(const JobRecords::Updated&)> changed;
    // Once, last: nothing runs any more. The job is terminal or queued, unless
    // its records could not be written.
    std::function<void(LiveJob&, const JobRecord&)> ended;
    // parked or waits is another.
    std::function<void()> waiting_changed = [] {};
  };

  // `job` was just started (StartJob). `context` outlives it.
  LiveJob(const JobsContext& context, JobRecord job, Listener listener);

  void Start();
  // The first reason counts. Its end follows within a second.
  void Stop(Why why);
  // After an end that could not be recorded: tries again. `give_up`: the last
  // time; the job is then taken for crashed by the next process.
  void RetryEnd(bool give_up);

  // Of the project and calibration of the job, with more sites sealed.
  void SitesSealed(const std::shared_ptr<const CalibrationSource>& moments);

  const JobKey& key() const { return key_; }
  const std::string& calibration() const { return calibration_; }
  int crashes() const { return crashes_; }
  // Sites that it needs are open; and nothing else is left to do.
  bool waits() const { return waits_; }
  bool parked() const { return parked_; }
  absl::Time started() const { return started_; }
  absl::Duration execution_timeout() const { return execution_timeout_; }
  quant::v1::JobProgress progress() const;

  void OnBytes(int64_t bytes) override { bytes_ += bytes; }
  absl::Status OnTensor(int shard, const quant::v1::TensorReport& report,
                        const QuantizedTensor& result) override;
  absl::Status OnShard(int shard, const std::string& file,
                       int64_t bytes) override;
  void OnWaiting(int64_t tensors, bool parked) override;

 private:
  void Prepare();
  absl::Status PrepareRun();
  // What earlier attempts have done that still counts.
  absl::StatusOr<std::set<int>> Adopt(const std::string& fingerprint);
  absl::Status CountAdopted(size_t shards);
  void StartRun(const std::set<int>& committed);
  void LookAgain();
  void ForgetCrashes();

  void Finish(const absl::Status& status);
  absl::Status Complete();
  absl::Status RecordFiles(const OutputDigest& output);
  void StopNow(const absl::Status& status);
  void EndWith(JobRecords::Change change, bool keep_output);
  absl::Status Flush() ABSL_LOCKS_EXCLUDED(commits_);
  std::vector<JobTensorRecord> TakeUnwritten();
  absl::StatusOr<JobRecord> Change(const JobRecords::Change& change);
  Why why() const;
  std::shared_ptr<CheckpointRun> Run() const;
  void SetPhase(quant::v1::JobProgress::Phase phase) { phase_ = phase; }

  const JobsContext& context_;
  const JobKey key_;
  const int attempt_;
  std::atomic<int> crashes_;
  const JobLog log_;
  const absl::Time started_;
  const std::string destination_;
  const std::string staging_;
  const bool stored_;
  const std::string calibration_;  // id of the project's; empty: none
  // Files that this attempt wrote, digested while the next one is made. One
  // shard is told at a time, and none after the run's end.
  std::map<std::string, FileDigest> digests_;
  const quant::v1::Job spec_;
  // Set before the run starts.
  RunSize size_;
  JobWait wait_;
  bool resumed_ = false;  // shards of an earlier attempt count
  const absl::Duration execution_timeout_;
  const Listener listener_;

  std::atomic<int> phase_;
  std::atomic<int64_t> tensors_ = 0;
  std::atomic<int64_t> bytes_ = 0;
  std::atomic<int64_t> shards_ = 0;
  std::atomic<int64_t> tensors_waiting_ = 0;
  std::atomic<bool> waits_;
  std::atomic<bool> parked_ = false;
  std::atomic<int64_t> tensors_total_ = 0;
  std::atomic<int64_t> bytes_total_ = 0;
  std::atomic<int64_t> shards_total_ = 0;

  // Held while reports are taken and committed, so that none is still on its
  // way when its shard is committed. Before mutex_.
  absl::Mutex commits_;
  mutable absl::Mutex mutex_;
  Why why_ ABSL_GUARDED_BY(mutex_) = Why::kGoOn;
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<CheckpointRun> run_ ABSL_GUARDED_BY(mutex_);
  std::vector<JobTensorRecord> unwritten_ ABSL_GUARDED_BY(mutex_);
  // An end that could not be recorded.
  JobRecords::Change unrecorded_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_LIVE_JOB_H_

// JobScheduler: which job runs when. One thread decides; the work is on the
// server's workers and its IoPool.
//
//   queue order   priority, then age; projects at their limit are passed over
//   open sites    a job begins when one of its tensors can; while all that is
//                 left of it waits (LiveJob::parked) it takes no place of
//                 those that run. When more is sealed it goes on at once, even
//                 beyond max_running. So many of a project may have open
//                 sites at a time (max_open_in_project); others wait in the
//                 queue until all of theirs are sealed, or one of these places
//                 is free. No project takes another's
//   suspects      a job that was running when two processes in a row ended
//                 runs alone, so that it takes nobody with it
//   drain         what runs goes back to the queue, at no charge
//
// Thread: thread-safe, but Recover and Start: once, in that order.
#ifndef QS_SERVICE_JOBS_JOB_SCHEDULER_H_
#define QS_SERVICE_JOBS_JOB_SCHEDULER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "quant/v1/jobs.pb.h"
#include "service/jobs/job_hub.h"
#include "service/jobs/jobs_context.h"
#include "service/jobs/live_job.h"

namespace qs {

struct JobSchedulerOptions {
  int64_t max_running = 2;  // but for those that are parked
  int64_t max_running_in_project = 2;
  int64_t max_open_in_project = 2;  // running or parked, with open sites
  int64_t history = 1000;           // jobs that are done and kept
  // Between two looks at clocks and progress.
  absl::Duration tick = absl::Milliseconds(250);
};

class JobScheduler {
 public:
  // Both outlive it.
  JobScheduler(const JobsContext& context, JobHub& hub,
               JobSchedulerOptions options);
  // As StartDraining; returns when nothing runs.
  ~JobScheduler();
  JobScheduler(const JobScheduler&) = delete;
  JobScheduler& operator=(const JobScheduler&) = delete;

  // Jobs of a process that is gone: back to the queue, or what CrashJob says;
  // one that was publishing is SUCCEEDED if its result has its name. Blocks.
  absl::Status Recover();
  void Start();

  // A job may be there that can start, or a clock has moved.
  void Wake();
  // Sites of the calibration were sealed, durably. Blocks.
  void SitesSealed(const CalibrationRecord& calibration);
  // CancelJob on the record, and on what runs. Blocks.
  absl::StatusOr<JobRecord> Cancel(const JobKey& key);
  // Of a job that runs.
  std::optional<quant::v1::JobProgress> ProgressOf(const JobKey& key) const;

  // Nothing starts from now on, what runs stops.
  void StartDraining();
  bool draining() const;
  // Parked ones too.
  int64_t running() const;
  bool WaitIdle(absl::Duration limit) const;

 private:
  using Live = std::shared_ptr<LiveJob>;

  absl::Status RecoverOne(const JobKey& key);
  // After a change of the state: logs it; of what is done, only the record
  // stays.
  void Settle(const JobRecord& job);
  void Work();
  void LookOnce();
  void StartMore();
  // False: there is nothing that can start now.
  absl::StatusOr<bool> StartOne();
  // Who may start now; nullopt: nobody.
  struct Places {
    // Projects: of which none may, and none with open sites.
    std::set<std::string> full;
    std::set<std::string> no_more_open;
  };
  std::optional<Places> FreePlaces() const;
  bool StartsAlone(const JobRecord& job) const;
  absl::Status FailOverdue();
  void StopOverdue();
  void PublishProgress();
  void Ended(LiveJob& live, const JobRecord& job);
  std::vector<Live> LiveJobs() const;
  bool Idle() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return live_.empty(); }
  bool Woken() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return woken_ || stopping_;
  }

  const JobsContext& context_;
  JobHub& hub_;
  const JobSchedulerOptions options_;
  // The thread's.
  absl::Time last_progress_ = absl::InfinitePast();
  absl::Time last_hub_tick_ = absl::InfinitePast();
  bool start_again_ = false;

  mutable absl::Mutex mutex_;
  std::map<JobKey, Live> live_ ABSL_GUARDED_BY(mutex_);
  bool woken_ ABSL_GUARDED_BY(mutex_) = true;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_SCHEDULER_H_

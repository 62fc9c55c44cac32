// JobPace: how long jobs take on this server, against what was estimated before
// there were any. One factor a method, which moves half way with each job.
//
// It begins anew with the process. Thread: thread-safe.
#ifndef QS_SERVICE_JOBS_JOB_PACE_H_
#define QS_SERVICE_JOBS_JOB_PACE_H_

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "service/run/checkpoint_run.h"

namespace qs {

class JobPace {
 public:
  // Cores that jobs have, >= 1.
  explicit JobPace(int cores) : cores_(cores) {}

  absl::Duration Estimate(const RunSize& size) const;
  // A whole run took so long: one that did every tensor.
  void Learn(const RunSize& size, absl::Duration took);

 private:
  const int cores_;
  mutable absl::Mutex mutex_;
  std::map<std::string, double> factors_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_PACE_H_

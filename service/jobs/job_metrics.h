// What is counted of jobs. Names and labels: README.
#ifndef QS_SERVICE_JOBS_JOB_METRICS_H_
#define QS_SERVICE_JOBS_JOB_METRICS_H_

#include <functional>

#include "absl/time/time.h"
#include "service/base/metrics.h"
#include "service/store/job_records.h"

namespace qs {

// A job came to its end: its duration from the last start, and its attempts.
void CountJobEnd(const JobRecord& job);
// A process ended while the job ran.
void CountJobCrash();

// The queue as it is at each scrape; one read of the records for each source.
// Thread: thread-safe.
class QueueMetrics {
 public:
  // Outlives it.
  explicit QueueMetrics(JobRecords& records);

 private:
  const MetricSource jobs_;
  const MetricSource oldest_;
  const MetricSource seconds_;
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_METRICS_H_

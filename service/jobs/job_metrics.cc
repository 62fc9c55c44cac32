// Tested by tests/e2e/metrics_test.py.
#include "service/jobs/job_metrics.h"

#include <algorithm>
#include <string>

#include "absl/time/clock.h"
#include "quant/quant_spec.h"
#include "quant/v1/jobs.pb.h"
#include "service/jobs/job.h"
#include "service/server/spec_convert.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

std::string StateName(JobState state) {
  return v1::Job::State_Name(static_cast<v1::Job::State>(state));
}

// Zero for what is not there, so that a series does not come and go.
MetricValues JobsByState(JobRecords& records) {
  MetricValues values;
  const auto counts = records.QueueCounts();
  if (!counts.ok()) return values;
  for (const JobState state : {JobState::kQueued, JobState::kRunning}) {
    for (int priority = v1::Job::BATCH; priority <= v1::Job::URGENT;
         ++priority) {
      double jobs = 0;
      for (const QueueCount& count : *counts) {
        if (count.state == state && count.priority == priority) {
          jobs = static_cast<double>(count.jobs);
        }
      }
      values.push_back(
          {{{"state", StateName(state)},
            {"priority", v1::Job::Priority_Name(v1::Job::Priority(priority))}},
           jobs});
    }
  }
  return values;
}

MetricValues OldestSeconds(JobRecords& records) {
  const auto counts = records.QueueCounts();
  if (!counts.ok()) return {};
  const absl::Time now = absl::Now();
  absl::Time oldest = now;
  for (const QueueCount& count : *counts) {
    if (count.state == JobState::kQueued) {
      oldest = std::min(oldest, count.oldest);
    }
  }
  return {{{}, absl::ToDoubleSeconds(now - oldest)}};
}

MetricValues QueuedSeconds(JobRecords& records) {
  const auto counts = records.QueueCounts();
  if (!counts.ok()) return {};
  double seconds = 0;
  for (const QueueCount& count : *counts) {
    if (count.state != JobState::kQueued) continue;
    seconds += absl::ToDoubleSeconds(count.estimate);
  }
  return {{{}, seconds}};
}

// Of a closed set. What is queued is legal; "unknown" is for records of another
// version.
std::string MethodOf(const JobRecord& job) {
  v1::Job spec;
  if (!spec.ParseFromString(job.spec)) return "unknown";
  const auto quant = SpecFromProto(spec.quantization());
  return quant.ok() ? SpecMethodName(*quant) : "unknown";
}

}  // namespace

void CountJobEnd(const JobRecord& job) {
  const MetricLabels labels = {{"method", MethodOf(job)},
                               {"result", StateName(job.state)}};
  // One that never ran took no time.
  const absl::Duration ran = job.started > absl::InfinitePast()
                                 ? job.ended - job.started
                                 : absl::ZeroDuration();
  HistogramOf("quantd_job_duration_seconds",
              "From the last start of a job to its end", SecondsBuckets(),
              labels)
      .Observe(absl::ToDoubleSeconds(ran));
  HistogramOf("quantd_job_attempts", "Attempts of jobs that are done",
              {1, 2, 3, 5, 10}, labels)
      .Observe(job.attempt);
  if (job.state != JobState::kFailed || job.crashes < kMaxCrashes) return;
  CounterOf("quantd_jobs_quarantined_total",
            "Jobs that failed because processes ended while they ran")
      .Increment();
}

void CountJobCrash() {
  static Counter& crashes =
      CounterOf("quantd_job_crashes_total",
                "Jobs that were running when a process of the server ended");
  crashes.Increment();
}

QueueMetrics::QueueMetrics(JobRecords& records)
    : jobs_(MetricKind::kGauge, "quantd_queue_jobs",
            "Jobs that wait or run, by state and priority",
            [&records] { return JobsByState(records); }),
      oldest_(MetricKind::kGauge, "quantd_queue_oldest_seconds",
              "Age of the oldest job that waits; 0: none does",
              [&records] { return OldestSeconds(records); }),
      seconds_(MetricKind::kGauge, "quantd_queue_gpu_seconds",
               "Time that the jobs that wait would take one after the other on "
               "this server's workers, as their plans estimated it when they "
               "were made: of GPUs, where it has some, else of CPU workers",
               [&records] { return QueuedSeconds(records); }) {}

}  // namespace qs

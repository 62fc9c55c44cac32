// JobServer: everything about jobs that a server has — scheduler, watches, RPCs
// — from start to drain.
// Thread: Start from one thread; the rest thread-safe.
#ifndef QS_SERVICE_JOBS_JOB_SERVER_H_
#define QS_SERVICE_JOBS_JOB_SERVER_H_

#include <cstdint>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/impl/service_type.h"
#include "service/access/access.h"
#include "service/jobs/job_calibrations.h"
#include "service/jobs/job_hub.h"
#include "service/jobs/job_metrics.h"
#include "service/jobs/job_scheduler.h"
#include "service/jobs/job_service.h"
#include "service/jobs/jobs_context.h"
#include "service/tensors/live_calls.h"

namespace qs {

struct JobServerOptions {
  JobSchedulerOptions scheduler;
  int64_t max_queued = 10'000;   // of each project
  int64_t max_watches = 10'000;  // on the whole server
  int64_t max_reads = 32;        // of results, on the whole server
  absl::Duration stream_idle_timeout = absl::Seconds(60);
  // A watch without an event for so long gets a bookmark.
  absl::Duration bookmark_interval = absl::Seconds(15);
};

class JobServer {
 public:
  // All outlive it. Destroyed after the gRPC server was shut down; waits for
  // what runs.
  JobServer(JobsContext context, const AccessControl& access,
            const JobServerOptions& options)
      : context_(std::move(context)),
        hub_(options.max_watches),
        calls_(options.max_reads, options.stream_idle_timeout),
        scheduler_(context_, hub_, options.scheduler),
        calibrations_(
            context_,
            [this](const CalibrationRecord& calibration) {
              scheduler_.SitesSealed(calibration);
            },
            [this] { scheduler_.Wake(); }),
        metrics_(context_.records),
        service_(context_, hub_, scheduler_, access, calls_, options.max_queued,
                 options.bookmark_interval) {}
  ~JobServer();

  // Takes up the jobs of the process before. Errors: the records'.
  absl::Status Start();
  grpc::Service& service() { return service_; }
  CalibrationUsers& calibrations() { return calibrations_; }

  // New jobs, watches and reads are refused, watches and reads that wait for a
  // job end, what runs goes back to the queue.
  void StartDraining();
  // Reads end with DRAINING.
  void EndAll() { calls_.EndAll(); }
  bool idle() const { return scheduler_.running() == 0; }
  int64_t watches() const { return hub_.watches(); }
  int64_t live_streams() const { return calls_.live(); }

 private:
  void EndStalledReads();

  const JobsContext context_;
  JobHub hub_;
  LiveCalls calls_;  // ReadResult
  JobScheduler scheduler_;
  JobCalibrations calibrations_;
  const QueueMetrics metrics_;
  JobServiceImpl service_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::jthread sweeper_;  // last: ends first
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_SERVER_H_

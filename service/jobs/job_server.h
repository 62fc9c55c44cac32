// JobServer: everything about jobs that a server has — scheduler, watches, RPCs
// — from start to drain.
// Thread: Start from one thread; the rest thread-safe.
#ifndef QS_SERVICE_JOBS_JOB_SERVER_H_
#define QS_SERVICE_JOBS_JOB_SERVER_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/impl/service_type.h"
#include "service/access/access.h"
#include "service/jobs/job_hub.h"
#include "service/jobs/job_metrics.h"
#include "service/jobs/job_scheduler.h"
#include "service/jobs/job_service.h"
#include "service/jobs/jobs_context.h"

namespace qs {

struct JobServerOptions {
  JobSchedulerOptions scheduler;
  int64_t max_queued = 10'000;   // of each project
  int64_t max_watches = 10'000;  // on the whole server
};

class JobServer {
 public:
  // All outlive it. Destroyed after the gRPC server was shut down; waits for
  // what runs.
  JobServer(JobsContext context, const AccessControl& access,
            const JobServerOptions& options)
      : context_(std::move(context)),
        hub_(options.max_watches),
        scheduler_(context_, hub_, options.scheduler),
        metrics_(context_.records),
        service_(context_, hub_, scheduler_, access, options.max_queued) {}

  // Takes up the jobs of the process before. Errors: the records'.
  absl::Status Start();
  grpc::Service& service() { return service_; }

  // New jobs and watches are refused, watches end, what runs goes back to the
  // queue.
  void StartDraining();
  bool idle() const { return scheduler_.running() == 0; }
  int64_t watches() const { return hub_.watches(); }

 private:
  const JobsContext context_;
  JobHub hub_;
  JobScheduler scheduler_;
  const QueueMetrics metrics_;
  JobServiceImpl service_;
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_SERVER_H_

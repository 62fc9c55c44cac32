// JobServiceImpl: the RPCs of quant.v1.JobService. Each finds out who calls and
// leaves the rest to a task on the IoPool.
#ifndef QS_SERVICE_JOBS_JOB_SERVICE_H_
#define QS_SERVICE_JOBS_JOB_SERVICE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "quant/v1/jobs.grpc.pb.h"
#include "service/access/access.h"
#include "service/jobs/job_hub.h"
#include "service/jobs/job_scheduler.h"
#include "service/jobs/jobs_context.h"
#include "service/jobs/read_result_call.h"
#include "service/jobs/watch_call.h"
#include "service/server/served_call.h"

namespace qs {

class JobServiceImpl final : public quant::v1::JobService::CallbackService {
 public:
  // All outlive the gRPC server. `max_queued`: of each project.
  JobServiceImpl(const JobsContext& context, JobHub& hub,
                 JobScheduler& scheduler, const AccessControl& access,
                 LiveCalls& calls, int64_t max_queued,
                 absl::Duration bookmark_interval = absl::Seconds(15))
      : context_(context),
        scheduler_(scheduler),
        access_(access),
        max_queued_(max_queued),
        watches_{context.records, hub, context.io, bookmark_interval},
        reads_{context, hub, access, calls} {}

  grpc::ServerUnaryReactor* CreateJob(
      grpc::CallbackServerContext* call,
      const quant::v1::CreateJobRequest* request,
      quant::v1::Job* response) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* call,
                                   const quant::v1::GetJobRequest* request,
                                   quant::v1::Job* response) override;
  grpc::ServerUnaryReactor* ListJobs(
      grpc::CallbackServerContext* call,
      const quant::v1::ListJobsRequest* request,
      quant::v1::ListJobsResponse* response) override;
  grpc::ServerUnaryReactor* CancelJob(
      grpc::CallbackServerContext* call,
      const quant::v1::CancelJobRequest* request,
      quant::v1::Job* response) override;
  grpc::ServerUnaryReactor* DeleteJob(
      grpc::CallbackServerContext* call,
      const quant::v1::DeleteJobRequest* request,
      google::protobuf::Empty* response) override;
  WatchReactor* WatchJob(grpc::CallbackServerContext* call,
                         const quant::v1::WatchJobRequest* request) override;
  grpc::ServerWriteReactor<quant::v1::ReadResultResponse>* ReadResult(
      grpc::CallbackServerContext* call,
      const quant::v1::ReadResultRequest* request) override;

 private:
  using Body = std::function<absl::Status(const Caller&, const ServedCall&)>;

  // Runs `body` on the IoPool and finishes the call with what it returns.
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* call,
                                   const char* rpc, Role needed, Body body);
  absl::StatusOr<JobKey> KeyOf(const Caller& caller,
                               const std::string& name) const;

  absl::Status Create(const Caller& caller, const ServedCall& served,
                      const quant::v1::CreateJobRequest& request,
                      quant::v1::Job* response);
  absl::Status List(const Caller& caller,
                    const quant::v1::ListJobsRequest& request,
                    quant::v1::ListJobsResponse* response);
  absl::Status Delete(const JobKey& key);
  // With the progress of one that runs.
  quant::v1::Job ToProto(const JobRecord& job) const;

  const JobsContext& context_;
  JobScheduler& scheduler_;
  const AccessControl& access_;
  const int64_t max_queued_;
  WatchContext watches_;
  ReadResultContext reads_;
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_SERVICE_H_

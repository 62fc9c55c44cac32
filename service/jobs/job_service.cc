// Tested by tests/service/jobs/job_service_test.cc.
#include "service/jobs/job_service.h"

#include <memory>
#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"
#include "service/jobs/job_creator.h"
#include "service/jobs/job_messages.h"
#include "service/jobs/job_request.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

// Below the 4 MiB of a message; and less than a list may end behind, so that
// one which did is known to go on.
constexpr size_t kMaxPageBytes = size_t{3} << 20;
static_assert(kMaxPageBytes < JobRecords::kMaxListBytes);

absl::Status DoneOnly(const JobRecord& job) {
  if (IsTerminal(job.state)) return absl::OkStatus();
  const std::string state =
      v1::Job::State_Name(static_cast<v1::Job::State>(job.state));
  return RpcError(absl::StatusCode::kFailedPrecondition, "BAD_STATE",
                  "job " + job.key.id + ": got " + state +
                      ", allowed one that is done: cancel it first",
                  {{"state", state}});
}

}  // namespace

absl::StatusOr<JobKey> JobServiceImpl::KeyOf(const Caller& caller,
                                             const std::string& name) const {
  QS_ASSIGN_OR_RETURN(std::string id, IdFromName(caller, "name", "jobs", name));
  return JobKey{caller.project, std::move(id)};
}

grpc::ServerUnaryReactor* JobServiceImpl::Answer(
    grpc::CallbackServerContext* call, const char* rpc, Role needed,
    Body body) {
  grpc::ServerUnaryReactor* const reactor = call->DefaultReactor();
  const auto served = std::make_shared<ServedCall>(rpc, *call);
  const auto finish = [reactor, served](const absl::Status& status) {
    served->End(status);
    reactor->Finish(ToGrpcStatus(status));
  };
  const absl::StatusOr<Caller> caller =
      served->Authorize(access_, *call, needed);
  if (!caller.ok()) {
    finish(caller.status());
    return reactor;
  }
  const bool taken = context_.io.TryRun(
      [finish, served, caller = *caller, body = std::move(body)] {
        finish(body(caller, *served));
      });
  if (!taken) {
    finish(RetryableError(absl::StatusCode::kResourceExhausted, "SERVER_BUSY",
                          "too many calls wait"));
  }
  return reactor;
}

v1::Job JobServiceImpl::ToProto(const JobRecord& job) const {
  v1::Job out = JobToProto(job);
  if (job.state != JobState::kRunning) return out;
  if (const auto progress = scheduler_.ProgressOf(job.key)) {
    *out.mutable_progress() = *progress;
  }
  return out;
}

absl::Status JobServiceImpl::Create(const Caller& caller,
                                    const ServedCall& served,
                                    const v1::CreateJobRequest& request,
                                    v1::Job* response) {
  if (scheduler_.draining()) return DrainingError();
  QS_ASSIGN_OR_RETURN(
      const JobRecord job,
      CreateJobRecord(context_, caller.project, request, max_queued_,
                      served.trace().Traceparent()));
  if (request.validate_only()) {
    *response = JobToProto(job);
    response->clear_name();
    response->clear_state();
    response->clear_attempt();
    response->clear_revision();
    response->clear_create_time();
    return absl::OkStatus();
  }
  scheduler_.Wake();
  *response = ToProto(job);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* JobServiceImpl::CreateJob(
    grpc::CallbackServerContext* call, const v1::CreateJobRequest* request,
    v1::Job* response) {
  return Answer(call, "CreateJob", Role::kUser,
                [this, request, response](const Caller& caller,
                                          const ServedCall& served) {
                  return Create(caller, served, *request, response);
                });
}

grpc::ServerUnaryReactor* JobServiceImpl::GetJob(
    grpc::CallbackServerContext* call, const v1::GetJobRequest* request,
    v1::Job* response) {
  return Answer(call, "GetJob", Role::kReader,
                [this, request, response](const Caller& caller,
                                          const ServedCall&) -> absl::Status {
                  QS_ASSIGN_OR_RETURN(const JobKey key,
                                      KeyOf(caller, request->name()));
                  const auto job = context_.records.Get(key);
                  if (!job.ok()) return FromRecords(job.status());
                  *response = ToProto(*job);
                  return absl::OkStatus();
                });
}

absl::Status JobServiceImpl::List(const Caller& caller,
                                  const v1::ListJobsRequest& request,
                                  v1::ListJobsResponse* response) {
  QS_ASSIGN_OR_RETURN(JobQuery query, QueryFromRequest(request));
  query.project = caller.project;
  const auto page = static_cast<size_t>(query.limit);
  ++query.limit;  // is there another page?
  const absl::StatusOr<std::vector<JobRecord>> jobs =
      context_.records.List(query);
  if (!jobs.ok()) return FromRecords(jobs.status());
  size_t bytes = 0;
  for (size_t i = 0; i < jobs->size(); ++i) {
    v1::Job job = ToProto((*jobs)[i]);
    bytes += job.ByteSizeLong();
    if (i == page || (i > 0 && bytes > kMaxPageBytes)) {
      response->set_next_page_token(
          PageToken(request, (*jobs)[i - 1].sequence));
      break;
    }
    *response->add_jobs() = std::move(job);
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* JobServiceImpl::ListJobs(
    grpc::CallbackServerContext* call, const v1::ListJobsRequest* request,
    v1::ListJobsResponse* response) {
  return Answer(
      call, "ListJobs", Role::kReader,
      [this, request, response](const Caller& caller, const ServedCall&) {
        return List(caller, *request, response);
      });
}

grpc::ServerUnaryReactor* JobServiceImpl::CancelJob(
    grpc::CallbackServerContext* call, const v1::CancelJobRequest* request,
    v1::Job* response) {
  return Answer(
      call, "CancelJob", Role::kUser,
      [this, request, response](const Caller& caller,
                                const ServedCall&) -> absl::Status {
        QS_ASSIGN_OR_RETURN(const JobKey key, KeyOf(caller, request->name()));
        QS_ASSIGN_OR_RETURN(const JobRecord job, scheduler_.Cancel(key));
        *response = ToProto(job);
        return absl::OkStatus();
      });
}

absl::Status JobServiceImpl::Delete(const JobKey& key) {
  bool stored = false;
  QS_RETURN_IF_ERROR(
      FromRecords(context_.records.Delete(key, [&](const JobRecord& job) {
        stored = job.stored;
        return DoneOnly(job);
      })));
  if (stored && context_.results != nullptr) context_.results->Remove(key);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* JobServiceImpl::DeleteJob(
    grpc::CallbackServerContext* call, const v1::DeleteJobRequest* request,
    google::protobuf::Empty*) {
  return Answer(
      call, "DeleteJob", Role::kUser,
      [this, request](const Caller& caller, const ServedCall&) -> absl::Status {
        QS_ASSIGN_OR_RETURN(const JobKey key, KeyOf(caller, request->name()));
        return Delete(key);
      });
}

WatchReactor* JobServiceImpl::WatchJob(grpc::CallbackServerContext* call,
                                       const v1::WatchJobRequest* request) {
  auto served = std::make_unique<ServedCall>("WatchJob", *call);
  const auto key = [&]() -> absl::StatusOr<JobKey> {
    QS_ASSIGN_OR_RETURN(const Caller caller,
                        served->Authorize(access_, *call, Role::kReader));
    return KeyOf(caller, request->name());
  }();
  return NewWatchCall(watches_, std::move(served), key,
                      request->from_revision());
}

grpc::ServerWriteReactor<v1::ReadResultResponse>* JobServiceImpl::ReadResult(
    grpc::CallbackServerContext* call, const v1::ReadResultRequest* request) {
  return NewReadResultCall(reads_, call, *request);
}

}  // namespace qs

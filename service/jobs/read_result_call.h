// ReadResultCall: one ReadResult call. A ResultReader makes its messages on the
// IoPool; the JobHub wakes it when the job has done more.
#ifndef QS_SERVICE_JOBS_READ_RESULT_CALL_H_
#define QS_SERVICE_JOBS_READ_RESULT_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "quant/v1/jobs.pb.h"
#include "service/access/access.h"
#include "service/jobs/job_hub.h"
#include "service/jobs/jobs_context.h"
#include "service/tensors/live_calls.h"

namespace qs {

// Outlives the calls. REQUIRES: jobs.results is set.
struct ReadResultContext {
  const JobsContext& jobs;
  JobHub& hub;
  const AccessControl& access;
  LiveCalls& calls;
};

// The reactor for one call; gRPC drives it from now on.
grpc::ServerWriteReactor<quant::v1::ReadResultResponse>* NewReadResultCall(
    ReadResultContext& context, grpc::CallbackServerContext* call,
    const quant::v1::ReadResultRequest& request);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_READ_RESULT_CALL_H_

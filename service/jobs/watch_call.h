// WatchCall: one WatchJob call. Its reactions only start writes; the job's
// record is read on the IoPool.
#ifndef QS_SERVICE_JOBS_WATCH_CALL_H_
#define QS_SERVICE_JOBS_WATCH_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quant/v1/jobs.pb.h"
#include "service/base/io_pool.h"
#include "service/jobs/job_hub.h"
#include "service/server/served_call.h"
#include "service/store/job_records.h"

namespace qs {

// Outlives the calls.
struct WatchContext {
  JobRecords& records;
  JobHub& hub;
  IoPool& io;
  absl::Duration bookmark_interval = absl::Seconds(15);
};

using WatchReactor = grpc::ServerWriteReactor<quant::v1::JobEvent>;

// The reactor for one call; gRPC drives it from now on. `key`, or the error
// that ends the call.
WatchReactor* NewWatchCall(WatchContext& context,
                           std::unique_ptr<ServedCall> served,
                           const absl::StatusOr<JobKey>& key,
                           int64_t from_revision);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_WATCH_CALL_H_

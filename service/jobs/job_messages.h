// Records of jobs to messages.
// Thread: pure functions.
#ifndef QS_SERVICE_JOBS_JOB_MESSAGES_H_
#define QS_SERVICE_JOBS_JOB_MESSAGES_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "google/rpc/status.pb.h"
#include "quant/v1/jobs.pb.h"
#include "service/store/job_records.h"

namespace qs {

absl::Duration DurationFromProto(const google::protobuf::Duration& duration);
google::protobuf::Duration DurationToProto(absl::Duration duration);
google::protobuf::Timestamp TimeToProto(absl::Time time);

// With the details that it has; see error.h.
google::rpc::Status ErrorToProto(const absl::Status& error);

// All that the record has.
quant::v1::Job JobToProto(const JobRecord& job);
quant::v1::JobEvent SnapshotToProto(const JobRecord& job);
// `job`: the record after a terminal event, else it may be null.
quant::v1::JobEvent EventToProto(const JobEventRecord& event,
                                 const JobRecord* job);

// An error of JobRecords as a client sees it: JOB_NOT_FOUND, DISK_FULL,
// STORE_FAILED; one that has a reason already stays as it is.
absl::Status FromRecords(const absl::Status& status);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_MESSAGES_H_

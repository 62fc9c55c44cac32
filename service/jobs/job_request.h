// What clients ask for, checked: the fields of a new job, a list's filter and
// page. Thread: pure functions. Errors: INVALID_ARGUMENT BAD_FIELD.
#ifndef QS_SERVICE_JOBS_JOB_REQUEST_H_
#define QS_SERVICE_JOBS_JOB_REQUEST_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/v1/jobs.pb.h"
#include "service/store/job_records.h"

namespace qs {

constexpr int kMaxJobLabels = 16;
constexpr size_t kMaxJobSpecBytes = size_t{256} << 10;  // serialized

// The request's job without what is output only.
absl::StatusOr<quant::v1::Job> SpecFromRequest(
    const quant::v1::CreateJobRequest& request);
// The same bytes for the same message in every process of this version.
std::string DeterministicBytes(const google::protobuf::Message& message);

// Project and page size are the caller's to add; the token's place is in
// `before`.
absl::StatusOr<JobQuery> QueryFromRequest(
    const quant::v1::ListJobsRequest& request);
// Of the page after the job with that sequence.
std::string PageToken(const quant::v1::ListJobsRequest& request,
                      int64_t sequence);

// 20 characters, later ones sorted behind earlier ones.
std::string NewJobId(absl::Time now);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_REQUEST_H_

// JobCreator: a CreateJob request to a job in the queue. Thread: thread-safe.
// Blocks: files are looked at and the plan is made.
#ifndef QS_SERVICE_JOBS_JOB_CREATOR_H_
#define QS_SERVICE_JOBS_JOB_CREATOR_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "quant/v1/jobs.pb.h"
#include "service/jobs/jobs_context.h"

namespace qs {

// Where the URIs of a spec lead, without the tensors that are uploaded.
// `output` is the destination itself; empty without one. Errors: those of the
// resolvers.
absl::StatusOr<CheckpointRunSpec> ResolveSpec(const JobsContext& context,
                                              const std::string& project,
                                              const quant::v1::Job& spec);

// Checks, plans and stores; answers a request that was made already with its
// job. Without a key: validate_only. `trace`: the call's traceparent. Errors:
// those of CreateJob.
absl::StatusOr<JobRecord> CreateJobRecord(
    const JobsContext& context, const std::string& project,
    const quant::v1::CreateJobRequest& request, int64_t max_queued,
    const std::string& trace);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_CREATOR_H_

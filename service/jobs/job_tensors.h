// Uploaded tensors as the source of a job.
// Thread: thread-safe. Everything blocks: on an IoPool.
#ifndef QS_SERVICE_JOBS_JOB_TENSORS_H_
#define QS_SERVICE_JOBS_JOB_TENSORS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/v1/jobs.pb.h"
#include "service/jobs/jobs_context.h"

namespace qs {

// Names with "-" as project become whole. Errors: IdFromName's.
absl::Status UseOwnTensors(const std::string& project,
                           quant::v1::JobTensors* tensors);

// Those that are named, or that the glob matches, as they are now. Errors:
// NOT_FOUND TENSOR_NOT_FOUND; INVALID_ARGUMENT BAD_FIELD — a tensor_name twice;
// RESOURCE_EXHAUSTED PLAN_TOO_LARGE; the store's.
absl::StatusOr<std::vector<JobInput>> FindTensors(
    const JobsContext& context, const std::string& project,
    const quant::v1::JobTensors& tensors);

// What the run reads.
void ReadInputs(const std::vector<JobInput>& inputs, CheckpointRunSpec* spec);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_TENSORS_H_

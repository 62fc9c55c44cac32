// The backends of the workers that the options ask for, and what is known of
// them while they work.
#ifndef QS_SERVICE_SERVER_WORKERS_H_
#define QS_SERVICE_SERVER_WORKERS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "quant/v1/quantization.pb.h"
#include "service/server/options.h"
#include "service/stream/worker_pool.h"

namespace qs {

// GPUs first, each with options.gpu_lanes lanes, then CPU partitions. `gpus`
// null: the program has none.
// Errors: FAILED_PRECONDITION "workers: got gpu:I: why it is not there".
absl::StatusOr<std::vector<std::unique_ptr<Backend>>> OpenWorkers(
    const ServerOptions& options, const GpuProvider* gpus);

// The GPUs that there are, used or not, or why there is none.
std::string DescribeGpus(const GpuProvider* gpus);
// As Capabilities.verified_on has it.
std::string GpusVerifiedOn(const GpuProvider* gpus);

// "gpu:0", "cpu:0", "cpu:1", ...
std::vector<std::string> WorkerNames(
    const std::vector<const Backend*>& backends);

quant::v1::DeviceInfo DescribeWorker(const Backend& backend,
                                     const WorkerPool::DeviceClaims& claims,
                                     int index, int threads);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_WORKERS_H_

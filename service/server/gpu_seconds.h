// quantd_gpu_kernel_seconds_total{method,phase}: what GPUs' workers have spent
// on tensors that are done. Thread: thread-safe.
#ifndef QS_SERVICE_SERVER_GPU_SECONDS_H_
#define QS_SERVICE_SERVER_GPU_SECONDS_H_

#include <string>

#include "quant/v1/quantization.pb.h"

namespace qs {

// Reports of this device, a Backend's description, are of a GPU from now on.
void AddGpuDescription(std::string description);

// Counts the phases of a report by a GPU's worker, waiting left out.
void CountGpuSeconds(const quant::v1::TensorReport& report);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_GPU_SECONDS_H_

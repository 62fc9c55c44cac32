// Error statistics on a CUDA device (or on the emulation, in tests).
#ifndef QS_KERNELS_CUDA_STATS_CUDA_H_
#define QS_KERNELS_CUDA_STATS_CUDA_H_

#include <memory>

#include "kernels/cuda/scratch.h"
#include "kernels/stats_ops.h"

namespace qs {

// Enqueues and returns at once; the results, `sums` and `rtn` among them, are
// device memory. Errors beside the interface's: those of `scratch`, which must
// outlive it.
// Thread: the caller's current device is used; one thread per device.
std::unique_ptr<StatsOps> NewStatsCuda(cuda::Scratch& scratch);

}  // namespace qs

#endif  // QS_KERNELS_CUDA_STATS_CUDA_H_

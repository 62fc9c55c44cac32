// Scratch: what an operation borrows from the worker whose device it runs on.
#ifndef QS_KERNELS_CUDA_SCRATCH_H_
#define QS_KERNELS_CUDA_SCRATCH_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/stream.h"

namespace qs::cuda {

// Thread: of the worker.
class Scratch {
 public:
  virtual ~Scratch() = default;
  // Device memory, aligned to 256 bytes, until the operation's results have
  // been taken. Errors: RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<void*> Take(int64_t bytes) = 0;
  // Waits for the stream. Errors: INTERNAL.
  virtual absl::Status CopyOut(void* host, const void* device, int64_t bytes,
                               Stream& stream) = 0;
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_SCRATCH_H_

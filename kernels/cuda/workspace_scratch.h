// WorkspaceScratch: the workspace of a worker, as its operations borrow it.
// Errors and alignment: as Scratch and Workspace. Thread: of the workspace,
// which must outlive it.
#ifndef QS_KERNELS_CUDA_WORKSPACE_SCRATCH_H_
#define QS_KERNELS_CUDA_WORKSPACE_SCRATCH_H_

#include <cstdint>

#include "kernels/cuda/scratch.h"
#include "kernels/cuda/workspace.h"

namespace qs::cuda {

class WorkspaceScratch final : public Scratch {
 public:
  explicit WorkspaceScratch(Workspace& workspace) : workspace_(workspace) {}
  absl::StatusOr<void*> Take(int64_t bytes) override {
    return workspace_.Take(bytes);
  }
  absl::Status CopyOut(void* host, const void* device, int64_t bytes,
                       Stream&) override {
    return workspace_.CopyOut(host, device, bytes);
  }

 private:
  Workspace& workspace_;
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_WORKSPACE_SCRATCH_H_

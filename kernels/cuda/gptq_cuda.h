// GptqOps on a CUDA device (or on the emulation, in tests): its parts, one a
// file.
#ifndef QS_KERNELS_CUDA_GPTQ_CUDA_H_
#define QS_KERNELS_CUDA_GPTQ_CUDA_H_

#include <memory>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/solver_call.h"
#include "kernels/cuda/workspace.h"
#include "kernels/gptq_ops.h"

namespace qs::cuda {

// All pointers of the arguments are device memory but `facts`. An `order` is
// not checked: whoever copied it to the device has done so (CheckGptqFactor,
// CheckGptqSolve). Scratch is the workspace's and the caller's to give back.
// Factor waits for its results, the others enqueue; all wait between
// checkpoints where that is more than a fraction of a second of work.
// Both must outlive it.
// Thread: of the workspace.
std::unique_ptr<GptqOps> NewGptqCuda(Workspace& workspace, Blas& blas);

absl::Status FactorCuda(const GptqFactorArgs& args, SolverCall& call);
absl::Status SolveCuda(const GptqSolveArgs& args, SolverCall& call);
absl::Status RefineCuda(const GptqRefineArgs& args, SolverCall& call);
absl::Status OutputErrorCuda(const GptqErrorArgs& args, SolverCall& call);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_GPTQ_CUDA_H_

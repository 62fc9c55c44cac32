// SolverCall: what the operations of one worker that need matrix products and
// scratch share: device memory, launches, copies, and when to ask whether to go
// on. Used by gram_cuda.cc, gptq_*_cuda.cc and awq_cuda.cc.
//
// Scratch is taken from the workspace; whoever calls the operation gives it
// back. Launches are made with the device current, copies between them, so an
// operation that waits for a result must not itself run inside Device::Launch.
// Thread: of the workspace.
#ifndef QS_KERNELS_CUDA_SOLVER_CALL_H_
#define QS_KERNELS_CUDA_SOLVER_CALL_H_

#include <algorithm>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/workspace.h"
#include "kernels/gptq_ops.h"

namespace qs::cuda {

class SolverCall {
 public:
  SolverCall(Workspace& workspace, Blas& blas)
      : workspace_(workspace), blas_(blas) {}

  // Device memory for `count` values. Errors: RESOURCE_EXHAUSTED.
  template <class T>
  absl::Status Take(int64_t count, T** memory) {
    QS_ASSIGN_OR_RETURN(void* taken,
                        workspace_.Take(count * int64_t{sizeof(T)}));
    *memory = static_cast<T*>(taken);
    return absl::OkStatus();
  }

  // The same with values from the host, which is free after it.
  template <class T>
  absl::Status TakeCopy(const T* host, int64_t count, T** memory) {
    QS_RETURN_IF_ERROR(Take(count, memory));
    return CopyIn(*memory, host, count);
  }
  template <class T>
  absl::Status CopyIn(T* memory, const T* host, int64_t count) {
    return workspace_.CopyIn(memory, host, count * int64_t{sizeof(T)});
  }

  // `launcher` returns a cudaError_t: of a kernel of ours.
  absl::Status Launch(const char* what, absl::FunctionRef<int()> launcher) {
    return workspace_.device().Launch(
        [&] { return FromCuda(launcher(), what); });
  }
  absl::Status Gemm(const GemmArgs& args) {
    Worked(static_cast<double>(args.m) * static_cast<double>(args.n) *
           static_cast<double>(args.k) * static_cast<double>(args.batch));
    return Library([&] { return blas_.Gemm(args, stream()); });
  }
  absl::Status Syrk(const SyrkArgs& args) {
    Worked(static_cast<double>(args.n) * static_cast<double>(args.n) *
           static_cast<double>(args.k) / 2);
    return Library([&] { return blas_.Syrk(args, stream()); });
  }
  absl::Status Trsm(const TrsmArgs& args) {
    Worked(static_cast<double>(args.m) * static_cast<double>(args.m) *
           static_cast<double>(args.n) / 2);
    return Library([&] { return blas_.Trsm(args, stream()); });
  }
  // Null: there is none.
  Cholesky* cholesky() const { return blas_.cholesky(); }
  // REQUIRES: there is one.
  absl::Status Factor(const CholeskyArgs& args) {
    Worked(static_cast<double>(args.n) * static_cast<double>(args.n) *
           static_cast<double>(args.n) / 6);
    return Library([&] { return cholesky()->Factor(args, stream()); });
  }
  absl::StatusOr<int64_t> FactorScratchBytes(bool in_f64, int64_t n,
                                             int64_t lda) {
    absl::StatusOr<int64_t> bytes = 0;
    QS_RETURN_IF_ERROR(Library([&] {
      bytes = cholesky()->ScratchBytes(in_f64, n, lda);
      return bytes.status();
    }));
    return bytes;
  }

  // Waits for everything before it.
  template <class T>
  absl::Status CopyOut(T* host, const T* memory, int64_t count) {
    enqueued_ = 0;
    return workspace_.CopyOut(host, memory, count * int64_t{sizeof(T)});
  }

  // Asks `check` (may be null) whether to go on. What is enqueued cannot be
  // stopped, so there is never more of it than takes a fraction of a second.
  absl::Status Check(const PanelCheck& check, double done) {
    if (enqueued_ > kMostEnqueued) {
      enqueued_ = 0;
      QS_RETURN_IF_ERROR(workspace_.Synchronize());
    }
    return check ? check(std::min(done, 1.0)) : absl::OkStatus();
  }

  cudaStream_t stream() const { return workspace_.native(); }

 private:
  // Multiplications: 0.1 s at the rate of F32 on a GPU of 2022.
  static constexpr double kMostEnqueued = 2e12;

  void Worked(double multiplications) { enqueued_ += multiplications; }

  // `call` is a library's. It has a CUDA runtime of its own, whose errors the
  // program's does not see, and few names for them: "execution failed" is a
  // lost device, but also a kernel whose code was to be loaded and found no
  // memory. So the device is asked. One that is past all that was enqueued goes
  // on, and the error is UNAVAILABLE: it may have been memory.
  absl::Status Library(absl::FunctionRef<absl::Status()> call) {
    absl::Status said;
    QS_RETURN_IF_ERROR(workspace_.device().Launch([&] {
      said = call();
      return absl::OkStatus();
    }));
    if (!absl::IsInternal(said)) return said;
    QS_RETURN_IF_ERROR(workspace_.Synchronize());
    return absl::UnavailableError(said.message());
  }

  Workspace& workspace_;
  Blas& blas_;
  double enqueued_ = 0;
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_SOLVER_CALL_H_

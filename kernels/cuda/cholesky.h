// Cholesky: the factorisation that the GPTQ operations take from a library
// where it is there (gptq_factor_cuda.cc says what for). Two implementations:
// cuSOLVER, loaded when a device is first used (cholesky_cuda.cc), and plain
// loops on the emulated device, for tests (blas_emulated.cc).
//
// Matrices, errors and threads: as Blas (blas.h).
#ifndef QS_KERNELS_CUDA_CHOLESKY_H_
#define QS_KERNELS_CUDA_CHOLESKY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_ops.h"

namespace qs::cuda {

// A = L L^T, A [n, n], L over A's lower triangle. What is above the diagonal is
// not read; nothing is said of what is left there.
struct CholeskyArgs {
  bool in_f64 = false;  // or F32
  int64_t n = 0;
  void* a = nullptr;
  int64_t lda = 0;
  void* scratch = nullptr;  // at least ScratchBytes
  int64_t scratch_bytes = 0;
  // Out: 0, or the number of the first leading minor that is not positive.
  int32_t* info = nullptr;
};

class Cholesky {
 public:
  virtual ~Cholesky() = default;
  virtual std::string description() const = 0;
  // What a factorisation of this type and shape takes of the device's memory.
  // Enqueues nothing.
  virtual absl::StatusOr<int64_t> ScratchBytes(bool in_f64, int64_t n,
                                               int64_t lda) = 0;
  virtual absl::Status Factor(const CholeskyArgs& args,
                              cudaStream_t stream) = 0;
};

// Where cuSOLVER is looked for. `major`, `directory`: as CublasPaths.
std::vector<std::string> CusolverPaths(int major, const std::string& directory);

// cuSOLVER on the current device. The library stays loaded.
// Errors: UNAVAILABLE — which library was not found or lacks what, and why.
absl::StatusOr<std::unique_ptr<Cholesky>> LoadCusolver(
    const std::vector<std::string>& paths);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_CHOLESKY_H_

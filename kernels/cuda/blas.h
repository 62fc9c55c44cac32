// Blas: the matrix products and triangular solves that the CUDA operations take
// from a library, and nothing else of it. Two implementations: cuBLAS, loaded
// when a device is first used (blas_cuda.cc), and plain loops on the emulated
// device, for tests (blas_emulated.cc). With it comes a library's Cholesky
// factorisation, where that was found.
//
// Matrices are as in BLAS: column-major, `ld` elements from column to column; a
// row-major [m, n] matrix is the transpose of one. Pointers are device memory.
// The same calls in the same order give the same bytes on the same device. With
// beta 0 what C held is not read.
// Errors: INVALID_ARGUMENT — a size beyond 2^31 - 1; RESOURCE_EXHAUSTED — the
// library found no memory, the device goes on; INTERNAL — the library's, which
// says nothing of whether the device goes on (SolverCall asks it).
// Thread: one thread at a time, the device current. Enqueues on `stream`.
#ifndef QS_KERNELS_CUDA_BLAS_H_
#define QS_KERNELS_CUDA_BLAS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "kernels/cuda/cholesky.h"
#include "kernels/cuda/cuda_ops.h"

namespace qs::cuda {

enum class BlasType {
  kF32,   // products and sums in F32
  kF64,   // in F64
  kF16,   // A and B F16, C F32: products exact, sums in F32
  kBF16,  // the same for BF16
  // F32 whose values have 11 significant bits (RoundToTf32): products exact,
  // sums in F32, on tensor cores.
  kTf32,
};

// C <- alpha op(A) op(B) + beta C, C [m, n], op(A) [m, k], op(B) [k, n].
// With a `batch` so many products of one shape in one operation, each matrix
// `stride` elements behind the one before it.
struct GemmArgs {
  BlasType type = BlasType::kF32;
  bool transpose_a = false;
  bool transpose_b = false;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  double alpha = 1;
  const void* a = nullptr;
  int64_t lda = 0;
  const void* b = nullptr;
  int64_t ldb = 0;
  double beta = 0;
  void* c = nullptr;
  int64_t ldc = 0;
  int64_t batch = 1;
  int64_t stride_a = 0;
  int64_t stride_b = 0;
  int64_t stride_c = 0;
};

// The lower triangle of C <- alpha A^T A + beta C, A [k, n], C [n, n]. F32 or
// F64.
struct SyrkArgs {
  BlasType type = BlasType::kF32;
  int64_t n = 0;
  int64_t k = 0;
  double alpha = 1;
  const void* a = nullptr;
  int64_t lda = 0;
  double beta = 0;
  void* c = nullptr;
  int64_t ldc = 0;
};

// B <- L^-T B, L the lower triangle of A [m, m], B [m, n]. F32 or F64.
struct TrsmArgs {
  BlasType type = BlasType::kF32;
  int64_t m = 0;
  int64_t n = 0;
  const void* a = nullptr;
  int64_t lda = 0;
  void* b = nullptr;
  int64_t ldb = 0;
};

class Blas {
 public:
  virtual ~Blas() = default;
  virtual std::string description() const = 0;
  virtual absl::Status Gemm(const GemmArgs& args, cudaStream_t stream) = 0;
  virtual absl::Status Syrk(const SyrkArgs& args, cudaStream_t stream) = 0;
  virtual absl::Status Trsm(const TrsmArgs& args, cudaStream_t stream) = 0;

  // Null: there is none, and operations do without.
  Cholesky* cholesky() const { return cholesky_.get(); }
  // Which there is, or why there is none.
  const std::string& cholesky_description() const {
    return cholesky_description_;
  }
  // Before any operation.
  void SetCholesky(absl::StatusOr<std::unique_ptr<Cholesky>> cholesky) {
    if (cholesky.ok()) {
      cholesky_ = *std::move(cholesky);
      cholesky_description_ = cholesky_->description();
    } else {
      cholesky_description_ = std::string(cholesky.status().message());
    }
  }

 private:
  std::unique_ptr<Cholesky> cholesky_;
  std::string cholesky_description_ = "cuSOLVER was not loaded";
};

// Where cuBLAS is looked for, in this order: `directory` if not empty, the
// loader's own search, the usual place of a toolkit. `major` is that of the
// CUDA runtime in the program.
std::vector<std::string> CublasPaths(int major, const std::string& directory);

// cuBLAS on the current device. The library stays loaded.
// Errors: UNAVAILABLE — which library was not found or lacks what, and why.
absl::StatusOr<std::unique_ptr<Blas>> LoadCublas(
    const std::vector<std::string>& paths);

// cuBLAS, and cuSOLVER where it is there. `major`, `directory`: as CublasPaths.
// Errors: as LoadCublas.
absl::StatusOr<std::unique_ptr<Blas>> LoadLibraries(
    int major, const std::string& directory);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_BLAS_H_

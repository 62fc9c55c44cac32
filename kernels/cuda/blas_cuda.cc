// cuBLAS through dlopen, so that one binary starts with and without it. Its
// headers are not needed: the few declarations below are its C interface, the
// same in CUDA 12 and 13.
// Tested by tests/kernels/cuda_blas_test.cc.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/library.h"

namespace qs::cuda {
namespace {

// cublas_api.h and library_types.h.
using Handle = void*;
using Status = int;
constexpr Status kSuccess = 0;
constexpr int kNoTranspose = 0, kTranspose = 1;
constexpr int kLower = 0, kLeft = 0, kNonUnit = 0;
constexpr int kCudaF32 = 0, kCudaF64 = 1, kCudaF16 = 2, kCudaBF16 = 14;
constexpr int kComputeF32 = 68, kComputeF64 = 70, kComputeTf32 = 77;
constexpr int kDefaultAlgorithm = -1;

struct Functions {
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  Status (*get_version)(Handle, int*);
  Status (*set_stream)(Handle, cudaStream_t);
  Status (*gemm_ex)(Handle, int, int, int, int, int, const void*, const void*,
                    int, int, const void*, int, int, const void*, void*, int,
                    int, int, int);
  Status (*gemm_batched)(Handle, int, int, int, int, int, const void*,
                         const void*, int, int, long long, const void*, int,
                         int, long long, const void*, void*, int, int,
                         long long, int, int, int);
  Status (*ssyrk)(Handle, int, int, int, int, const float*, const float*, int,
                  const float*, float*, int);
  Status (*dsyrk)(Handle, int, int, int, int, const double*, const double*, int,
                  const double*, double*, int);
  Status (*strsm)(Handle, int, int, int, int, int, int, const float*,
                  const float*, int, float*, int);
  Status (*dtrsm)(Handle, int, int, int, int, int, int, const double*,
                  const double*, int, double*, int);
};

absl::Status FromCublas(const char* call, Status status) {
  if (status == kSuccess) return absl::OkStatus();
  // CUBLAS_STATUS_ALLOC_FAILED: the device goes on.
  if (status == 3) {
    return absl::ResourceExhaustedError(absl::StrCat(call, ": no memory"));
  }
  return absl::InternalError(absl::StrCat(call, ": cuBLAS status ", status));
}

// What gemm_ex is told of a type.
struct TypeNumbers {
  int input;
  int output;
  int compute;
};

TypeNumbers NumbersOf(BlasType type) {
  switch (type) {
    case BlasType::kF64:
      return {kCudaF64, kCudaF64, kComputeF64};
    case BlasType::kF16:
      return {kCudaF16, kCudaF32, kComputeF32};
    case BlasType::kBF16:
      return {kCudaBF16, kCudaF32, kComputeF32};
    case BlasType::kTf32:
      return {kCudaF32, kCudaF32, kComputeTf32};
    default:
      return {kCudaF32, kCudaF32, kComputeF32};
  }
}

class Cublas final : public Blas {
 public:
  Cublas(const Functions& functions, Handle handle, std::string description)
      : functions_(functions),
        handle_(handle),
        description_(std::move(description)) {}
  ~Cublas() override { functions_.destroy(handle_); }

  std::string description() const override { return description_; }

  absl::Status Gemm(const GemmArgs& a, cudaStream_t stream) override {
    QS_RETURN_IF_ERROR(
        CheckSizes("cuBLAS", {a.m, a.n, a.k, a.lda, a.ldb, a.ldc, a.batch}));
    if (a.m == 0 || a.n == 0 || a.batch == 0) return absl::OkStatus();
    QS_RETURN_IF_ERROR(Use(stream));
    return a.batch == 1 ? MultiplyOne(a) : MultiplyBatch(a);
  }

  absl::Status Syrk(const SyrkArgs& a, cudaStream_t stream) override {
    QS_RETURN_IF_ERROR(CheckSizes("cuBLAS", {a.n, a.k, a.lda, a.ldc}));
    if (a.n == 0) return absl::OkStatus();
    QS_RETURN_IF_ERROR(Use(stream));
    const int n = static_cast<int>(a.n), k = static_cast<int>(a.k);
    const int lda = static_cast<int>(a.lda), ldc = static_cast<int>(a.ldc);
    if (a.type == BlasType::kF64) {
      return FromCublas(
          "cublasDsyrk",
          functions_.dsyrk(handle_, kLower, kTranspose, n, k, &a.alpha,
                           static_cast<const double*>(a.a), lda, &a.beta,
                           static_cast<double*>(a.c), ldc));
    }
    const auto alpha = static_cast<float>(a.alpha);
    const auto beta = static_cast<float>(a.beta);
    return FromCublas(
        "cublasSsyrk",
        functions_.ssyrk(handle_, kLower, kTranspose, n, k, &alpha,
                         static_cast<const float*>(a.a), lda, &beta,
                         static_cast<float*>(a.c), ldc));
  }

  absl::Status Trsm(const TrsmArgs& a, cudaStream_t stream) override {
    QS_RETURN_IF_ERROR(CheckSizes("cuBLAS", {a.m, a.n, a.lda, a.ldb}));
    if (a.m == 0 || a.n == 0) return absl::OkStatus();
    QS_RETURN_IF_ERROR(Use(stream));
    const int m = static_cast<int>(a.m), n = static_cast<int>(a.n);
    const int lda = static_cast<int>(a.lda), ldb = static_cast<int>(a.ldb);
    if (a.type == BlasType::kF64) {
      const double one = 1;
      return FromCublas(
          "cublasDtrsm",
          functions_.dtrsm(handle_, kLeft, kLower, kTranspose, kNonUnit, m, n,
                           &one, static_cast<const double*>(a.a), lda,
                           static_cast<double*>(a.b), ldb));
    }
    const float one = 1;
    return FromCublas(
        "cublasStrsm",
        functions_.strsm(handle_, kLeft, kLower, kTranspose, kNonUnit, m, n,
                         &one, static_cast<const float*>(a.a), lda,
                         static_cast<float*>(a.b), ldb));
  }

 private:
  // A factor in the type that the library reads it as.
  class Scalar {
   public:
    Scalar(BlasType type, double value)
        : f64_(value),
          f32_(static_cast<float>(value)),
          is_f64_(type == BlasType::kF64) {}
    const void* pointer() const {
      return is_f64_ ? static_cast<const void*>(&f64_) : &f32_;
    }

   private:
    const double f64_;
    const float f32_;
    const bool is_f64_;
  };

  absl::Status MultiplyOne(const GemmArgs& a) {
    const TypeNumbers type = NumbersOf(a.type);
    const Scalar alpha(a.type, a.alpha), beta(a.type, a.beta);
    return FromCublas(
        "cublasGemmEx",
        functions_.gemm_ex(
            handle_, a.transpose_a ? kTranspose : kNoTranspose,
            a.transpose_b ? kTranspose : kNoTranspose, static_cast<int>(a.m),
            static_cast<int>(a.n), static_cast<int>(a.k), alpha.pointer(), a.a,
            type.input, static_cast<int>(a.lda), a.b, type.input,
            static_cast<int>(a.ldb), beta.pointer(), a.c, type.output,
            static_cast<int>(a.ldc), type.compute, kDefaultAlgorithm));
  }
  absl::Status MultiplyBatch(const GemmArgs& a) {
    const TypeNumbers type = NumbersOf(a.type);
    const Scalar alpha(a.type, a.alpha), beta(a.type, a.beta);
    return FromCublas(
        "cublasGemmStridedBatchedEx",
        functions_.gemm_batched(
            handle_, a.transpose_a ? kTranspose : kNoTranspose,
            a.transpose_b ? kTranspose : kNoTranspose, static_cast<int>(a.m),
            static_cast<int>(a.n), static_cast<int>(a.k), alpha.pointer(), a.a,
            type.input, static_cast<int>(a.lda), a.stride_a, a.b, type.input,
            static_cast<int>(a.ldb), a.stride_b, beta.pointer(), a.c,
            type.output, static_cast<int>(a.ldc), a.stride_c,
            static_cast<int>(a.batch), type.compute, kDefaultAlgorithm));
  }

  absl::Status Use(cudaStream_t stream) {
    return FromCublas("cublasSetStream",
                      functions_.set_stream(handle_, stream));
  }

  const Functions functions_;
  const Handle handle_;
  const std::string description_;
};

}  // namespace

std::vector<std::string> CublasPaths(int major, const std::string& directory) {
  return LibraryPaths(absl::StrCat("libcublas.so.", major), directory);
}

absl::StatusOr<std::unique_ptr<Blas>> LoadCublas(
    const std::vector<std::string>& paths) {
  QS_ASSIGN_OR_RETURN(const Library library, Library::Open("cuBLAS", paths));
  Functions f;
  QS_RETURN_IF_ERROR(library.Find("cublasCreate_v2", &f.create));
  QS_RETURN_IF_ERROR(library.Find("cublasDestroy_v2", &f.destroy));
  QS_RETURN_IF_ERROR(library.Find("cublasGetVersion_v2", &f.get_version));
  QS_RETURN_IF_ERROR(library.Find("cublasSetStream_v2", &f.set_stream));
  QS_RETURN_IF_ERROR(library.Find("cublasGemmEx", &f.gemm_ex));
  QS_RETURN_IF_ERROR(
      library.Find("cublasGemmStridedBatchedEx", &f.gemm_batched));
  QS_RETURN_IF_ERROR(library.Find("cublasSsyrk_v2", &f.ssyrk));
  QS_RETURN_IF_ERROR(library.Find("cublasDsyrk_v2", &f.dsyrk));
  QS_RETURN_IF_ERROR(library.Find("cublasStrsm_v2", &f.strsm));
  QS_RETURN_IF_ERROR(library.Find("cublasDtrsm_v2", &f.dtrsm));
  Handle handle = nullptr;
  if (const Status status = f.create(&handle); status != kSuccess) {
    return absl::UnavailableError(
        absl::StrCat("cublasCreate: cuBLAS status ", status));
  }
  int version = 0;
  f.get_version(handle, &version);
  return std::make_unique<Cublas>(f, handle, absl::StrCat("cuBLAS ", version));
}

absl::StatusOr<std::unique_ptr<Blas>> LoadLibraries(
    int major, const std::string& directory) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<Blas> blas,
                      LoadCublas(CublasPaths(major, directory)));
  blas->SetCholesky(LoadCusolver(CusolverPaths(major, directory)));
  return blas;
}

}  // namespace qs::cuda

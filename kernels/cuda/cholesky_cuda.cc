// cuSOLVER through dlopen. Its headers are not needed: the few declarations
// below are its C interface, the same in CUDA 12 and 13. Of its two triangles
// the lower is the faster one: 2.4 ms against 3.8 to 4.3 for 4096 columns in
// F32 on an L40S (github.com/ml-explore/mlx/pull/4262).
// Tested by tests/kernels/cuda_blas_test.cc.
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cholesky.h"
#include "kernels/cuda/library.h"

namespace qs::cuda {
namespace {

// cusolver_common.h and cusolverDn.h.
using Handle = void*;
using Status = int;
constexpr Status kSuccess = 0, kAllocFailed = 2;
constexpr int kLower = 0;

template <class T>
using Potrf = Status (*)(Handle, int, int, T*, int, T*, int, int*);
template <class T>
using PotrfSize = Status (*)(Handle, int, int, T*, int, int*);

struct Functions {
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  Status (*get_version)(int*);
  Status (*set_stream)(Handle, cudaStream_t);
  PotrfSize<float> spotrf_size;
  PotrfSize<double> dpotrf_size;
  Potrf<float> spotrf;
  Potrf<double> dpotrf;
};

absl::Status FromCusolver(const char* call, Status status) {
  if (status == kSuccess) return absl::OkStatus();
  if (status == kAllocFailed) {  // the device goes on
    return absl::ResourceExhaustedError(absl::StrCat(call, ": no memory"));
  }
  return absl::InternalError(absl::StrCat(call, ": cuSOLVER status ", status));
}

class Cusolver final : public Cholesky {
 public:
  Cusolver(const Functions& functions, Handle handle, std::string description)
      : functions_(functions),
        handle_(handle),
        description_(std::move(description)) {}
  ~Cusolver() override { functions_.destroy(handle_); }
  Cusolver(const Cusolver&) = delete;
  Cusolver& operator=(const Cusolver&) = delete;

  std::string description() const override { return description_; }

  absl::StatusOr<int64_t> ScratchBytes(bool in_f64, int64_t n,
                                       int64_t lda) override {
    QS_RETURN_IF_ERROR(CheckSizes("cuSOLVER", {n, lda}));
    const int size = static_cast<int>(n), ld = static_cast<int>(lda);
    int elements = 0;
    if (in_f64) {
      QS_RETURN_IF_ERROR(
          FromCusolver("cusolverDnDpotrf_bufferSize",
                       functions_.dpotrf_size(handle_, kLower, size, nullptr,
                                              ld, &elements)));
      return int64_t{elements} * 8;
    }
    QS_RETURN_IF_ERROR(FromCusolver(
        "cusolverDnSpotrf_bufferSize",
        functions_.spotrf_size(handle_, kLower, size, nullptr, ld, &elements)));
    return int64_t{elements} * 4;
  }

  absl::Status Factor(const CholeskyArgs& a, cudaStream_t stream) override {
    const int64_t elements = a.scratch_bytes / (a.in_f64 ? 8 : 4);
    QS_RETURN_IF_ERROR(CheckSizes("cuSOLVER", {a.n, a.lda, elements}));
    if (a.n == 0) return absl::OkStatus();
    QS_RETURN_IF_ERROR(FromCusolver("cusolverDnSetStream",
                                    functions_.set_stream(handle_, stream)));
    const int n = static_cast<int>(a.n), lda = static_cast<int>(a.lda);
    const int scratch = static_cast<int>(elements);
    if (a.in_f64) {
      return FromCusolver(
          "cusolverDnDpotrf",
          functions_.dpotrf(handle_, kLower, n, static_cast<double*>(a.a), lda,
                            static_cast<double*>(a.scratch), scratch, a.info));
    }
    return FromCusolver(
        "cusolverDnSpotrf",
        functions_.spotrf(handle_, kLower, n, static_cast<float*>(a.a), lda,
                          static_cast<float*>(a.scratch), scratch, a.info));
  }

 private:
  const Functions functions_;
  const Handle handle_;
  const std::string description_;
};

}  // namespace

std::vector<std::string> CusolverPaths(int major,
                                       const std::string& directory) {
  // libcusolver.so.11 is of CUDA 12, libcusolver.so.12 of CUDA 13.
  return LibraryPaths(absl::StrCat("libcusolver.so.", major - 1), directory);
}

absl::StatusOr<std::unique_ptr<Cholesky>> LoadCusolver(
    const std::vector<std::string>& paths) {
  QS_ASSIGN_OR_RETURN(const Library library, Library::Open("cuSOLVER", paths));
  Functions f;
  QS_RETURN_IF_ERROR(library.Find("cusolverDnCreate", &f.create));
  QS_RETURN_IF_ERROR(library.Find("cusolverDnDestroy", &f.destroy));
  QS_RETURN_IF_ERROR(library.Find("cusolverGetVersion", &f.get_version));
  QS_RETURN_IF_ERROR(library.Find("cusolverDnSetStream", &f.set_stream));
  QS_RETURN_IF_ERROR(
      library.Find("cusolverDnSpotrf_bufferSize", &f.spotrf_size));
  QS_RETURN_IF_ERROR(
      library.Find("cusolverDnDpotrf_bufferSize", &f.dpotrf_size));
  QS_RETURN_IF_ERROR(library.Find("cusolverDnSpotrf", &f.spotrf));
  QS_RETURN_IF_ERROR(library.Find("cusolverDnDpotrf", &f.dpotrf));
  Handle handle = nullptr;
  if (const Status status = f.create(&handle); status != kSuccess) {
    return absl::UnavailableError(
        absl::StrCat("cusolverDnCreate: cuSOLVER status ", status));
  }
  int version = 0;
  f.get_version(&version);
  return std::make_unique<Cusolver>(f, handle,
                                    absl::StrCat("cuSOLVER ", version));
}

}  // namespace qs::cuda

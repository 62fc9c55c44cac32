// A library with cuSOLVER's names and argument order, on host memory, for the
// loader's test: plain loops. Enumerators as cuSOLVER documents them. A
// factorisation without a stream is an error, as is one with less scratch than
// was asked for; on stream 16 it finds no memory.
#include <cmath>
#include <cstdint>

namespace {

enum : int { kSuccess = 0, kAllocFailed = 2, kInvalidValue = 3 };
constexpr int kLower = 0;  // CUBLAS_FILL_MODE_LOWER
constexpr int kScratchElements = 17;

struct Context {
  void* stream = nullptr;
};

template <class T>
int Potrf(void* handle, int uplo, int n, T* a, int lda, T* scratch, int lwork,
          int* info) {
  if (static_cast<Context*>(handle)->stream == nullptr || uplo != kLower ||
      lwork < kScratchElements) {
    return kInvalidValue;
  }
  void* const stream = static_cast<Context*>(handle)->stream;
  if (reinterpret_cast<uintptr_t>(stream) == 16) return kAllocFailed;
  for (int i = 0; i < lwork; ++i) scratch[i] = -1;
  *info = 0;
  for (int j = 0; j < n; ++j) {
    for (int i = j; i < n; ++i) {
      T sum = a[i + static_cast<int64_t>(j) * lda];
      for (int k = 0; k < j; ++k) {
        sum -= a[i + static_cast<int64_t>(k) * lda] *
               a[j + static_cast<int64_t>(k) * lda];
      }
      if (i == j && !(sum > 0)) {
        *info = j + 1;
        return kSuccess;
      }
      a[i + static_cast<int64_t>(j) * lda] =
          i == j ? std::sqrt(sum) : sum / a[j + static_cast<int64_t>(j) * lda];
    }
  }
  return kSuccess;
}

}  // namespace

extern "C" {

int cusolverDnCreate(void** handle) {
  *handle = new Context;
  return kSuccess;
}
int cusolverDnDestroy(void* handle) {
  delete static_cast<Context*>(handle);
  return kSuccess;
}
int cusolverGetVersion(int* version) {
  *version = 12004;
  return kSuccess;
}
int cusolverDnSetStream(void* handle, void* stream) {
  static_cast<Context*>(handle)->stream = stream;
  return kSuccess;
}

// Elements, not bytes.
int cusolverDnSpotrf_bufferSize(void*, int, int, float*, int, int* elements) {
  *elements = kScratchElements;
  return kSuccess;
}
int cusolverDnDpotrf_bufferSize(void*, int, int, double*, int, int* elements) {
  *elements = kScratchElements;
  return kSuccess;
}
int cusolverDnSpotrf(void* handle, int uplo, int n, float* a, int lda,
                     float* scratch, int lwork, int* info) {
  return Potrf(handle, uplo, n, a, lda, scratch, lwork, info);
}
int cusolverDnDpotrf(void* handle, int uplo, int n, double* a, int lda,
                     double* scratch, int lwork, int* info) {
  return Potrf(handle, uplo, n, a, lda, scratch, lwork, info);
}

}  // extern "C"

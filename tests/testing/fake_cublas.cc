// A library with cuBLAS's names and argument order, on host memory, for the
// loader's test: plain loops. Enumerators as cuBLAS documents them. A product
// without a stream is an error; on stream 16 it finds no memory.
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

enum : int {
  kSuccess = 0,
  kAllocFailed = 3,
  kInvalidValue = 7,
  kNotSupported = 15
};

struct Context {
  void* stream = nullptr;
};

// Whether products can be made on the context's stream.
int StreamStatus(void* handle) {
  void* const stream = static_cast<Context*>(handle)->stream;
  if (stream == nullptr) return kInvalidValue;
  return reinterpret_cast<uintptr_t>(stream) == 16 ? kAllocFailed : kSuccess;
}

// A matrix that is stored as cudaDataType `type`.
double At(const void* data, int type, int64_t i) {
  if (type == 0) return static_cast<const float*>(data)[i];
  if (type == 1) return static_cast<const double*>(data)[i];
  const uint32_t bits = static_cast<const uint16_t*>(data)[i];
  if (type == 14) {  // CUDA_R_16BF
    const uint32_t wide = bits << 16;
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    return value;
  }
  // CUDA_R_16F
  const int exponent = static_cast<int>(bits >> 10 & 31);
  const int fraction = static_cast<int>(bits & 1023);
  const double size = exponent == 0
                          ? std::ldexp(fraction, -24)
                          : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 != 0 ? -size : size;
}

template <class T>
int Syrk(void* handle, int uplo, int trans, int n, int k, const T* alpha,
         const T* a, int lda, const T* beta, T* c, int ldc) {
  if (const int bad = StreamStatus(handle); bad != kSuccess) return bad;
  for (int j = 0; j < n; ++j) {
    for (int i = 0; i < n; ++i) {
      if (uplo == 0 ? i < j : i > j) continue;  // CUBLAS_FILL_MODE_LOWER: 0
      T sum = 0;
      for (int l = 0; l < k; ++l) {
        sum += trans == 1 ? a[l + i * lda] * a[l + j * lda]
                          : a[i + l * lda] * a[j + l * lda];
      }
      c[i + j * ldc] = *alpha * sum + (*beta == 0 ? 0 : *beta * c[i + j * ldc]);
    }
  }
  return kSuccess;
}

template <class T>
int Trsm(void* handle, int side, int uplo, int trans, int diag, int m, int n,
         const T* alpha, const T* a, int lda, T* b, int ldb) {
  if (const int bad = StreamStatus(handle); bad != kSuccess) return bad;
  // CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_T,
  // CUBLAS_DIAG_NON_UNIT.
  if (side != 0 || uplo != 0 || trans != 1 || diag != 0) return kNotSupported;
  for (int j = 0; j < n; ++j) {
    T* const x = b + static_cast<int64_t>(j) * ldb;
    for (int i = m - 1; i >= 0; --i) {
      T sum = *alpha * x[i];
      for (int k = i + 1; k < m; ++k) sum -= a[k + i * lda] * x[k];
      x[i] = sum / a[i + i * lda];
    }
  }
  return kSuccess;
}

}  // namespace

extern "C" {

int cublasCreate_v2(void** handle) {
  *handle = new Context;
  return kSuccess;
}
int cublasDestroy_v2(void* handle) {
  delete static_cast<Context*>(handle);
  return kSuccess;
}
int cublasGetVersion_v2(void*, int* version) {
  *version = 130002;
  return kSuccess;
}
int cublasSetStream_v2(void* handle, void* stream) {
  static_cast<Context*>(handle)->stream = stream;
  return kSuccess;
}

int cublasGemmEx(void* handle, int transa, int transb, int m, int n, int k,
                 const void* alpha, const void* a, int a_type, int lda,
                 const void* b, int b_type, int ldb, const void* beta, void* c,
                 int c_type, int ldc, int compute, int algo) {
  if (const int bad = StreamStatus(handle); bad != kSuccess) return bad;
  const bool f64 = c_type == 1;
  // CUBLAS_COMPUTE_32F, _32F_FAST_TF32 (F32 alone), _64F; default algorithm.
  const bool known =
      f64 ? compute == 70 : compute == 68 || (compute == 77 && a_type == 0);
  if (a_type != b_type || !known || algo != -1 || (f64 && a_type != 1)) {
    return kNotSupported;
  }
  const double factor = At(alpha, f64 ? 1 : 0, 0);
  const double kept = At(beta, f64 ? 1 : 0, 0);
  for (int j = 0; j < n; ++j) {
    for (int i = 0; i < m; ++i) {
      double sum = 0;
      for (int l = 0; l < k; ++l) {
        sum += At(a, a_type, transa == 1 ? l + i * lda : i + l * lda) *
               At(b, b_type, transb == 1 ? j + l * ldb : l + j * ldb);
      }
      const int64_t at = i + static_cast<int64_t>(j) * ldc;
      sum = factor * sum + (kept == 0 ? 0 : kept * At(c, c_type, at));
      if (f64) {
        static_cast<double*>(c)[at] = sum;
      } else {
        static_cast<float*>(c)[at] = static_cast<float>(sum);
      }
    }
  }
  return kSuccess;
}

int cublasGemmStridedBatchedEx(void* handle, int transa, int transb, int m,
                               int n, int k, const void* alpha, const void* a,
                               int a_type, int lda, long long stride_a,
                               const void* b, int b_type, int ldb,
                               long long stride_b, const void* beta, void* c,
                               int c_type, int ldc, long long stride_c,
                               int batch, int compute, int algo) {
  const auto moved = [](const void* p, int type, long long elements) {
    const long long size = type == 1 ? 8 : type == 0 ? 4 : 2;
    return static_cast<const uint8_t*>(p) + elements * size;
  };
  for (int i = 0; i < batch; ++i) {
    const int status = cublasGemmEx(
        handle, transa, transb, m, n, k, alpha, moved(a, a_type, i * stride_a),
        a_type, lda, moved(b, b_type, i * stride_b), b_type, ldb, beta,
        const_cast<uint8_t*>(moved(c, c_type, i * stride_c)), c_type, ldc,
        compute, algo);
    if (status != kSuccess) return status;
  }
  return kSuccess;
}

int cublasSsyrk_v2(void* handle, int uplo, int trans, int n, int k,
                   const float* alpha, const float* a, int lda,
                   const float* beta, float* c, int ldc) {
  return Syrk(handle, uplo, trans, n, k, alpha, a, lda, beta, c, ldc);
}
int cublasDsyrk_v2(void* handle, int uplo, int trans, int n, int k,
                   const double* alpha, const double* a, int lda,
                   const double* beta, double* c, int ldc) {
  return Syrk(handle, uplo, trans, n, k, alpha, a, lda, beta, c, ldc);
}

int cublasStrsm_v2(void* handle, int side, int uplo, int trans, int diag, int m,
                   int n, const float* alpha, const float* a, int lda, float* b,
                   int ldb) {
  return Trsm(handle, side, uplo, trans, diag, m, n, alpha, a, lda, b, ldb);
}
int cublasDtrsm_v2(void* handle, int side, int uplo, int trans, int diag, int m,
                   int n, const double* alpha, const double* a, int lda,
                   double* b, int ldb) {
  return Trsm(handle, side, uplo, trans, diag, m, n, alpha, a, lda, b, ldb);
}

}  // extern "C"

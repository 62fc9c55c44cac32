// The Fortran interface of BLAS, whose arguments mean what cuBLAS's do: a wrong
// stride or transposition shows here.
// Tested by tests/kernels/cuda_blas_test.cc.
#include "kernels/cuda/blas_emulated.h"

#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/blas.h"
#include "kernels/cuda/emulation.h"

extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*,
            const float*, const float*, const int*, const float*, const int*,
            const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*,
            const double*, const double*, const int*, const double*, const int*,
            const double*, double*, const int*);
void ssyrk_(const char*, const char*, const int*, const int*, const float*,
            const float*, const int*, const float*, float*, const int*);
void dsyrk_(const char*, const char*, const int*, const int*, const double*,
            const double*, const int*, const double*, double*, const int*);
}

namespace qs::cuda {
namespace {

int Int(int64_t x) { return static_cast<int>(x); }

// A stored matrix [rows, cols].
struct Stored {
  const char* name;
  const void* data;
  int64_t rows, cols, ld, element;
};

absl::Status CheckMatrix(const Stored& m) {
  if (m.rows == 0 || m.cols == 0) return absl::OkStatus();
  const int64_t bytes = ((m.cols - 1) * m.ld + m.rows) * m.element;
  EmulatedDevice& device = EmulatedDevice::Get();
  const bool aligned =
      reinterpret_cast<uintptr_t>(m.data) % static_cast<size_t>(m.element) == 0;
  if (m.ld >= m.rows && aligned && device.BytesFrom(m.data) >= bytes) {
    return absl::OkStatus();
  }
  const std::string text = absl::StrCat(
      "BLAS: matrix ", m.name, " [", m.rows, ", ", m.cols, "] with ld ", m.ld,
      " takes ", bytes, " bytes, the allocation has ",
      device.BytesFrom(m.data));
  device.RecordError(text);
  return absl::InternalError(text);
}

// A matrix of 16-bit floats widened, with the same strides.
std::vector<float> Widened(const Stored& m, DType dtype) {
  std::vector<float> wide(
      static_cast<size_t>((m.cols - 1) * m.ld + m.rows));
  for (int64_t c = 0; c < m.cols; ++c) {
    for (int64_t r = 0; r < m.rows; ++r) {
      const int64_t at = c * m.ld + r;
      wide[static_cast<size_t>(at)] = LoadAsFloat(m.data, dtype, at);
    }
  }
  return wide;
}

class EmulatedBlas final : public Blas {
 public:
  EmulatedBlas() { UseOneBlasThread(); }

  std::string description() const override { return "OpenBLAS, emulated"; }

  absl::Status Gemm(const GemmArgs& g, cudaStream_t) override {
    const int64_t out = g.type == BlasType::kF64 ? 8 : 4;
    const bool half = g.type == BlasType::kF16 || g.type == BlasType::kBF16;
    const int64_t in = half ? 2 : out;
    const Stored a = {"A", g.a, g.transpose_a ? g.k : g.m,
                      g.transpose_a ? g.m : g.k, g.lda, in};
    const Stored b = {"B", g.b, g.transpose_b ? g.n : g.k,
                      g.transpose_b ? g.k : g.n, g.ldb, in};
    QS_RETURN_IF_ERROR(CheckMatrix(a));
    QS_RETURN_IF_ERROR(CheckMatrix(b));
    QS_RETURN_IF_ERROR(CheckMatrix({"C", g.c, g.m, g.n, g.ldc, out}));
    if (g.m == 0 || g.n == 0) return absl::OkStatus();
    if (!half) {
      Product(g, g.a, g.b);
      return absl::OkStatus();
    }
    const DType dtype = g.type == BlasType::kF16 ? DType::kF16 : DType::kBF16;
    const std::vector<float> wide_a = Widened(a, dtype);
    const std::vector<float> wide_b = Widened(b, dtype);
    Product(g, wide_a.data(), wide_b.data());
    return absl::OkStatus();
  }

  absl::Status Syrk(const SyrkArgs& s, cudaStream_t) override {
    const int64_t element = s.type == BlasType::kF64 ? 8 : 4;
    QS_RETURN_IF_ERROR(CheckMatrix({"A", s.a, s.k, s.n, s.lda, element}));
    QS_RETURN_IF_ERROR(CheckMatrix({"C", s.c, s.n, s.n, s.ldc, element}));
    if (s.n == 0) return absl::OkStatus();
    const int n = Int(s.n), k = Int(s.k), lda = Int(s.lda), ldc = Int(s.ldc);
    if (s.type == BlasType::kF64) {
      dsyrk_("L", "T", &n, &k, &s.alpha, static_cast<const double*>(s.a), &lda,
             &s.beta, static_cast<double*>(s.c), &ldc);
      return absl::OkStatus();
    }
    const auto alpha = static_cast<float>(s.alpha);
    const auto beta = static_cast<float>(s.beta);
    ssyrk_("L", "T", &n, &k, &alpha, static_cast<const float*>(s.a), &lda,
           &beta, static_cast<float*>(s.c), &ldc);
    return absl::OkStatus();
  }

 private:
  static void Product(const GemmArgs& g, const void* a, const void* b) {
    const int m = Int(g.m), n = Int(g.n), k = Int(g.k);
    const int lda = Int(g.lda), ldb = Int(g.ldb), ldc = Int(g.ldc);
    const char* const op_a = g.transpose_a ? "T" : "N";
    const char* const op_b = g.transpose_b ? "T" : "N";
    if (g.type == BlasType::kF64) {
      dgemm_(op_a, op_b, &m, &n, &k, &g.alpha, static_cast<const double*>(a),
             &lda, static_cast<const double*>(b), &ldb, &g.beta,
             static_cast<double*>(g.c), &ldc);
      return;
    }
    const auto alpha = static_cast<float>(g.alpha);
    const auto beta = static_cast<float>(g.beta);
    sgemm_(op_a, op_b, &m, &n, &k, &alpha, static_cast<const float*>(a), &lda,
           static_cast<const float*>(b), &ldb, &beta, static_cast<float*>(g.c),
           &ldc);
  }
};

}  // namespace

std::unique_ptr<Blas> NewEmulatedBlas() {
  return std::make_unique<EmulatedBlas>();
}

}  // namespace qs::cuda

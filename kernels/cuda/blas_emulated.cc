// Plain loops over matrices as cuBLAS and cuSOLVER have them, column by column:
// each element is the sum of its products in their order, rounded once. A
// library's sums differ with the shape and the processor, and tests compare
// bytes.
// Tested by tests/kernels/cuda_blas_test.cc.
#include "kernels/cuda/blas_emulated.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/emulation.h"

namespace qs::cuda {
namespace {

// C <- alpha A B + beta C of some of its elements: of columns [0, n) the rows
// from `first(column)` on. `a(i, k)` and `b(k, j)` are values.
template <class T, class A, class B, class First>
void Multiply(int64_t m, int64_t n, int64_t k, double alpha, const A& a,
              const B& b, double beta, T* c, int64_t ldc, const First& first) {
  std::vector<double> columns_of_a(static_cast<size_t>(m * k));
  for (int64_t p = 0; p < k; ++p) {
    for (int64_t i = 0; i < m; ++i) {
      columns_of_a[static_cast<size_t>(p * m + i)] = a(i, p);
    }
  }
  std::vector<double> sums(static_cast<size_t>(m));
  for (int64_t j = 0; j < n; ++j) {
    const int64_t begin = first(j);
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t p = 0; p < k; ++p) {
      const double value = b(p, j);
      const double* const column = columns_of_a.data() + p * m;
      for (int64_t i = begin; i < m; ++i) {
        sums[static_cast<size_t>(i)] += column[i] * value;
      }
    }
    for (int64_t i = begin; i < m; ++i) {
      T& out = c[i + j * ldc];
      // Where beta is 0, C is not read.
      const double kept = beta == 0 ? 0 : beta * static_cast<double>(out);
      out = static_cast<T>(alpha * sums[static_cast<size_t>(i)] + kept);
    }
  }
}

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
  const std::string text =
      absl::StrCat("BLAS: matrix ", m.name, " [", m.rows, ", ", m.cols,
                   "] with ld ", m.ld, " takes ", bytes,
                   " bytes, the allocation has ", device.BytesFrom(m.data));
  device.RecordError(text);
  return absl::InternalError(text);
}

// Of memory that a library is given.
absl::Status CheckBytes(const char* name, const void* data, int64_t bytes) {
  EmulatedDevice& device = EmulatedDevice::Get();
  if (bytes == 0 || device.BytesFrom(data) >= bytes) return absl::OkStatus();
  const std::string text =
      absl::StrCat("BLAS: ", name, " takes ", bytes,
                   " bytes, the allocation has ", device.BytesFrom(data));
  device.RecordError(text);
  return absl::InternalError(text);
}

// A matrix of 16-bit floats widened, with the same strides.
std::vector<float> Widened(const Stored& m, DType dtype) {
  std::vector<float> wide(static_cast<size_t>((m.cols - 1) * m.ld + m.rows));
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
  std::string description() const override { return "plain loops, emulated"; }

  absl::Status Gemm(const GemmArgs& g, cudaStream_t) override {
    for (int64_t i = 0; i < g.batch; ++i) {
      GemmArgs one = g;
      one.a = Moved(g.a, i * g.stride_a * InBytes(g.type));
      one.b = Moved(g.b, i * g.stride_b * InBytes(g.type));
      one.c = static_cast<uint8_t*>(g.c) + i * g.stride_c * OutBytes(g.type);
      QS_RETURN_IF_ERROR(MultiplyOne(one));
    }
    return absl::OkStatus();
  }

  absl::Status Syrk(const SyrkArgs& s, cudaStream_t) override {
    const int64_t element = s.type == BlasType::kF64 ? 8 : 4;
    QS_RETURN_IF_ERROR(CheckMatrix({"A", s.a, s.k, s.n, s.lda, element}));
    QS_RETURN_IF_ERROR(CheckMatrix({"C", s.c, s.n, s.n, s.ldc, element}));
    if (s.n == 0) return absl::OkStatus();
    if (s.type == BlasType::kF64) {
      Square<double>(s);
    } else {
      Square<float>(s);
    }
    return absl::OkStatus();
  }

  absl::Status Trsm(const TrsmArgs& t, cudaStream_t) override {
    const int64_t element = t.type == BlasType::kF64 ? 8 : 4;
    QS_RETURN_IF_ERROR(CheckMatrix({"A", t.a, t.m, t.m, t.lda, element}));
    QS_RETURN_IF_ERROR(CheckMatrix({"B", t.b, t.m, t.n, t.ldb, element}));
    if (t.type == BlasType::kF64) {
      SolveTriangle<double>(t);
    } else {
      SolveTriangle<float>(t);
    }
    return absl::OkStatus();
  }

 private:
  static int64_t OutBytes(BlasType type) {
    return type == BlasType::kF64 ? 8 : 4;
  }
  static int64_t InBytes(BlasType type) {
    const bool half = type == BlasType::kF16 || type == BlasType::kBF16;
    return half ? 2 : OutBytes(type);
  }
  static const void* Moved(const void* p, int64_t bytes) {
    return static_cast<const uint8_t*>(p) + bytes;
  }

  static absl::Status MultiplyOne(const GemmArgs& g) {
    const int64_t out = OutBytes(g.type);
    const int64_t in = InBytes(g.type);
    const bool half = in == 2;
    const Stored a = {
        "A",   g.a, g.transpose_a ? g.k : g.m, g.transpose_a ? g.m : g.k,
        g.lda, in};
    const Stored b = {
        "B",   g.b, g.transpose_b ? g.n : g.k, g.transpose_b ? g.k : g.n,
        g.ldb, in};
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

  template <class T>
  static void SolveTriangle(const TrsmArgs& t) {
    const T* const l = static_cast<const T*>(t.a);
    for (int64_t column = 0; column < t.n; ++column) {
      T* const b = static_cast<T*>(t.b) + column * t.ldb;
      for (int64_t i = t.m - 1; i >= 0; --i) {
        double sum = b[i];
        for (int64_t k = i + 1; k < t.m; ++k) {
          sum -= static_cast<double>(l[k + i * t.lda]) * b[k];
        }
        b[i] = static_cast<T>(sum / l[i * (t.lda + 1)]);
      }
    }
  }

  // The lower triangle of A^T A.
  template <class T>
  static void Square(const SyrkArgs& s) {
    const T* const a = static_cast<const T*>(s.a);
    const auto at = [&](int64_t row, int64_t column) {
      return static_cast<double>(a[row + column * s.lda]);
    };
    Multiply(
        s.n, s.n, s.k, s.alpha, [&](int64_t i, int64_t p) { return at(p, i); },
        at, s.beta, static_cast<T*>(s.c), s.ldc,
        [](int64_t column) { return column; });
  }

  static void Product(const GemmArgs& g, const void* a, const void* b) {
    if (g.type == BlasType::kF64) {
      Product(g, static_cast<const double*>(a), static_cast<const double*>(b));
    } else {
      Product(g, static_cast<const float*>(a), static_cast<const float*>(b));
    }
  }
  template <class T>
  static void Product(const GemmArgs& g, const T* a, const T* b) {
    Multiply(
        g.m, g.n, g.k, g.alpha,
        [&](int64_t i, int64_t p) {
          return static_cast<double>(
              a[g.transpose_a ? p + i * g.lda : i + p * g.lda]);
        },
        [&](int64_t p, int64_t j) {
          return static_cast<double>(
              b[g.transpose_b ? j + p * g.ldb : p + j * g.ldb]);
        },
        g.beta, static_cast<T*>(g.c), g.ldc, [](int64_t) { return 0; });
  }
};

class EmulatedCholesky final : public Cholesky {
 public:
  explicit EmulatedCholesky(int64_t scratch_bytes)
      : scratch_bytes_(scratch_bytes) {}

  std::string description() const override {
    return "factorisation by plain loops";
  }

  absl::StatusOr<int64_t> ScratchBytes(bool in_f64, int64_t n,
                                       int64_t) override {
    return scratch_bytes_ >= 0 ? scratch_bytes_ : n * n * (in_f64 ? 8 : 4);
  }

  absl::Status Factor(const CholeskyArgs& c, cudaStream_t) override {
    const int64_t element = c.in_f64 ? 8 : 4;
    QS_ASSIGN_OR_RETURN(const int64_t least,
                        ScratchBytes(c.in_f64, c.n, c.lda));
    QS_RETURN_IF_ERROR(CheckMatrix({"A", c.a, c.n, c.n, c.lda, element}));
    QS_RETURN_IF_ERROR(
        CheckBytes("scratch", c.scratch, std::max(least, c.scratch_bytes)));
    QS_RETURN_IF_ERROR(CheckBytes("info", c.info, sizeof(*c.info)));
    // A library may leave anything in all of it.
    std::memset(c.scratch, 0xff, static_cast<size_t>(c.scratch_bytes));
    *c.info = c.in_f64 ? Decompose<double>(c) : Decompose<float>(c);
    return absl::OkStatus();
  }

 private:
  template <class T>
  static int32_t Decompose(const CholeskyArgs& c) {
    T* const a = static_cast<T*>(c.a);
    for (int64_t j = 0; j < c.n; ++j) {
      // Whatever a library leaves above the diagonal.
      for (int64_t i = 0; i < j; ++i) {
        a[i + j * c.lda] = std::numeric_limits<T>::quiet_NaN();
      }
      for (int64_t i = j; i < c.n; ++i) {
        double sum = a[i + j * c.lda];
        for (int64_t k = 0; k < j; ++k) {
          sum -= static_cast<double>(a[i + k * c.lda]) * a[j + k * c.lda];
        }
        if (i == j && !(sum > 0)) return static_cast<int32_t>(j + 1);
        a[i + j * c.lda] =
            static_cast<T>(i == j ? std::sqrt(sum) : sum / a[j * (c.lda + 1)]);
      }
    }
    return 0;
  }

  const int64_t scratch_bytes_;
};

}  // namespace

std::unique_ptr<Blas> NewEmulatedBlas() {
  auto blas = NewEmulatedBlasAlone();
  blas->SetCholesky(NewEmulatedCholesky());
  return blas;
}

std::unique_ptr<Blas> NewEmulatedBlasAlone() {
  return std::make_unique<EmulatedBlas>();
}

std::unique_ptr<Cholesky> NewEmulatedCholesky(int64_t scratch_bytes) {
  return std::make_unique<EmulatedCholesky>(scratch_bytes);
}

}  // namespace qs::cuda

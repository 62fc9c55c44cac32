// Factor on CPUs: the reversed Cholesky factorisation in panels from the last
// column to the first, each a small factorisation, a triangular solve of the
// rows above and an update of what is left, cut into fixed tiles.
// Tested by tests/kernels/gptq_differential_test.cc.
#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/gptq_cpu.h"
#include "kernels/cpu/gptq_factor_layout.h"
#include "kernels/cpu/parallel.h"
#include "kernels/gptq_check.h"
#include "kernels/gptq_tables.h"

extern "C" {
void spotrf_(const char* uplo, const int* n, float* a, const int* lda,
             int* info);
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda,
             int* info);
}

namespace qs::gptq {
namespace {

constexpr int64_t kFactorPanel = 128;
static_assert(kFactorTile % kFactorPanel == 0);

// BLAS of either type under one name; all row-major.
int Potrf(int n, float* a) {
  int info = 0;
  spotrf_("U", &n, a, &n, &info);  // the lower triangle, row-major
  return info;
}
int Potrf(int n, double* a) {
  int info = 0;
  dpotrf_("U", &n, a, &n, &info);
  return info;
}
// b <- b r^-T, r upper.
void SolveRight(int m, int n, const float* r, int ldr, float* b, int ldb) {
  cblas_strsm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit,
              m, n, 1.0f, r, ldr, b, ldb);
}
void SolveRight(int m, int n, const double* r, int ldr, double* b, int ldb) {
  cblas_dtrsm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit,
              m, n, 1.0, r, ldr, b, ldb);
}
// c <- c - a b^T.
void Subtract(int m, int n, int k, const float* a, const float* b, int ld,
              float* c, int ldc) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, -1.0f, a, ld, b,
              ld, 1.0f, c, ldc);
}
void Subtract(int m, int n, int k, const double* a, const double* b, int ld,
              double* c, int ldc) {
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, -1.0, a, ld, b,
              ld, 1.0, c, ldc);
}
void SubtractSquare(int n, int k, const float* a, int ld, float* c, int ldc) {
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasNoTrans, n, k, -1.0f, a, ld, 1.0f,
              c, ldc);
}
void SubtractSquare(int n, int k, const double* a, int ld, double* c, int ldc) {
  cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, n, k, -1.0, a, ld, 1.0,
              c, ldc);
}

// What a failing factorisation may do about lost pivots.
enum class OnLostPivot { kFail, kReplace };

// One factorisation of a matrix that holds P H P^T in its upper triangle. Below
// the diagonal it neither reads nor writes.
template <class T, template <class> class Layout>
class Factorization {
 public:
  Factorization(Layout<T> a, int64_t n, const std::vector<double>& diagonal,
                double least_pivot, int threads, SharedCheckpoint& checkpoint)
      : a_(a),
        n_(n),
        diagonal_(diagonal),
        least_pivot_(least_pivot),
        threads_(threads),
        checkpoint_(checkpoint) {}

  // False: a pivot was lost, or the checkpoint stopped it.
  bool Run(OnLostPivot rule, double mean, int64_t* dropped) {
    for (int64_t end = n_; end > 0;) {
      const int64_t begin = (end - 1) / kFactorPanel * kFactorPanel;
      if (!checkpoint_.Step()) return false;
      const bool factored = rule == OnLostPivot::kFail
                                ? FactorDiagonal(begin, end)
                                : ReplacePivots(begin, end, mean, dropped);
      if (!factored) return false;
      SolveAbove(begin, end);
      UpdateRest(begin, end);
      end = begin;
    }
    return true;
  }

 private:
  T* At(int64_t i, int64_t j) const { return a_.At(i, j); }

  bool FactorDiagonal(int64_t begin, int64_t end) {
    const int64_t size = end - begin;
    std::vector<T> reversed(static_cast<size_t>(size * size));
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = i; j < size; ++j) {
        reversed[static_cast<size_t>((size - 1 - j) * size + size - 1 - i)] =
            reversed[static_cast<size_t>((size - 1 - i) * size + size - 1 -
                                         j)] = *At(begin + i, begin + j);
      }
    }
    if (Potrf(static_cast<int>(size), reversed.data()) != 0) return false;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = i; j < size; ++j) {
        *At(begin + i, begin + j) =
            reversed[static_cast<size_t>((size - 1 - i) * size + size - 1 - j)];
      }
      const double r = *At(begin + i, begin + i);
      if (!(r * r > least_pivot_ * diagonal_[static_cast<size_t>(begin + i)])) {
        return false;
      }
    }
    return true;
  }

  // The same, element by element, with a least value for lost pivots.
  bool ReplacePivots(int64_t begin, int64_t end, double mean,
                     int64_t* dropped) {
    for (int64_t c = end - 1; c >= begin; --c) {
      const double diagonal = diagonal_[static_cast<size_t>(c)];
      double pivot = *At(c, c);
      for (int64_t k = c + 1; k < end; ++k) {
        pivot -= static_cast<double>(*At(c, k)) * *At(c, k);
      }
      if (!(pivot > least_pivot_ * diagonal)) {
        pivot = least_pivot_ * std::max(diagonal, mean);
        ++*dropped;
      }
      if (!(pivot > 0)) return false;
      *At(c, c) = static_cast<T>(std::sqrt(pivot));
      for (int64_t i = c - 1; i >= begin; --i) {
        double sum = *At(i, c);
        for (int64_t k = c + 1; k < end; ++k) {
          sum -= static_cast<double>(*At(i, k)) * *At(c, k);
        }
        *At(i, c) = static_cast<T>(sum / *At(c, c));
      }
    }
    return true;
  }

  void SolveAbove(int64_t begin, int64_t end) {
    const int ld = a_.Stride(begin);
    ParallelTiles(threads_, begin, kFactorTile,
                  [&](int64_t first, int64_t last) {
                    SolveRight(static_cast<int>(last - first),
                               static_cast<int>(end - begin), At(begin, begin),
                               ld, At(first, begin), ld);
                  });
  }

  // The tiles on and above the diagonal, those of the longest rows first.
  void UpdateRest(int64_t begin, int64_t end) {
    const int64_t tiles = CeilDiv(begin, kFactorTile);
    const int depth = static_cast<int>(end - begin);
    ParallelTiles(threads_, tiles * (tiles + 1) / 2, 1,
                  [&](int64_t index, int64_t) {
                    int64_t i = 0;
                    while (index >= tiles - i) index -= tiles - i++;
                    UpdateTile(i, i + index, begin, depth);
                  });
  }

  void UpdateTile(int64_t i, int64_t j, int64_t begin, int depth) {
    const int64_t row = i * kFactorTile;
    const int64_t col = j * kFactorTile;
    const int rows = static_cast<int>(std::min(kFactorTile, begin - row));
    const int cols = static_cast<int>(std::min(kFactorTile, begin - col));
    const int ld = a_.Stride(begin);
    if (i == j) {
      SubtractSquare(rows, depth, At(row, begin), ld, At(row, row),
                     a_.Stride(row));
    } else {
      Subtract(rows, cols, depth, At(row, begin), At(col, begin), ld,
               At(row, col), a_.Stride(col));
    }
  }

  const Layout<T> a_;
  const int64_t n_;
  const std::vector<double>& diagonal_;  // damped
  const double least_pivot_;
  const int threads_;
  SharedCheckpoint& checkpoint_;
};

class Ladder {
 public:
  Ladder(const GptqFactorArgs& args, int threads)
      : args_(args),
        n_(args.size),
        threads_(threads),
        facts_(*args.facts),
        checkpoint_(args.checkpoint, CeilDiv(n_, kFactorPanel)) {}

  absl::Status Run() {
    facts_ = {};
    QS_RETURN_IF_ERROR(ReadDiagonal());
    facts_.damping = args_.damping;
    if (!(mean_ > 0)) return DiagonalOnly();
    if (args_.in_f64) {
      if (in_place()) FillInPlace();
    } else if (TryF32()) {
      return Finish(nullptr);
    }
    QS_RETURN_IF_ERROR(checkpoint_.status());
    QS_ASSIGN_OR_RETURN(Buffer f64,
                        Buffer::Allocate(Strips<double>::Elements(n_) * 8));
    const Strips<double> a(f64.As<double>(), n_);
    facts_.in_f64 = true;
    bool factored = TryF64(a, OnLostPivot::kFail);
    for (double damping = args_.damping * kDampingStep;
         !factored && checkpoint_.status().ok() && damping > 0 &&
         damping <= kMaxDamping;
         damping *= kDampingStep) {
      facts_.damping = damping;
      ++facts_.damping_retries;
      factored = TryF64(a, OnLostPivot::kFail);
    }
    if (!factored && checkpoint_.status().ok()) {
      factored = TryF64(a, OnLostPivot::kReplace);
    }
    QS_RETURN_IF_ERROR(checkpoint_.status());
    return factored ? Finish(&a) : DiagonalOnly();
  }

 private:
  int64_t Column(int64_t position) const {
    return args_.order == nullptr ? position : args_.order[position];
  }

  absl::Status ReadDiagonal() {
    const TensorView h = {args_.hessian, DType::kF32, n_, n_};
    const int64_t bad = FirstNonFinite(h, threads_);
    if (bad >= 0) return HessianError(args_.hessian, n_, bad);
    undamped_.resize(static_cast<size_t>(n_));
    double sum = 0;
    for (int64_t p = 0; p < n_; ++p) {
      const int64_t at = Column(p) * (n_ + 1);
      double value = args_.hessian[at];
      if (value < 0) return HessianError(args_.hessian, n_, at);
      if (value == 0) {
        ++facts_.dead_columns;
        value = args_.dead_diagonal;
      }
      undamped_[static_cast<size_t>(p)] = value;
      sum += value;
    }
    mean_ = sum / static_cast<double>(n_);
    return absl::OkStatus();
  }

  bool in_place() const { return args_.hessian == args_.factor; }

  void Damp() {
    damped_ = undamped_;
    for (double& d : damped_) d += facts_.damping * mean_;
  }

  // The upper triangle of P H P^T, damped.
  template <class T, template <class> class Layout>
  void Fill(const Layout<T>& a) {
    Damp();
    ParallelTiles(threads_, n_, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float* const from = args_.hessian + Column(i) * n_;
        for (int64_t first = i + 1; first < n_;) {
          T* const to = a.At(i, first);
          const int64_t last = a.RunEnd(first);
          for (int64_t j = first; j < last; ++j) {
            to[j - first] = static_cast<T>(from[Column(j)]);
          }
          first = last;
        }
        *a.At(i, i) = static_cast<T>(damped_[static_cast<size_t>(i)]);
      }
    });
  }

  // The same where H is in the factor's memory: permuted there for F32. What
  // that leaves below the diagonal is P H P^T still.
  void FillInPlace() {
    Damp();
    PermuteInPlace(args_.factor, n_, args_.order, threads_);
    for (int64_t i = 0; i < n_; ++i) {
      args_.factor[i * (n_ + 1)] =
          static_cast<float>(damped_[static_cast<size_t>(i)]);
    }
  }
  void FillFromBelow(const Strips<double>& a) {
    Damp();
    // Column j above the diagonal is row j below it.
    ParallelTiles(threads_, n_, 64, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < n_; ++j) {
        for (int64_t i = begin; i < std::min(end, j); ++i) {
          *a.At(i, j) = args_.factor[j * n_ + i];
        }
      }
      for (int64_t i = begin; i < end; ++i) {
        *a.At(i, i) = damped_[static_cast<size_t>(i)];
      }
    });
  }

  bool TryF32() {
    const Square<float> a(args_.factor, n_);
    if (in_place()) {
      FillInPlace();
    } else {
      Fill(a);
    }
    return Factorization<float, Square>(a, n_, damped_, kLeastPivotF32,
                                        threads_, checkpoint_)
        .Run(OnLostPivot::kFail, mean_, nullptr);
  }

  bool TryF64(const Strips<double>& a, OnLostPivot rule) {
    if (in_place()) {
      FillFromBelow(a);
    } else {
      Fill(a);
    }
    return Factorization<double, Strips>(a, n_, damped_, kLeastPivotF64,
                                         threads_, checkpoint_)
        .Run(rule, mean_, &facts_.dropped_pivots);
  }

  absl::Status DiagonalOnly() {
    facts_.diagonal_only = true;
    std::fill_n(args_.factor, n_ * n_, 0.0f);
    for (int64_t p = 0; p < n_; ++p) {
      const double d =
          undamped_[static_cast<size_t>(p)] + facts_.damping * mean_;
      args_.factor[p * (n_ + 1)] =
          d > 0 ? static_cast<float>(std::sqrt(d)) : 1.0f;
    }
    return absl::OkStatus();
  }

  // Zeros below the diagonal, and the F64 result rounded.
  absl::Status Finish(const Strips<double>* f64) {
    ParallelTiles(threads_, n_, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* const row = args_.factor + i * n_;
        std::fill_n(row, i, 0.0f);
        if (f64 == nullptr) continue;
        for (int64_t j = i; j < n_; ++j) {
          row[j] = static_cast<float>(*f64->At(i, j));
        }
      }
    });
    return absl::OkStatus();
  }

  const GptqFactorArgs& args_;
  const int64_t n_;
  const int threads_;
  GptqFactorFacts& facts_;
  SharedCheckpoint checkpoint_;
  std::vector<double> undamped_;  // the diagonal, by position
  std::vector<double> damped_;
  double mean_ = 0;
};

}  // namespace

absl::Status FactorCpu(const GptqFactorArgs& args, int threads) {
  QS_RETURN_IF_ERROR(CheckGptqFactor(args));
  UseOneBlasThread();
  return Ladder(args, threads).Run();
}

}  // namespace qs::gptq

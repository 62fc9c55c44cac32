// The reversed Cholesky factorisation on CPUs, of F32 or F64 in either layout:
// in panels from the last column to the first, each a small factorisation, a
// triangular solve of the rows above and an update of what is left, cut into
// fixed tiles. For gptq_factor_cpu.cc, which tries it as often as it takes.
//
// The solve multiplies by the inverses of the panel's blocks on the diagonal,
// computed in F64: OpenBLAS multiplies by a triangle five times as fast as it
// solves with one. A block whose inverse would cost digits is solved with.
#ifndef QS_KERNELS_CPU_GPTQ_FACTORIZATION_H_
#define QS_KERNELS_CPU_GPTQ_FACTORIZATION_H_

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/cpu/gptq_cpu.h"
#include "kernels/cpu/gptq_factor_layout.h"
#include "kernels/cpu/parallel.h"

extern "C" {
void spotrf_(const char* uplo, const int* n, float* a, const int* lda,
             int* info);
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda,
             int* info);
void dtrtri_(const char* uplo, const char* diag, const int* n, double* a,
             const int* lda, int* info);
}

namespace qs::gptq {

constexpr int64_t kFactorPanel = 128;
constexpr int64_t kSolveBlock = 64;
static_assert(kFactorTile % kFactorPanel == 0);
static_assert(kFactorPanel % kSolveBlock == 0);
// Of a block that is inverted: rounding costs it 1e-4 at most. Blocks of real
// models, damped by a hundredth, have 400 at most.
template <class T>
constexpr double kMostCondition = 1e-4 / std::numeric_limits<T>::epsilon();

// BLAS of either type under one name; all row-major.
inline int Potrf(int n, float* a) {
  int info = 0;
  spotrf_("U", &n, a, &n, &info);  // the lower triangle, row-major
  return info;
}
inline int Potrf(int n, double* a) {
  int info = 0;
  dpotrf_("U", &n, a, &n, &info);
  return info;
}
// a <- a^-1, a upper.
inline void Invert(int n, double* a) {
  int info = 0;
  dtrtri_("L", "N", &n, a, &n, &info);  // the upper triangle, row-major
}
// b <- b a^T, a upper.
inline void MultiplyRight(int m, int n, const float* a, int lda, float* b,
                          int ldb) {
  cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit,
              m, n, 1.0f, a, lda, b, ldb);
}
inline void MultiplyRight(int m, int n, const double* a, int lda, double* b,
                          int ldb) {
  cblas_dtrmm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit,
              m, n, 1.0, a, lda, b, ldb);
}
// b <- b r^-T, r upper.
inline void SolveRight(int m, int n, const float* r, int ldr, float* b,
                       int ldb) {
  cblas_strsm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit,
              m, n, 1.0f, r, ldr, b, ldb);
}
inline void SolveRight(int m, int n, const double* r, int ldr, double* b,
                       int ldb) {
  cblas_dtrsm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit,
              m, n, 1.0, r, ldr, b, ldb);
}
// c <- c - a b^T.
inline void Subtract(int m, int n, int k, const float* a, const float* b,
                     int ld, float* c, int ldc) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, -1.0f, a, ld, b,
              ld, 1.0f, c, ldc);
}
inline void Subtract(int m, int n, int k, const double* a, const double* b,
                     int ld, double* c, int ldc) {
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, -1.0, a, ld, b,
              ld, 1.0, c, ldc);
}
inline void SubtractSquare(int n, int k, const float* a, int ld, float* c,
                           int ldc) {
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasNoTrans, n, k, -1.0f, a, ld, 1.0f,
              c, ldc);
}
inline void SubtractSquare(int n, int k, const double* a, int ld, double* c,
                           int ldc) {
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

  // The rows above the panel, block by block of columns from the last.
  void SolveAbove(int64_t begin, int64_t end) {
    if (begin == 0) return;
    std::vector<Block> blocks;
    for (int64_t first = begin; first < end; first += kSolveBlock) {
      blocks.push_back(InvertBlock(first, std::min(first + kSolveBlock, end)));
    }
    ParallelTiles(
        threads_, begin, kFactorTile, [&](int64_t first, int64_t last) {
          for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
            SolveBlock(first, last, *block, end);
          }
        });
  }

  // Columns [begin, end) of a panel and the inverse of their triangle, empty
  // where it is not well-conditioned.
  struct Block {
    int64_t begin;
    int64_t end;
    std::vector<T> inverse;
  };

  Block InvertBlock(int64_t begin, int64_t end) const {
    const int64_t size = end - begin;
    std::vector<double> triangle(static_cast<size_t>(size * size));
    std::vector<double> column_sums(static_cast<size_t>(size));
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = i; j < size; ++j) {
        const double r = *At(begin + i, begin + j);
        triangle[static_cast<size_t>(i * size + j)] = r;
        column_sums[static_cast<size_t>(j)] += std::fabs(r);
      }
    }
    Invert(static_cast<int>(size), triangle.data());
    if (!(Condition(column_sums, triangle) <= kMostCondition<T>)) {
      return {begin, end, {}};
    }
    return {begin, end, std::vector<T>(triangle.begin(), triangle.end())};
  }

  // The greatest column sum of |R| |R^-1|, times which a product with R^-1
  // loses more than one solution does. `column_sums` is of |R|.
  static double Condition(const std::vector<double>& column_sums,
                          const std::vector<double>& inverse) {
    const size_t size = column_sums.size();
    double greatest = 0;
    for (size_t j = 0; j < size; ++j) {
      double sum = 0;
      for (size_t i = 0; i <= j; ++i) {
        sum += column_sums[i] * std::fabs(inverse[i * size + j]);
      }
      if (!(sum <= greatest)) greatest = sum;  // a NaN stays
    }
    return greatest;
  }

  void SolveBlock(int64_t first, int64_t last, const Block& block,
                  int64_t panel_end) const {
    const int ld = a_.Stride(block.begin);
    const int rows = static_cast<int>(last - first);
    const int cols = static_cast<int>(block.end - block.begin);
    if (block.end < panel_end) {
      Subtract(rows, cols, static_cast<int>(panel_end - block.end),
               At(first, block.end), At(block.begin, block.end), ld,
               At(first, block.begin), ld);
    }
    T* const b = At(first, block.begin);
    if (block.inverse.empty()) {
      SolveRight(rows, cols, At(block.begin, block.begin), ld, b, ld);
    } else {
      MultiplyRight(rows, cols, block.inverse.data(), cols, b, ld);
    }
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

}  // namespace qs::gptq

#endif  // QS_KERNELS_CPU_GPTQ_FACTORIZATION_H_

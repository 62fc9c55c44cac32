// Where FactorCpu keeps the upper triangle of a matrix while it factors it, and
// how it permutes one in its own memory.
#ifndef QS_KERNELS_CPU_GPTQ_FACTOR_LAYOUT_H_
#define QS_KERNELS_CPU_GPTQ_FACTOR_LAYOUT_H_

#include <algorithm>
#include <cstdint>

namespace qs::gptq {

// Side of a tile of the factorisation.
constexpr int64_t kFactorTile = 512;

// The whole matrix, row by row.
template <class T>
class Square {
 public:
  Square(T* a, int64_t n) : a_(a), n_(n) {}
  T* At(int64_t row, int64_t col) const { return a_ + row * n_ + col; }
  // From one row of a column to the next, and where the run of its row ends.
  int Stride(int64_t /*col*/) const { return static_cast<int>(n_); }
  int64_t RunEnd(int64_t /*col*/) const { return n_; }

 private:
  T* const a_;
  const int64_t n_;
};

// Strips of kFactorTile columns, each down to the end of its tile on the
// diagonal: little more than half of the matrix.
template <class T>
class Strips {
 public:
  Strips(T* a, int64_t n) : a_(a), n_(n) {}
  static int64_t Elements(int64_t n) {
    const int64_t last = (n - 1) / kFactorTile;
    return Before(last) + n * (n - last * kFactorTile);
  }
  T* At(int64_t row, int64_t col) const {
    const int64_t strip = col / kFactorTile;
    return a_ + Before(strip) + row * Stride(col) + col - strip * kFactorTile;
  }
  int Stride(int64_t col) const {
    return static_cast<int>(RunEnd(col) - col / kFactorTile * kFactorTile);
  }
  int64_t RunEnd(int64_t col) const {
    return std::min((col / kFactorTile + 1) * kFactorTile, n_);
  }

 private:
  static int64_t Before(int64_t strip) {
    return strip * (strip + 1) / 2 * kFactorTile * kFactorTile;
  }

  T* const a_;
  const int64_t n_;
};

// a <- P a P^T, element [i, j] the one that was at [order[i], order[j]] for
// j >= i, and at [order[j], order[i]] below: symmetric whether `a` was so to
// the last bit or not. Null: as stored.
void PermuteInPlace(float* a, int64_t n, const int32_t* order, int threads);

}  // namespace qs::gptq

#endif  // QS_KERNELS_CPU_GPTQ_FACTOR_LAYOUT_H_

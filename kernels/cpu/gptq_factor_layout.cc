// Tested by tests/kernels/gptq_differential_test.cc.
#include "kernels/cpu/gptq_factor_layout.h"

#include <cstring>
#include <vector>

#include "kernels/cpu/parallel.h"

namespace qs::gptq {
namespace {

constexpr int64_t kRows = 64;
// A tile and its mirror image fit the L1 cache together.
constexpr int64_t kMirror = 32;

void Copy(const float* from, int64_t count, float* to) {
  std::memcpy(to, from, sizeof(float) * static_cast<size_t>(count));
}

// Rows move along the cycles of the order, a strip of columns at a time.
void PermuteRows(float* a, int64_t n, const int32_t* order, int threads) {
  ParallelTiles(threads, n, kFactorTile, [&](int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    std::vector<float> first(static_cast<size_t>(count));
    std::vector<bool> moved(static_cast<size_t>(n));
    for (int64_t start = 0; start < n; ++start) {
      if (moved[static_cast<size_t>(start)]) continue;
      Copy(a + start * n + begin, count, first.data());
      int64_t to = start;
      while (true) {
        moved[static_cast<size_t>(to)] = true;
        const int64_t from = order[to];
        if (from == start) break;
        Copy(a + from * n + begin, count, a + to * n + begin);
        to = from;
      }
      Copy(first.data(), count, a + to * n + begin);
    }
  });
}

// Of the upper triangle only.
void PermuteColumns(float* a, int64_t n, const int32_t* order, int threads) {
  ParallelTiles(threads, n, kRows, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(n));
    for (int64_t i = begin; i < end; ++i) {
      Copy(a + i * n, n, row.data());
      for (int64_t j = i; j < n; ++j) {
        a[i * n + j] = row[static_cast<size_t>(order[j])];
      }
    }
  });
}

// Each call writes rows of its own below the diagonal. Tiles are read row by
// row: columns at a stride of whole rows would share few cache lines.
void MirrorUpper(float* a, int64_t n, int threads) {
  ParallelTiles(threads, n, kMirror, [&](int64_t begin, int64_t end) {
    float tile[kMirror][kMirror];
    for (int64_t col = 0; col < end; col += kMirror) {
      const int64_t col_end = std::min(col + kMirror, end);
      for (int64_t j = col; j < col_end; ++j) {
        Copy(a + j * n + begin, end - begin, tile[j - col]);
      }
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = col; j < std::min(col_end, i); ++j) {
          a[i * n + j] = tile[j - col][i - begin];
        }
      }
    }
  });
}

}  // namespace

void PermuteInPlace(float* a, int64_t n, const int32_t* order, int threads) {
  if (order != nullptr) {
    PermuteRows(a, n, order, threads);
    PermuteColumns(a, n, order, threads);
  }
  MirrorUpper(a, n, threads);
}

}  // namespace qs::gptq

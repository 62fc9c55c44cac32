// The order in which torch 2.15 adds F32 numbers on one thread of an x86 CPU
// (SumKernel.cpp with vectors of eight lanes): part of what hqq's zeros are.
//
// Cascade: elements go to level 0; every 2^p of them level 0 is added to level
// 1 and cleared, every 2^2p level 1 to 2, every 2^3p level 2 to 3, with p =
// max(4, ceil(log2(count)) / 4). At the end levels 0 + 1 + 2 + 3.
// Interleaved: elements 4 i + k go to cascade k, the rest of n mod 4 to the
// first; then the cascades are added in order.
// A contiguous run of eight and more: lane l is the interleaved sum of elements
// 8 i + l; the rest of n mod 8 is added from zero, then the lanes in order. A
// shorter run is one interleaved sum.
// Columns (axis 0): the first G - G mod 32 are plain cascades down the rows,
// the others interleaved ones; a single column is a contiguous run.
#ifndef QS_KERNELS_HQQ_SUMS_H_
#define QS_KERNELS_HQQ_SUMS_H_

#include <cstdint>

#ifndef QS_HD
#ifdef __CUDACC__
#define QS_HD __host__ __device__ inline
#else
#define QS_HD inline
#endif
#endif

namespace qs::hqq {

constexpr int kSumLanes = 8;
constexpr int64_t kSumQuad = 4 * kSumLanes;  // elements of four vectors
constexpr int kSumLevels = 4;

QS_HD int CascadePower(int64_t count) {
  if (count <= int64_t{1} << 19) return 4;
  int log2 = 20;
  while (int64_t{1} << log2 < count) ++log2;
  return log2 / 4;
}

// get(i): element i of `count`.
template <class Get>
QS_HD float CascadeSum(int64_t count, const Get& get) {
  const int power = CascadePower(count);
  const int64_t run = int64_t{1} << power;
  float level[kSumLevels] = {};
  int64_t i = 0;
  while (i + run <= count) {
    for (int64_t j = 0; j < run; ++j, ++i) level[0] += get(i);
    for (int k = 1; k < kSumLevels; ++k) {
      level[k] += level[k - 1];
      level[k - 1] = 0;
      if ((i & ((run - 1) << (k * power))) != 0) break;
    }
  }
  for (; i < count; ++i) level[0] += get(i);
  for (int k = 1; k < kSumLevels; ++k) level[0] += level[k];
  return level[0];
}

template <class Get>
QS_HD float InterleavedSum(int64_t count, const Get& get) {
  const int64_t quads = count / 4;
  float sums[4];
  for (int64_t k = 0; k < 4; ++k) {
    sums[k] = CascadeSum(quads, [&](int64_t i) { return get(4 * i + k); });
  }
  for (int64_t i = 4 * quads; i < count; ++i) sums[0] += get(i);
  for (int k = 1; k < 4; ++k) sums[0] += sums[k];
  return sums[0];
}

template <class Get>
QS_HD float ContiguousSum(int64_t count, const Get& get) {
  if (count < kSumLanes) return InterleavedSum(count, get);
  const int64_t vectors = count / kSumLanes;
  float sum = 0;
  for (int64_t i = vectors * kSumLanes; i < count; ++i) sum += get(i);
  for (int64_t lane = 0; lane < kSumLanes; ++lane) {
    sum += InterleavedSum(vectors,
                          [&](int64_t i) { return get(kSumLanes * i + lane); });
  }
  return sum;
}

enum class SumOrder { kContiguous, kCascade, kInterleaved };

// The order of group `g` of `groups`.
QS_HD SumOrder GroupSumOrder(int axis, int64_t g, int64_t groups) {
  if (axis == 1 || groups == 1) return SumOrder::kContiguous;
  return g < groups - groups % 32 ? SumOrder::kCascade : SumOrder::kInterleaved;
}

template <class Get>
QS_HD float GroupSum(SumOrder order, int64_t count, const Get& get) {
  switch (order) {
    case SumOrder::kContiguous:
      return ContiguousSum(count, get);
    case SumOrder::kCascade:
      return CascadeSum(count, get);
    default:
      return InterleavedSum(count, get);
  }
}

}  // namespace qs::hqq

#endif  // QS_KERNELS_HQQ_SUMS_H_

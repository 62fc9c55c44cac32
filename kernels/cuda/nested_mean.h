// The mean of nested absmax on a device, in the order of nf4::TorchMean
// (kernels/nested_absmax.cc), bit for bit; parallel where that order leaves
// sums independent.
//
// The order for n >= 8 values, in rows of 32 (a "quad"), one sum for each of
// the 32 columns: 2^s quads make a chunk, 2^s chunks a group; a chunk adds its
// quads, a group its chunks, "level 2" adds 2^s groups and "level 3" adds
// those. Chunks and groups start from 0, so that they are independent: a block
// of threads sums one group, a warp one chunk at a time. What is left over at
// each level stays there, and the levels are added at the end; then the 32
// columns become 8, the last rows of 8 join, the last n % 8 values, the 8 sums.
//
// The sums of the groups lie in memory that the caller lends: 32 floats a
// group of at least 8192 values.
// Tested by tests/kernels/nf4_cuda_test.cc.
#ifndef QS_KERNELS_CUDA_NESTED_MEAN_H_
#define QS_KERNELS_CUDA_NESTED_MEAN_H_

#include <bit>
#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {

constexpr int kColumns = 32;   // of a quad; one lane each
constexpr int kSumLanes = 8;   // the library's float lanes
constexpr int kMeanWarps = 8;  // that sum chunks of one group
constexpr int kMeanThreads = kMeanWarps * kWarpSize;

struct MeanParams {
  const float* values;
  int64_t count;
  int64_t quads;
  int shift;      // s
  float* groups;  // [quads >> 2s, 32]
  float* mean;
};

struct MeanShared {
  float chunks[kMeanWarps][kColumns];
  float columns[kColumns];
};

// The sum of `quads` quads from number `first`, this lane's column. `in`:
// global memory, or anything else whose Get gives a value.
template <class Thread, class In>
QS_KERNEL float SumQuads(const Thread& t, const In& in, int64_t first,
                         int64_t quads) {
  const int lane = t.ThreadIndex() % kWarpSize;
  float sum = 0.0f;
#if !defined(QS_CUDA_EMULATION)
#pragma unroll 16
#endif
  for (int64_t q = 0; q < quads; ++q) {
    sum += in.Get((first + q) * kColumns + lane);
  }
  return sum;
}

// The sum of the `chunks` first chunks of a group whose first quad is given, in
// the lanes of warp 0. By all threads of the block.
template <class Thread, class In>
QS_KERNEL float SumChunks(Thread& t, MeanShared& shared, const MeanParams& a,
                          const In& in, int64_t first, int64_t chunks) {
  const int lane = t.ThreadIndex() % kWarpSize;
  const int warp = t.ThreadIndex() / kWarpSize;
  float sum = 0.0f;
  for (int64_t c = 0; c < chunks; c += kMeanWarps) {
    if (c + warp < chunks) {
      shared.chunks[warp][lane] = SumQuads(
          t, in, first + ((c + warp) << a.shift), int64_t{1} << a.shift);
    }
    t.Barrier();
    for (int w = 0; warp == 0 && w < kMeanWarps && c + w < chunks; ++w) {
      sum += shared.chunks[w][lane];
    }
    t.Barrier();
  }
  return sum;
}

// One whole group a block of threads.
template <class Thread, class In>
QS_KERNEL void SumGroups(Thread& t, MeanShared& shared, const MeanParams& a,
                         const In& in) {
  const int64_t groups = a.quads >> (2 * a.shift);
  const auto out = t.Global(a.groups, groups * kColumns);
  for (int64_t g = t.BlockIndex(); g < groups; g += t.GridSize()) {
    const float sum =
        SumChunks(t, shared, a, in, g << (2 * a.shift), int64_t{1} << a.shift);
    if (t.ThreadIndex() < kColumns) {
      out.Set(g * kColumns + t.ThreadIndex(), sum);
    }
  }
}

// The column sums of all quads, in the lanes of warp 0. By all threads.
template <class Thread, class In>
QS_KERNEL float SumColumns(Thread& t, MeanShared& shared, const MeanParams& a,
                           const In& in) {
  const int64_t groups = a.quads >> (2 * a.shift);
  const int64_t in_groups = groups << (2 * a.shift);
  const int64_t chunks = (a.quads - in_groups) >> a.shift;
  const float level1 = SumChunks(t, shared, a, in, in_groups, chunks);
  if (t.ThreadIndex() >= kColumns) return 0.0f;
  const int64_t in_chunks = in_groups + (chunks << a.shift);
  const float level0 = SumQuads(t, in, in_chunks, a.quads - in_chunks);
  const auto sums = t.Global(a.groups, groups * kColumns);
  const int64_t mask = (int64_t{1} << a.shift) - 1;
  float level2 = 0.0f;
  float level3 = 0.0f;
#if !defined(QS_CUDA_EMULATION)
#pragma unroll 8
#endif
  for (int64_t g = 0; g < groups; ++g) {
    level2 += sums.Get(g * kColumns + t.ThreadIndex());
    if (((g + 1) & mask) == 0) {
      level3 += level2;
      level2 = 0.0f;
    }
  }
  return ((level0 + level1) + level2) + level3;
}

// From the column sums to the sum of everything, by one thread.
template <class In>
QS_KERNEL float FinishSum(const MeanShared& shared, const MeanParams& a,
                          const In& in) {
  const int64_t rows = a.count / kSumLanes;
  float lanes[kSumLanes];
  QS_UNROLL
  for (int i = 0; i < kSumLanes; ++i) lanes[i] = shared.columns[i];
  for (int64_t row = 4 * a.quads; row < rows; ++row) {
    QS_UNROLL
    for (int i = 0; i < kSumLanes; ++i) lanes[i] += in.Get(row * kSumLanes + i);
  }
  QS_UNROLL
  for (int i = kSumLanes; i < kColumns; ++i) {
    lanes[i % kSumLanes] += shared.columns[i];
  }
  float sum = 0.0f;
  for (int64_t i = rows * kSumLanes; i < a.count; ++i) sum += in.Get(i);
  QS_UNROLL
  for (int i = 0; i < kSumLanes; ++i) sum += lanes[i];
  return sum;
}

// Fewer than 8 values: the same with one lane and quads of 4.
template <class In>
QS_KERNEL float SumFew(const MeanParams& a, const In& in) {
  if (a.count < 4) {
    float sum = 0.0f;
    for (int64_t i = 0; i < a.count; ++i) sum += in.Get(i);
    return sum;
  }
  float sum = 0.0f + in.Get(0);
  for (int64_t i = 4; i < a.count; ++i) sum += in.Get(i);
  for (int64_t i = 1; i < 4; ++i) sum += in.Get(i);
  return sum;
}

// The rest, and the mean, in thread 0. By all threads of the only block.
template <class Thread, class In>
QS_KERNEL float MeanOf(Thread& t, MeanShared& shared, const MeanParams& a,
                       const In& in) {
  const float column = SumColumns(t, shared, a, in);
  if (t.ThreadIndex() < kColumns) shared.columns[t.ThreadIndex()] = column;
  t.Barrier();
  if (t.ThreadIndex() != 0) return 0.0f;
  const float sum =
      a.count < kSumLanes ? SumFew(a, in) : FinishSum(shared, a, in);
  return sum / static_cast<float>(a.count);
}

template <class Thread>
QS_KERNEL void SumGroupsKernel(Thread& t, MeanShared& shared,
                               const MeanParams& a) {
  SumGroups(t, shared, a, t.Global(a.values, a.count));
}

template <class Thread>
QS_KERNEL void MeanKernel(Thread& t, MeanShared& shared, const MeanParams& a) {
  const auto mean = t.Global(a.mean, 1);
  const float value = MeanOf(t, shared, a, t.Global(a.values, a.count));
  if (t.ThreadIndex() == 0) mean.Set(0, value);
}

QS_DEFINE_ENTRY(SumGroupsKernel, MeanShared)
QS_DEFINE_ENTRY(MeanKernel, MeanShared)

// mean <- the mean of `count` > 0 values. `scratch`: `count` bytes at any
// alignment, which this overwrites.
inline int LaunchMean(const float* values, int64_t count, uint8_t* scratch,
                      float* mean, cudaStream_t stream) {
  MeanParams a{values, count, count / kColumns, 4, nullptr, mean};
  // The library's choice of s: a quarter of ceil(log2(quads)), at least 4.
  if (a.quads > 1) {
    const int log2 = std::bit_width(static_cast<uint64_t>(a.quads - 1));
    a.shift = std::max(4, log2 / 4);
  }
  // A group takes 128 of its 8192 bytes or more: alignment costs nothing.
  const auto address = reinterpret_cast<uintptr_t>(scratch);
  a.groups = reinterpret_cast<float*>(scratch + (0 - address) % alignof(float));
  const int64_t groups = a.quads >> (2 * a.shift);
  if (groups > 0) {
    const int code =
        QS_LAUNCH(SumGroupsKernel, MeanShared, a, std::min(groups, kMaxGrid),
                  kMeanThreads, stream);
    if (code != 0) return code;
  }
  return QS_LAUNCH(MeanKernel, MeanShared, a, 1, kMeanThreads, stream);
}

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_NESTED_MEAN_H_

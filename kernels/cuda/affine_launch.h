// What the launchers and kernels of the affine encoders share.
#ifndef QS_KERNELS_CUDA_AFFINE_LAUNCH_H_
#define QS_KERNELS_CUDA_AFFINE_LAUNCH_H_

#include <bit>
#include <cstdint>

#include "kernels/affine_ops.h"
#include "kernels/cuda/affine_device.h"
#include "kernels/cuda/launch.h"

namespace qs::cuda {

struct AffineResetParams {
  Counter* first_non_finite;
};

template <class T>
struct AffineParams {
  using Element = T;
  const T* weight;
  int64_t count;
  int64_t group_size;
  int group_shift;  // log2 of a group size that registers hold, else -1
  int bits;
  bool symmetric;
  bool weight_vectors;  // 16-byte aligned
  bool code_vectors;    // 8-byte aligned
  uint8_t* codes;
  T* scales;
  uint8_t* zero_points;  // may be null
  Counter* first_non_finite;
  affine::ShrinkList shrink;  // of the bits
};

template <class T>
struct AffineMemory {
  GlobalMemory<const T> weight;
  GlobalMemory<uint8_t> codes;
  GlobalMemory<T> scales;
  GlobalMemory<uint8_t> zero_points;
  GlobalMemory<Counter> first_non_finite;
};

template <class Thread, class T>
QS_KERNEL AffineMemory<T> MemoryOf(const Thread& t, const AffineParams<T>& a) {
  const int64_t groups = a.count / a.group_size;
  return {t.Global(a.weight, a.count), t.Global(a.codes, a.count),
          t.Global(a.scales, groups),
          t.Global(a.zero_points, a.zero_points == nullptr ? 0 : groups),
          t.Global(a.first_non_finite, 1)};
}

template <class Memory>
QS_KERNEL void ReportIfNonFinite(const Memory& memory, float w, int64_t i) {
  if (!IsNonFinite(FloatBits(w) & 0x7fffffffu)) return;
  memory.first_non_finite.AtomicMin(0, static_cast<Counter>(i));
}

template <class Memory>
QS_KERNEL void AddToRange(const Memory& memory, int64_t i,
                          affine::Range* range) {
  const float w = Widen(memory.weight.Get(i));
  range->low = w < range->low ? w : range->low;
  range->high = w > range->high ? w : range->high;
  if (IsNonFinite(FloatBits(w) & 0x7fffffffu)) range->finite = false;
  ReportIfNonFinite(memory, w, i);
}

template <class Params, class Memory>
QS_KERNEL void StoreGrid(const Params& a, const Memory& memory, int64_t group,
                         const affine::Grid& grid) {
  typename Params::Element scale;
  Narrow(grid.scale, &scale);
  memory.scales.Set(group, scale);
  if (a.zero_points != nullptr) {
    memory.zero_points.Set(group, static_cast<uint8_t>(grid.zero_point));
  }
}

// The codes of the chunk at `begin`; what lies beyond `end` is 0.
template <class Global>
QS_KERNEL CodeWords LoadByteCodes(const Global& codes, int64_t begin,
                                  int64_t end, bool vector) {
  if (vector && begin + kChunk <= end) {
    return codes.template GetVector<CodeWords>(begin);
  }
  CodeWords words = {{0, 0}};
  QS_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    if (begin + j >= end) break;
    words.w[j / 4] |= static_cast<uint32_t>(codes.Get(begin + j))
                      << (j % 4 * 8);
  }
  return words;
}

// Not null, and aligned for elements of `dtype`.
inline bool IsElementPointer(const void* pointer, DType dtype) {
  return pointer != nullptr &&
         IsAligned(pointer, static_cast<size_t>(DTypeBytes(dtype)));
}

inline bool IsAffineServable(const TensorView& weight, int bits,
                             int64_t group_size) {
  if (!IsFloatWeight(weight.dtype) || bits < 2 || bits > 8 || group_size < 1 ||
      weight.rows < 0 || weight.cols < 0 || weight.cols % group_size != 0) {
    return false;
  }
  return weight.num_elements() == 0 ||
         IsElementPointer(weight.data, weight.dtype);
}

template <class T>
AffineParams<T> MakeAffineParams(const AffineEncodeArgs& args) {
  AffineParams<T> params;
  params.weight = static_cast<const T*>(args.weight.data);
  params.count = args.weight.num_elements();
  params.group_size = args.group_size;
  const bool small =
      args.group_size >= kChunk && args.group_size <= kChunk * kWarpSize &&
      std::has_single_bit(static_cast<uint64_t>(args.group_size));
  params.group_shift = small ? Log2(args.group_size) : -1;
  params.bits = args.bits;
  params.symmetric = args.symmetric;
  params.weight_vectors = IsAligned(args.weight.data, sizeof(Words));
  params.code_vectors = IsAligned(args.codes, sizeof(CodeWords));
  params.codes = args.codes;
  params.scales = static_cast<T*>(args.scales);
  params.zero_points = args.zero_points;
  params.first_non_finite = reinterpret_cast<Counter*>(args.first_non_finite);
  params.shrink = affine::kShrink[args.bits];
  return params;
}

// BEST, for arguments that LaunchAffineEncode has checked.
int LaunchAffineSearch(const AffineEncodeArgs& args, cudaStream_t stream);

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_AFFINE_LAUNCH_H_

// Host side that the launchers of the NF4 family share: argument checks, the
// tables that a kernel is given, the shape of a launch.
#ifndef QS_KERNELS_CUDA_LAUNCH_H_
#define QS_KERNELS_CUDA_LAUNCH_H_

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/base/checked_math.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/nf4_device.h"

namespace qs::cuda {

// Blocks of a launch at most; a kernel loops over the rest. Thousands keep
// every device busy to the end. The emulation has few, so that tests loop.
#if defined(QS_CUDA_EMULATION)
constexpr int64_t kMaxGrid = 3;
#else
constexpr int64_t kMaxGrid = 8192;
#endif

struct LaunchShape {
  int64_t grid;
  int block;
};

// For kernels that loop over the grid; whole warps, no more than the work has.
// REQUIRES: threads > 0.
inline LaunchShape ShapeFor(int64_t threads) {
  const int64_t whole = CeilDiv(threads, kWarpSize) * kWarpSize;
  const int64_t block = std::min<int64_t>(whole, kMaxBlockThreads);
  return {std::min(CeilDiv(whole, block), kMaxGrid), static_cast<int>(block)};
}

// REQUIRES: a power of two.
inline int Log2(int64_t x) {
  return std::countr_zero(static_cast<uint64_t>(x));
}

inline bool IsAligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Not null, and aligned for its type.
template <class T>
bool IsPointer(const T* pointer) {
  return pointer != nullptr && IsAligned(pointer, alignof(T));
}

inline bool IsServable(const TensorView& weight, int64_t block_size) {
  const bool block = block_size >= 32 && block_size <= 4096 &&
                     std::has_single_bit(static_cast<uint64_t>(block_size));
  if (!block || !IsFloatWeight(weight.dtype) || weight.num_elements() < 0) {
    return false;
  }
  const auto bytes = static_cast<size_t>(DTypeBytes(weight.dtype));
  return weight.num_elements() == 0 ||
         (weight.data != nullptr && IsAligned(weight.data, bytes));
}

// Calls `body` with a value of the element type of `dtype`.
template <class Body>
int WithType(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF32:
      return body(float{});
    case DType::kF16:
      return body(F16{});
    case DType::kBF16:
      return body(BF16{});
    default:
      return kCudaInvalidValue;
  }
}

// The bins of `table`; `fp4` keeps the bounds beside zero out of them.
inline BinTable ToBins(const RankTable& table, bool fp4) {
  constexpr float kNone = std::numeric_limits<float>::infinity();
  BinTable bins{};
  bins.beside_zero[0] = fp4 ? table.bounds[6] : kNone;
  bins.beside_zero[1] = fp4 ? table.bounds[8] : kNone;
  for (int bin = 0; bin < 32; ++bin) {
    bins.bounds[bin] = kNone;
    for (int k = 0; k < 15; ++k) {
      if (fp4 && (k == 6 || k == 8)) continue;
      const int at = BinOf(table.bounds[k]);
      if (at < bin) ++bins.below[bin];
      if (at == bin) bins.bounds[bin] = table.bounds[k];
    }
  }
  for (int rank = 0; rank < 16; ++rank) {
    bins.levels[rank] = table.levels[rank];
    bins.codes |= uint64_t{table.codes[rank]} << (4 * rank);
  }
  bins.zero_codes = table.zero_code * 0x11111111u;
  return bins;
}

inline BinTable MakeBinTable(Codebook codebook, Nf4Rule rule) {
  return ToBins(MakeRankTable(codebook, rule), codebook == Codebook::kFp4);
}

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_LAUNCH_H_

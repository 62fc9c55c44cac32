// SIMD entry point of nested absmax; a plain function, the instruction set is
// chosen inside. Used by nf4_cpu.cc and, of its look-up, by
// nf4_nested_simd.cc only.
#ifndef QS_KERNELS_CPU_NESTED_SIMD_H_
#define QS_KERNELS_CPU_NESTED_SIMD_H_

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "kernels/nf4_ops.h"

namespace qs::nf4 {

// kCuda's nearest level by table: the bits of |t| above the lowest 17 select a
// cell that holds at most one midpoint. Magnitudes below 2^-23 are below all
// but one of them.
struct NestedCells {
  NestedCells();

  static constexpr int kShift = 17;
  static constexpr int32_t kLowMask = (1 << kShift) - 1;
  static constexpr int32_t kNoBound = kLowMask + 1;
  static constexpr int32_t kFirst = (104 << 23) >> kShift;  // 2^-23
  static constexpr int32_t kCount = (24 << 23) >> kShift;   // up to 2
  static constexpr int32_t kSmallest = kFirst << kShift;
  static constexpr int32_t kLargest = ((kFirst + kCount) << kShift) - 1;

  // The bound's lowest 17 bits (kNoBound: none) << 8, and the number of
  // midpoints below the cell.
  std::array<int32_t, kCount> cells;
};

const NestedCells& GetNestedCells();

// NestedNearest by them. REQUIRES: t is not NaN.
inline int NearestByCells(const NestedCells& table, float t) {
  const auto bits = std::bit_cast<int32_t>(t);
  const int32_t magnitude = std::clamp(
      bits & 0x7fffffff, NestedCells::kSmallest, NestedCells::kLargest);
  const int32_t cell = table.cells[static_cast<size_t>(
      (magnitude >> NestedCells::kShift) - NestedCells::kFirst)];
  const int32_t base = cell & 255;
  // The greater level above a midpoint, the even code on it.
  const int32_t low = (magnitude & NestedCells::kLowMask) + (base & 1);
  const int32_t code = base + (low > cell >> 8 ? 1 : 0);
  // Below zero the map mirrors; it has no counterpart of 1.0 there.
  return bits < 0 ? std::max(254 - code, 0) : code;
}

// Encodes blocks of absmax [begin, end), given args.offset. REQUIRES: begin is
// a multiple of kNestedBlockSize, end too or args.num_blocks.
void NestedEncodeBlocks(const NestedEncodeArgs& args, int64_t begin,
                        int64_t end);

}  // namespace qs::nf4

#endif  // QS_KERNELS_CPU_NESTED_SIMD_H_

// SIMD entry point of nested absmax; a plain function, the instruction set is
// chosen inside. Used by nf4_cpu.cc only.
#ifndef QS_KERNELS_CPU_NESTED_SIMD_H_
#define QS_KERNELS_CPU_NESTED_SIMD_H_

#include <array>
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

// Encodes blocks of absmax [begin, end), given args.offset. REQUIRES: begin is
// a multiple of kNestedBlockSize, end too or args.num_blocks.
void NestedEncodeBlocks(const NestedEncodeArgs& args, int64_t begin,
                        int64_t end);

}  // namespace qs::nf4

#endif  // QS_KERNELS_CPU_NESTED_SIMD_H_

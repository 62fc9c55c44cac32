// SIMD entry points of the packings that one file format each has; plain
// functions, the instruction set is chosen inside. Used by affine_cpu.cc only.
#ifndef QS_KERNELS_CPU_PACK_SIMD_H_
#define QS_KERNELS_CPU_PACK_SIMD_H_

#include <cstdint>

#include "kernels/affine_ops.h"

namespace qs::affine {

// Words that are worked at together: a cache line of each of some columns, and
// all of them in a core's first cache.
constexpr int64_t kAwqBlockWords = 16;
constexpr int64_t kAwqBlockColumns = 256;

// Those of columns [first_col, first_col + cols), from number first_word on,
// both not above a block's.
struct AwqBlock {
  int64_t first_word;
  int64_t words;
  int64_t first_col;
  int64_t cols;
};
void PackAwqBlock(const PackAwqArgs& args, const AwqBlock& block);
void UnpackAwqBlock(const UnpackAwqArgs& args, const AwqBlock& block);

// Elements [begin, end).
void PackPartsRange(const PackPartsArgs& args, int64_t begin, int64_t end);
void UnpackPartsRange(const UnpackPartsArgs& args, int64_t begin, int64_t end);

}  // namespace qs::affine

#endif  // QS_KERNELS_CPU_PACK_SIMD_H_

// SIMD entry points of the affine family; plain functions, the instruction set
// is chosen inside. Used by affine_cpu.cc only.
#ifndef QS_KERNELS_CPU_AFFINE_SIMD_H_
#define QS_KERNELS_CPU_AFFINE_SIMD_H_

#include <cstdint>

#include "kernels/affine_ops.h"

namespace qs::affine {

// Encodes the groups [first, last) of the flat tensor. Returns the flat index
// of the first non-finite element there, or -1.
int64_t EncodeGroups(const AffineEncodeArgs& args, int64_t first, int64_t last);
void DecodeGroups(const AffineDecodeArgs& args, int64_t first, int64_t last);

// Two codes a byte, the first in the low nibble. REQUIRES: count is even.
void PackNibbles(const uint8_t* codes, int64_t count, uint8_t* packed);
void UnpackNibbles(const uint8_t* packed, int64_t count, uint8_t* codes);

}  // namespace qs::affine

#endif  // QS_KERNELS_CPU_AFFINE_SIMD_H_

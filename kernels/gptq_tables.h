// Constants of the GPTQ family that the reference and the fast versions share.
#ifndef QS_KERNELS_GPTQ_TABLES_H_
#define QS_KERNELS_GPTQ_TABLES_H_

#include <cstdint>

namespace qs::gptq {

// Columns that one pass of the loop takes together; ranges of dynamic groups
// see the compensation of whole blocks only.
constexpr int64_t kBlock = 128;

// kMse: range i of 80 is the full one times 1 - i / 100.
constexpr int kMseRanges = 80;

// kCurvature: the full range times 1 - i / 100, i from 0.
constexpr int kCurvatureRanges = 80;

// Refine: scales are refitted in so many sweeps; later ones find next to
// nothing, and a change of a scale is one of all columns of its group.
constexpr int kScaleRefits = 2;
// Refine: how often a block of columns is gone through before the next.
constexpr int kBlockPasses = 3;
// Columns of a block: whole groups, where a block holds one.
constexpr int64_t RefineBlock(int64_t group_size) {
  return group_size > kBlock ? kBlock : kBlock / group_size * group_size;
}

// The ladder of Factor.
constexpr double kDampingStep = 3;
constexpr double kMaxDamping = 0.3;
// A pivot below this share of its diagonal element is lost in F32's rounding.
constexpr double kLeastPivotF32 = 0x1p-18;
// The same for F64, and what lost pivots are set to.
constexpr double kLeastPivotF64 = 0x1p-44;

}  // namespace qs::gptq

#endif  // QS_KERNELS_GPTQ_TABLES_H_

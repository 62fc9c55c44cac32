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

// Refine: scales are refitted after so many sweeps; later ones find next to
// nothing and a refit costs as much as several sweeps.
constexpr int kScaleRefits = 3;

// The ladder of Factor.
constexpr double kDampingStep = 3;
constexpr double kMaxDamping = 0.3;
// A pivot below this share of its diagonal element is lost in F32's rounding.
constexpr double kLeastPivotF32 = 0x1p-18;
// The same for F64, and what lost pivots are set to.
constexpr double kLeastPivotF64 = 0x1p-44;

}  // namespace qs::gptq

#endif  // QS_KERNELS_GPTQ_TABLES_H_

// SIMD entry points of the statistics family; plain functions, the instruction
// set is chosen inside. Used by stats_cpu.cc only.
#ifndef QS_KERNELS_CPU_STATS_SIMD_H_
#define QS_KERNELS_CPU_STATS_SIMD_H_

#include <cstdint>

#include "kernels/stats_ops.h"

namespace qs::stats {

// The elements [begin, end); `begin` is a multiple of the group size and of
// kStatsRun, `end` is another such or the last. Adds to *sums and, unless it is
// null, to *rtn; those of `args` are not written.
void AddErrors(const ErrorSumsArgs& args, int64_t begin, int64_t end,
               ErrorSums* sums, ErrorSums* rtn);

}  // namespace qs::stats

#endif  // QS_KERNELS_CPU_STATS_SIMD_H_

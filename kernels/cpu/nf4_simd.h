// SIMD entry points of the NF4 family; plain functions, the instruction set is
// chosen inside. Used by nf4_cpu.cc only.
#ifndef QS_KERNELS_CPU_NF4_SIMD_H_
#define QS_KERNELS_CPU_NF4_SIMD_H_

#include <cstdint>

#include "kernels/nf4_math.h"
#include "kernels/nf4_ops.h"
#include "kernels/nf4_tables.h"

namespace qs::nf4 {

// Row q + kFirstRow: the terms of step q, all crosses, then all squares. 8 KiB,
// which stay in a core's first cache during a search. No step has row 0.
struct SearchTable {
  static constexpr int kFirstRow = kSearchSteps + 1;
  explicit SearchTable(Codebook codebook);
  alignas(64) int16_t rows[kFirstRow + kSearchSteps + 1][2 * kCandidates] = {};
};

struct SimdTables {
  RankTable rule;       // of the reference rule
  RankTable midpoints;  // kCpu: for searches
  float levels_by_code[16];
  const SearchTable* search = nullptr;  // for Encode
};

// Encodes blocks [first_block, last_block). Returns the flat index of the first
// non-finite element there, or -1.
int64_t EncodeBlocks(const Nf4EncodeArgs& args, const SimdTables& tables,
                     int64_t first_block, int64_t last_block);
void DecodeBlocks(const Nf4DecodeArgs& args, const SimdTables& tables,
                  int64_t first_block, int64_t last_block);
void NestedRefineBlocks(const NestedRefineArgs& args, const SimdTables& tables,
                        int64_t first_block, int64_t last_block);

}  // namespace qs::nf4

#endif  // QS_KERNELS_CPU_NF4_SIMD_H_

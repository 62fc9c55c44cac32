// Constant tables of the NF4 family: codebook levels, decision thresholds of
// both reference rules, and the 8-bit map of nested absmax.
//
// Values are float32 bit patterns, because decimal literals of the thresholds
// are ties that a parser may round either way. Source: bitsandbytes 0.50.2.
#ifndef QS_KERNELS_NF4_TABLES_H_
#define QS_KERNELS_NF4_TABLES_H_

#include <array>
#include <cstdint>

#include "kernels/nf4_ops.h"

namespace qs {

// One decision table: the rank of t is the number of `bounds` strictly below
// it; `level[rank]` ascends; `code[rank]` is what is stored.
struct RankTable {
  float bounds[15];
  float levels[16];
  uint8_t codes[16];
  uint8_t zero_code;  // the code of 0.0: pads an odd count
};

// kCuda: the library's CUDA kernels, its sign rule for FP4 included. A bound
// just below -T stands for its strict comparison of |t|; subnormal t count as
// 0 there. kCpu: midpoints; also the table of every search.
RankTable MakeRankTable(Codebook codebook, Nf4Rule rule);

// The 255 midpoints fl(fl(D[i] + D[i+1]) * 0.5) of the nested map.
std::array<float, 255> NestedMidpoints();

}  // namespace qs

#endif  // QS_KERNELS_NF4_TABLES_H_

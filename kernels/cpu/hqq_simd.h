// SIMD entry points of the HQQ family; plain functions, the instruction set is
// chosen inside. Used by hqq_cpu.cc only.
#ifndef QS_KERNELS_CPU_HQQ_SIMD_H_
#define QS_KERNELS_CPU_HQQ_SIMD_H_

#include <cstdint>

#include "kernels/hqq_ops.h"
#include "kernels/hqq_sums.h"

namespace qs::hqq {

// Where the solver stands.
struct Progress {
  float* inverse = nullptr;   // [groups]
  float* zero = nullptr;      // [groups]
  uint16_t* still = nullptr;  // [groups]: steps until zero stood still
};

// The part of one iteration's error sum that a tile of the flat weight holds.
// A tile has 2^3p rows of 32 elements, p the CascadePower of all rows, so that
// it fills levels 0 to 2 of each of the 32 cascades and begins them anew.
struct TileErrors {
  float level[3][kSumQuad] = {};
  float rest[kSumQuad] = {};  // of the last tile: elements after the last row
};

inline int64_t ChunkElements(int power) { return kSumQuad << power; }
inline int64_t TileElements(int power) { return kSumQuad << (3 * power); }

// Flat index of the first NaN or infinity in [begin, end), or -1.
int64_t FindNonFinite(const TensorView& weight, int64_t begin, int64_t end);

// Groups that lie whole in a chunk: axis 1, a power of two from 8 to 512.
bool InChunks(const HqqEncodeArgs& args);

// The whole solver for the elements [begin, end), which begin a tile and do not
// cross its end: starts, all iterations, errors[args.iterations], and codes of
// the last zero. Returns the flat index of the first NaN or infinity, or -1.
// REQUIRES: InChunks.
int64_t SolveTile(const HqqEncodeArgs& args, int64_t begin, int64_t end,
                  int power, const Progress& progress, TileErrors* errors);
// Group g again, with `iterations` steps.
void SolveAgain(const HqqEncodeArgs& args, int64_t g, int iterations,
                const Progress& progress);

// The same in single steps, for groups of any shape.
void StartGroups(const HqqEncodeArgs& args, int64_t first, int64_t last,
                 const Progress& progress);
void AddErrors(const HqqEncodeArgs& args, int64_t begin, int64_t end, int power,
               const Progress& progress, TileErrors* errors);
// Step k. `first` is a multiple of 32 for axis 0. Whether a zero moved.
bool MoveZeros(const HqqEncodeArgs& args, int64_t first, int64_t last, int k,
               const Progress& progress);
void WriteCodes(const HqqEncodeArgs& args, int64_t begin, int64_t end,
                const Progress& progress);

// kReference: scales and zeros. With integer zero points also the codes.
void WriteFloats(const HqqEncodeArgs& args, int64_t first, int64_t last,
                 const Progress& progress);
void WriteIntegers(const HqqEncodeArgs& args, int64_t first, int64_t last,
                   const Progress& progress);

// kBest for the groups [first, last). Returns the sum of their iterations.
int64_t SearchGroups(const HqqEncodeArgs& args, int64_t first, int64_t last);

void DecodeElements(const HqqDecodeArgs& args, int64_t begin, int64_t end);

}  // namespace qs::hqq

#endif  // QS_KERNELS_CPU_HQQ_SIMD_H_

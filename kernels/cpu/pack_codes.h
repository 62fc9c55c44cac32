// Dense packing of codes of 1..8 bits, for every width alike: eight codes and
// 64-bit arithmetic at a time. Used by affine_cpu.cc only.
#ifndef QS_KERNELS_CPU_PACK_CODES_H_
#define QS_KERNELS_CPU_PACK_CODES_H_

#include <cstdint>

namespace qs::affine {

// One row: code i at bit i * bits of CeilDiv(count * bits, 32) words.
void PackCodes(const uint8_t* codes, int64_t count, int bits, uint32_t* words);
void UnpackCodes(const uint32_t* words, int64_t count, int bits,
                 uint8_t* codes);

// Columns [0, cols) of one word row: `bits` word rows hold 32 code rows. `rows`
// (1..32) code rows start at `codes`, both with `stride` columns a row; as many
// word rows as they touch are written.
void PackColumnBlock(const uint8_t* codes, int64_t rows, int64_t stride,
                     int bits, uint32_t* words);
void UnpackColumnBlock(const uint32_t* words, int64_t rows, int64_t stride,
                       int bits, uint8_t* codes);

}  // namespace qs::affine

#endif  // QS_KERNELS_CPU_PACK_CODES_H_

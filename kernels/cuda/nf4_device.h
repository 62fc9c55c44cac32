// What the NF4 kernels share: eight elements as a thread holds them, and ranks
// by table.
//
// A chunk is 8 consecutive elements: 16 bytes of F16 or BF16, 32 of F32, and 4
// bytes of codes. Block sizes are multiples of 32, so that a chunk lies in one
// block and starts at a multiple of its own size.
// Tested by tests/kernels/nf4_cuda_test.cc.
#ifndef QS_KERNELS_CUDA_NF4_DEVICE_H_
#define QS_KERNELS_CUDA_NF4_DEVICE_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cuda/vocabulary.h"
#include "kernels/nf4_math.h"
#include "kernels/nf4_tables.h"

#if defined(QS_CUDA_EMULATION)
#include "kernels/base/dtype.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace qs::cuda {

constexpr int kChunk = 8;

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

QS_HD uint32_t FloatBits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
QS_HD float BitsFloat(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// Conversions, exact or rounded to nearest even: the device's instructions, or
// kernels/base/dtype.h. They differ in the payload of a NaN alone.
#if defined(QS_CUDA_EMULATION)
QS_KERNEL float Widen(F16 x) { return F16ToFloat(x.bits); }
QS_KERNEL void Narrow(float x, F16* out) { out->bits = FloatToF16(x); }
QS_KERNEL void Narrow(float x, BF16* out) { out->bits = FloatToBf16(x); }
#else
QS_KERNEL float Widen(F16 x) { return __half2float(__ushort_as_half(x.bits)); }
QS_KERNEL void Narrow(float x, F16* out) {
  out->bits = __half_as_ushort(__float2half_rn(x));
}
QS_KERNEL void Narrow(float x, BF16* out) {
  out->bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
#endif
QS_KERNEL float Widen(float x) { return x; }
QS_KERNEL float Widen(BF16 x) {
  return BitsFloat(static_cast<uint32_t>(x.bits) << 16);
}
QS_KERNEL void Narrow(float x, float* out) { *out = x; }

// Two values rounded to T, as a word of 16-bit elements has them.
#if defined(QS_CUDA_EMULATION)
template <class T>
QS_KERNEL uint32_t NarrowPair(T, float first, float second) {
  T low, high;
  Narrow(first, &low);
  Narrow(second, &high);
  return low.bits | static_cast<uint32_t>(high.bits) << 16;
}
#else
QS_KERNEL uint32_t NarrowPair(F16, float first, float second) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}
QS_KERNEL uint32_t NarrowPair(BF16, float first, float second) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}
#endif

// x rounded to T.
template <class T>
QS_KERNEL float Rounded(float x) {
  T narrow;
  Narrow(x, &narrow);
  return Widen(narrow);
}

// Blocks of 2^shift elements that hold `count`.
QS_HD int64_t BlockCount(int64_t count, int shift) {
  return (count + (int64_t{1} << shift) - 1) >> shift;
}

QS_KERNEL bool IsNonFinite(uint32_t magnitude_bits) {
  return magnitude_bits >= 0x7f800000u;
}

// What one 16-byte access moves.
struct alignas(16) Words {
  uint32_t w[4];
};

// One chunk of T in registers, as stored. Indices must be constants after
// unrolling.
template <class T>
struct Chunk {
  static constexpr int kWords = 4 * sizeof(T) / 8;
  static constexpr bool kWide = sizeof(T) == 4;
  Words words[kWords];

  QS_KERNEL float At(int j) const {
    if constexpr (kWide) {
      return BitsFloat(words[j / 4].w[j % 4]);
    } else {
      const uint32_t pair = words[0].w[j / 2];
      return Widen(T{static_cast<uint16_t>(j % 2 == 0 ? pair : pair >> 16)});
    }
  }
  QS_KERNEL T Stored(int j) const {
    if constexpr (kWide) {
      return BitsFloat(words[j / 4].w[j % 4]);
    } else {
      return T{static_cast<uint16_t>(words[0].w[j / 2] >> (j % 2 * 16))};
    }
  }
  QS_KERNEL void Clear() {
    QS_UNROLL
    for (int i = 0; i < kWords; ++i) words[i] = Words{{0, 0, 0, 0}};
  }
  // REQUIRES: element j is clear.
  QS_KERNEL void Fill(int j, T value) {
    if constexpr (kWide) {
      words[j / 4].w[j % 4] = FloatBits(value);
    } else {
      words[0].w[j / 2] |= static_cast<uint32_t>(value.bits) << (j % 2 * 16);
    }
  }
  QS_KERNEL uint32_t MaxMagnitude() const {
    uint32_t top = 0;
    QS_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      const uint32_t bits = FloatBits(At(j)) & 0x7fffffffu;
      top = bits > top ? bits : top;
    }
    return top;
  }
};

// The chunk at element `begin`, which is there and aligned to 16 bytes.
template <class T, class Global>
QS_KERNEL Chunk<T> LoadWhole(const Global& in, int64_t begin) {
  Chunk<T> chunk;
  QS_UNROLL
  for (int i = 0; i < Chunk<T>::kWords; ++i) {
    chunk.words[i] =
        in.template GetVector<Words>(begin + i * (kChunk / Chunk<T>::kWords));
  }
  return chunk;
}

// The chunk at element `begin` of `count`; what lies beyond reads as 0, whose
// codes are what pads an odd count. `vector`: 16-byte accesses are aligned.
template <class T, class Global>
QS_KERNEL Chunk<T> LoadChunk(const Global& in, int64_t begin, int64_t count,
                             bool vector) {
  if (vector && begin + kChunk <= count) return LoadWhole<T>(in, begin);
  Chunk<T> chunk;
  chunk.Clear();
  QS_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    if (begin + j < count) chunk.Fill(j, in.Get(begin + j));
  }
  return chunk;
}

// The same of a store.
template <class T, class Global>
QS_KERNEL void StoreWhole(const Global& out, int64_t begin,
                          const Chunk<T>& chunk) {
  QS_UNROLL
  for (int i = 0; i < Chunk<T>::kWords; ++i) {
    out.SetVector(begin + i * (kChunk / Chunk<T>::kWords), chunk.words[i]);
  }
}

template <class T, class Global>
QS_KERNEL void StoreChunk(const Global& out, int64_t begin, int64_t count,
                          const T (&values)[kChunk], bool vector) {
  if (vector && begin + kChunk <= count) {
    Chunk<T> chunk;
    chunk.Clear();
    QS_UNROLL
    for (int j = 0; j < kChunk; ++j) chunk.Fill(j, values[j]);
    StoreWhole(out, begin, chunk);
    return;
  }
  QS_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    if (begin + j < count) out.Set(begin + j, values[j]);
  }
}

// The largest value over `lanes` neighbours, a power of two. By all lanes.
template <class Thread>
QS_KERNEL uint32_t MaxOverLanes(Thread& t, uint32_t value, int lanes) {
  for (int mask = 1; mask < lanes; mask *= 2) {
    const uint32_t other = t.ShuffleXor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

template <class T, class Memory>
QS_KERNEL void ReportNonFinite(const Memory& memory, const Chunk<T>& chunk,
                               int64_t begin) {
  QS_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    if (!IsNonFinite(FloatBits(chunk.At(j)) & 0x7fffffffu)) continue;
    memory.first_non_finite.AtomicMin(
        0, static_cast<unsigned long long>(begin + j));
    return;
  }
}

// Where element j of a chunk sits in its word of codes.
QS_KERNEL int NibbleShift(int j) { return (j ^ 1) * 4; }

// The codes of the chunk at `begin`, without the bytes beyond an odd count's
// padding nibble. `vector`: 4-byte accesses are aligned.
template <class Global>
QS_KERNEL void StoreCodes(const Global& packed, int64_t begin, int64_t count,
                          uint32_t codes, bool vector) {
  if (vector && begin + kChunk <= count) {
    packed.SetVector(begin / 2, codes);
    return;
  }
  for (int k = 0; k < kChunk / 2; ++k) {
    if (begin + 2 * k < count) packed.Set(begin / 2 + k, codes >> (8 * k));
  }
}

template <class Global>
QS_KERNEL uint32_t LoadCodes(const Global& packed, int64_t begin, int64_t count,
                             bool vector) {
  if (vector && begin + kChunk <= count) {
    return packed.template GetVector<uint32_t>(begin / 2);
  }
  uint32_t codes = 0;
  for (int k = 0; k < kChunk / 2; ++k) {
    if (begin + 2 * k < count) {
      codes |= static_cast<uint32_t>(packed.Get(begin / 2 + k)) << (8 * k);
    }
  }
  return codes;
}

// A RankTable for look-up by bins. [-1, 1] is cut into 31 bins; each holds at
// most one bound, but for the two of FP4 beside its zero, which are counted
// apart. The bin is monotone in t and the table is built with the same bins, so
// the rank is exact: the bounds in lower bins, plus the bin's own if below t.
struct BinTable {
  float bounds[32];      // infinity: none
  int32_t below[32];     // bounds in lower bins
  float beside_zero[2];  // FP4's
  float levels[16];      // by rank
  uint64_t codes;        // 16 nibbles, by rank
  uint32_t zero_codes;   // eight codes of 0.0
};

// t times the scale, rounded to an integer by the size of the offset and left
// in the low bits of the sum: 1 for t = -1, 31 for t = 1. For other t the
// result is a bin, but not a meaningful one.
QS_HD int BinOf(float t) {
  return static_cast<int>(FloatBits(fmaf(t, 15.49f, 0x1p23f + 16.0f)) & 31u);
}

struct alignas(8) Bin {
  float bound;
  int32_t below;
};

// The bins in shared memory, a column for each lane: no bank conflicts.
struct SharedBins {
  Bin bins[32][kWarpSize];
};

template <class Thread>
QS_KERNEL void FillBins(const Thread& t, const BinTable& table,
                        SharedBins& shared) {
  for (int i = t.ThreadIndex(); i < 32 * kWarpSize; i += t.BlockSize()) {
    const int bin = i / kWarpSize;
    shared.bins[bin][i % kWarpSize] = {table.bounds[bin], table.below[bin]};
  }
}

// The levels by rank or by code, a column for each lane.
struct SharedLevels {
  float levels[16][kWarpSize];
};

template <class Thread>
QS_KERNEL void FillLevels(const Thread& t, const float (&levels)[16],
                          SharedLevels& shared) {
  for (int i = t.ThreadIndex(); i < 16 * kWarpSize; i += t.BlockSize()) {
    shared.levels[i / kWarpSize][i % kWarpSize] = levels[i / kWarpSize];
  }
}

// One thread's view of a filled table. kFp4 costs two comparisons more.
template <bool kFp4>
class Ranker {
 public:
  QS_KERNEL Ranker(const SharedBins& shared, const BinTable& table, int lane)
      : column_(&shared.bins[0][lane]),
        low_(table.beside_zero[0]),
        high_(table.beside_zero[1]),
        codes_(table.codes) {}

  // REQUIRES: |t| <= 1 + 2^-20, or NaN, whose rank is unspecified.
  QS_KERNEL int Rank(float t) const {
    const Bin bin = column_[BinOf(t) * kWarpSize];
    int rank = bin.below + (t > bin.bound ? 1 : 0);
    if constexpr (kFp4) rank += (t > low_ ? 1 : 0) + (t > high_ ? 1 : 0);
    return rank;
  }
  // NF4's codes are its ranks.
  QS_KERNEL uint32_t Code(int rank) const {
    if constexpr (!kFp4) return static_cast<uint32_t>(rank);
    return static_cast<uint32_t>(codes_ >> (4 * rank)) & 15u;
  }

 private:
  const Bin* column_;
  float low_, high_;
  uint64_t codes_;
};

// t clamped to [-1, 1]: ranks stay, because all bounds lie inside.
QS_KERNEL float ClampUnit(float t) {
  return t < -1.0f ? -1.0f : (t > 1.0f ? 1.0f : t);
}

// Eight codes as a word; `code(x)` gives that of one element.
template <class T, class Code>
QS_KERNEL uint32_t PackCodes(const Chunk<T>& chunk, const Code& code) {
  uint32_t word = 0;
  QS_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    word |= code(chunk.At(j)) << NibbleShift(j);
  }
  return word;
}

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_NF4_DEVICE_H_

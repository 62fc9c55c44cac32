// The NF4/FP4 encoder of blocks up to 256 elements without search. Equations:
// kernels/nf4_math.h; layout: kernels/nf4_ops.h; definition:
// kernels/reference/nf4_reference.cc, whose bytes this gives.
//
// A thread has chunks of 8 elements of a tile, 64 bytes of loads in flight to
// hide the latency of memory; block_size / 8 neighbouring lanes own a block. A
// warp whose part of a whole, aligned tile has plain blocks only (below) takes
// the short way; another encodes it one chunk after the other, with every
// check.
//
//   chunk 0          chunk 1          ..  chunk kInFlight - 1
//   lane 0 1 .. 31   lane 0 1 .. 31       lane 0 1 .. 31        of warp 0
//   | block | block | ...
//   <---- kTileStride ---->
//
// The short way: the maxima of all chunks are reduced at once, so that in the
// end each lane has that of one chunk, number lane % kInFlight, for which it
// divides and stores the absmax; the others ask it for the reciprocal. Ranks:
// nf4_steps.h. A block is plain if its absmax is far from what is not a normal
// float32: then both rules normalize by a product alone, and what it exceeds 1
// by in rounding changes no rank.
//
// Limits: block sizes 32 to 256, powers of two; any count below 2^62.
// Tested by tests/kernels/nf4_tiles_cuda_test.cc and nf4_cuda_test.cc.
#include <type_traits>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/nf4_params.h"
#include "kernels/cuda/nf4_step_table.h"
#include "kernels/cuda/nf4_steps.h"
#include "kernels/cuda/nf4_tiles.h"

namespace qs::cuda {
namespace {

using nf4::BlockScale;

template <class T>
constexpr int kInFlight = 64 / (kChunk * static_cast<int>(sizeof(T)));
template <class T>
constexpr int64_t kTile = kTileStride* kInFlight<T>;

// kFlush: for FP4 by kCuda's rule, where a subnormal float32 has a code of its
// own if it is not taken for 0. No F16 widens or normalizes to one.
template <class T, bool kFp4Value, bool kFlushValue>
struct TileParams : EncodeParams<T> {
  static constexpr bool kFp4 = kFp4Value;
  static constexpr bool kFlush = kFlushValue;
  StepTable steps;
  RankTable ranks;  // the same by comparison
};

// What a word of a weight has, one float32 or two values of 16 bits, without
// signs.
QS_KERNEL uint32_t Magnitudes(float, uint32_t word) {
  return word & 0x7fffffffu;
}
QS_KERNEL uint32_t Magnitudes(F16, uint32_t word) { return word & 0x7fff7fffu; }
QS_KERNEL uint32_t Magnitudes(BF16, uint32_t word) {
  return word & 0x7fff7fffu;
}

// The greater ones of two such words, NaN above all; its payload may be lost.
#if defined(QS_CUDA_EMULATION)
QS_KERNEL uint32_t Greater(float, uint32_t a, uint32_t b) {
  return std::max(a, b);
}
inline uint32_t GreaterOfPairs(uint32_t a, uint32_t b) {
  return std::max(a & 0xffffu, b & 0xffffu) |
         std::max(a & 0xffff0000u, b & 0xffff0000u);
}
QS_KERNEL uint32_t Greater(F16, uint32_t a, uint32_t b) {
  return GreaterOfPairs(a, b);
}
QS_KERNEL uint32_t Greater(BF16, uint32_t a, uint32_t b) {
  return GreaterOfPairs(a, b);
}
#else
QS_KERNEL uint32_t Greater(float, uint32_t a, uint32_t b) {
  return a > b ? a : b;
}
QS_KERNEL uint32_t Greater(F16, uint32_t a, uint32_t b) {
  uint32_t top;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(top) : "r"(a), "r"(b));
  return top;
}
QS_KERNEL uint32_t Greater(BF16, uint32_t a, uint32_t b) {
  uint32_t top;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(top) : "r"(a), "r"(b));
  return top;
}
#endif

// Of a chunk: one magnitude, or two halves of it.
template <class T>
QS_KERNEL uint32_t ChunkMagnitude(const Chunk<T>& chunk) {
  uint32_t top = 0;
  QS_UNROLL
  for (int i = 0; i < 4 * Chunk<T>::kWords; ++i) {
    const uint32_t word = Magnitudes(T{}, chunk.words[i / 4].w[i % 4]);
    top = i == 0 ? word : Greater(T{}, top, word);
  }
  return top;
}

// The magnitudes of two chunks in a word, the first one's in the low half.
template <class T>
QS_KERNEL uint32_t PairMagnitude(const Chunk<T>& first,
                                 const Chunk<T>& second) {
  const uint32_t a = ChunkMagnitude(first);
  const uint32_t b = ChunkMagnitude(second);
  return Greater(T{}, Merge(a, b, 0xffffu), a >> 16 | b << 16);
}

// What is left of a reduction over `lanes` after steps of 1 and 2.
template <class T, class Thread>
QS_KERNEL uint32_t ReduceRest(Thread& t, uint32_t top, int lanes) {
  top = Greater(T{}, top, t.ShuffleXor(top, lanes == 4 ? 0 : 4));
  if (lanes > 8) {
    top = Greater(T{}, top, t.ShuffleXor(top, 8));
    top = Greater(T{}, top, t.ShuffleXor(top, lanes == 16 ? 0 : 16));
  }
  return top;
}

// The absmax of the block that has chunk number lane % kInFlight of this lane;
// `lanes` own a block. By all lanes of the warp. A lane keeps half of its
// chunks and gives the other half to a lane beside it, until it has one.
template <class T, class Thread>
QS_KERNEL float ReduceMagnitudes(Thread& t, const Chunk<T> (&chunks)[4],
                                 int lanes) {
  const uint32_t a = PairMagnitude(chunks[0], chunks[1]);
  const uint32_t b = PairMagnitude(chunks[2], chunks[3]);
  const bool upper = (t.ThreadIndex() & 2) != 0;
  const uint32_t other = t.ShuffleXor(upper ? a : b, 2);
  uint32_t top = Greater(T{}, upper ? b : a, other);
  top = Greater(T{}, top, t.ShuffleXor(top, 1));
  top = ReduceRest<T>(t, top, lanes);
  const bool odd = (t.ThreadIndex() & 1) != 0;
  return Widen(T{static_cast<uint16_t>(odd ? top >> 16 : top)});
}
template <class T, class Thread>
QS_KERNEL float ReduceMagnitudes(Thread& t, const Chunk<T> (&chunks)[2],
                                 int lanes) {
  const uint32_t a = ChunkMagnitude(chunks[0]);
  const uint32_t b = ChunkMagnitude(chunks[1]);
  const bool odd = (t.ThreadIndex() & 1) != 0;
  const uint32_t other = t.ShuffleXor(odd ? a : b, 1);
  uint32_t top = Greater(T{}, odd ? b : a, other);
  top = Greater(T{}, top, t.ShuffleXor(top, 2));
  return BitsFloat(ReduceRest<T>(t, top, lanes));
}

template <class Params>
QS_KERNEL float Multiply(float w, float factor) {
  return Params::kFlush ? MultiplyFlushed(w, factor) : w * factor;
}

// What of the short way is the same for every tile.
struct Place {
  int lanes;    // that own a block
  int chunk;    // whose absmax this lane finds,
  bool stores;  // and stores
};

template <class T, class Thread>
QS_KERNEL Place PlaceOf(const Thread& t, int block_shift) {
  const int lanes = (1 << block_shift) / kChunk;
  const int chunk = t.ThreadIndex() % kInFlight<T>;
  return {lanes, chunk, (t.ThreadIndex() & (lanes - 1)) == chunk};
}

// The short way, from this lane's first element on. False if a block of the
// warp is not plain: then nothing is stored. By all lanes of the warp.
template <class Thread, class Params, class Memory, class Steps>
QS_KERNEL bool EncodePlain(Thread& t, const Params& a, const Memory& memory,
                           const Steps& steps, const Place& place,
                           int64_t begin) {
  using T = typename Params::Element;
  Chunk<T> chunks[kInFlight<T>];
  QS_UNROLL
  for (int u = 0; u < kInFlight<T>; ++u) {
    chunks[u] = LoadWhole<T>(memory.weight, begin + u * kTileStride);
  }
  const float absmax = ReduceMagnitudes<T>(t, chunks, place.lanes);
  if (t.AnyInWarp(!nf4::Searchable(absmax))) return false;
  if (place.stores) {
    const int64_t mine = begin + place.chunk * kTileStride;
    memory.absmax.Set(mine >> a.block_shift, absmax);
  }
  const float factor = 1.0f / absmax;
  QS_UNROLL
  for (int u = 0; u < kInFlight<T>; ++u) {
    const float f = t.Lookup(factor, t.ThreadIndex() - place.chunk + u);
    const uint32_t codes = steps.Codes(
        t, chunks[u], [&](float w) { return Multiply<Params>(w, f); });
    memory.packed.SetVector((begin >> 1) + u * (kTileStride / 2), codes);
  }
  return true;
}

// The same with every check: for what is not plain, not aligned, not whole.
template <class Thread, class Params, class Memory, class Steps>
QS_KERNEL void EncodeCarefully(Thread& t, const Params& a, const Memory& memory,
                               const Steps& steps, int64_t first) {
  using T = typename Params::Element;
  const int lanes = (1 << a.block_shift) / kChunk;
  QS_NO_UNROLL
  for (int u = 0; u < kInFlight<T>; ++u) {
    const int64_t begin = first + u * kTileStride;
    const auto chunk =
        LoadChunk<T>(memory.weight, begin, a.count, a.weight_vectors);
    const uint32_t own = chunk.MaxMagnitude();
    const float top = BitsFloat(MaxOverLanes(t, own, lanes));
    const int64_t block = begin >> a.block_shift;
    const bool full = (block + 1) << a.block_shift <= a.count;
    const BlockScale scale = nf4::MakeBlockScale(a.rule, top, full);
    uint32_t codes = steps.Codes(
        t, chunk, [&](float w) { return Multiply<Params>(w, scale.factor); });
    if (begin >= a.count) continue;
    if (!full || !nf4::Searchable(top)) {
      codes = PackCodes(chunk, [&](float w) {
        return static_cast<uint32_t>(nf4::EncodeOne(a.ranks, scale, w));
      });
    }
    if (IsNonFinite(own)) ReportNonFinite(memory, chunk, begin);
    if (block << a.block_shift == begin) memory.absmax.Set(block, scale.absmax);
    StoreCodes(memory.packed, begin, a.count, codes, a.packed_vectors);
  }
}

template <class Thread, class Params>
QS_KERNEL void EncodeTilesKernel(Thread& t, NoShared&, const Params& a) {
  constexpr int64_t kSize = kTile<typename Params::Element>;
  const auto memory = MemoryOf(t, a);
  const Steps<Params::kFp4> steps(t, a.steps);
  const Place place = PlaceOf<typename Params::Element>(t, a.block_shift);
  const bool vectors = a.weight_vectors && a.packed_vectors;
  const int64_t whole = vectors ? a.count - a.count % kSize : 0;
  const int64_t step = t.GridSize() * kSize;
  for (int64_t base = t.BlockIndex() * kSize; base < a.count; base += step) {
    const int64_t begin = base + t.ThreadIndex() * kChunk;
    // Of the block's number alone: the compiler sees that warps go together.
    if (base < whole && EncodePlain(t, a, memory, steps, place, begin)) {
      continue;
    }
    EncodeCarefully(t, a, memory, steps, begin);
  }
}

QS_DEFINE_ENTRY(EncodeTilesKernel, NoShared)

template <class T, bool kFp4, bool kFlush>
int Launch(const Nf4EncodeArgs& args, cudaStream_t stream) {
  TileParams<T, kFp4, kFlush> params;
  params.Set(args);
  params.steps = StepTableFor(args.codebook, args.rule);
  params.ranks = MakeRankTable(args.codebook, args.rule);
  return QS_LAUNCH(EncodeTilesKernel, NoShared, params,
                   TileGrid(params.count, kTile<T>), kTileThreads, stream);
}

}  // namespace

int EncodeTiles(const Nf4EncodeArgs& args, cudaStream_t stream) {
  return WithType(args.weight.dtype, [&](auto type) {
    using T = decltype(type);
    if (args.codebook == Codebook::kNf4) {
      return Launch<T, false, false>(args, stream);
    }
    constexpr bool kSubnormals = !std::is_same_v<T, F16>;
    return args.rule == Nf4Rule::kCuda
               ? Launch<T, true, kSubnormals>(args, stream)
               : Launch<T, true, false>(args, stream);
  });
}

}  // namespace qs::cuda

// NF4/FP4 codes back to weights (decode).
// Equations: kernels/nf4_math.h; layout: kernels/nf4_ops.h; definition:
// kernels/reference/nf4_reference.cc, whose bytes these give.
//
// A thread takes chunks of 8 elements: 16-byte accesses to the weight and
// 4-byte ones to the codes, coalesced, where the caller's pointers are aligned.
// The loads are short, so four chunks are in flight, and the lanes of a warp
// ask each other for the levels. Limits: as nf4_encode.cu. Tested by
// tests/kernels/nf4_cuda_test.cc.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/nf4_params.h"
#include "kernels/cuda/nf4_tiles.h"

namespace qs::cuda {
namespace {

template <class T>
struct DecodeParams {
  using Element = T;
  const uint8_t* packed;
  const float* absmax;
  int64_t count;
  int block_shift;
  bool weight_vectors;
  bool packed_vectors;
  T* weight;
  float levels[16];  // by code
};

template <class T>
struct DecodeMemory {
  GlobalMemory<T> weight;
  GlobalMemory<const uint8_t> packed;
  GlobalMemory<const float> absmax;
};

constexpr int kDecodeChunks = 4;
constexpr int64_t kDecodeTile = kTileStride * kDecodeChunks;

// Lane i has level i mod 16, so that the fifth bit of what is looked up does
// not matter. By all lanes of the warp.
template <class T, class Thread>
QS_KERNEL Chunk<T> DecodeChunk(Thread& t, float level, uint32_t codes,
                               float absmax) {
  const auto weight = [&](int j) {
    return t.Lookup(level, codes >> NibbleShift(j)) * absmax;
  };
  Chunk<T> chunk;
  if constexpr (Chunk<T>::kWide) {
    QS_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      chunk.words[j / 4].w[j % 4] = FloatBits(weight(j));
    }
  } else {
    QS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float first = weight(2 * i);
      chunk.words[0].w[i] = NarrowPair(T{}, first, weight(2 * i + 1));
    }
  }
  return chunk;
}

template <class Thread, class Params, class Memory>
QS_KERNEL void DecodeWhole(Thread& t, const Params& a, const Memory& memory,
                           float level, int64_t begin) {
  using T = typename Params::Element;
  uint32_t codes[kDecodeChunks];
  float absmax[kDecodeChunks];
  QS_UNROLL
  for (int u = 0; u < kDecodeChunks; ++u) {
    codes[u] = memory.packed.template GetVector<uint32_t>(
        (begin >> 1) + u * (kTileStride / 2));
    absmax[u] = memory.absmax.Get((begin + u * kTileStride) >> a.block_shift);
  }
  QS_UNROLL
  for (int u = 0; u < kDecodeChunks; ++u) {
    StoreWhole(memory.weight, begin + u * kTileStride,
               DecodeChunk<T>(t, level, codes[u], absmax[u]));
  }
}

// The same with every check.
template <class Thread, class Params, class Memory>
QS_KERNEL void DecodeCarefully(Thread& t, const Params& a, const Memory& memory,
                               float level, int64_t first) {
  using T = typename Params::Element;
  QS_NO_UNROLL
  for (int u = 0; u < kDecodeChunks; ++u) {
    const int64_t begin = first + u * kTileStride;
    const uint32_t codes =
        LoadCodes(memory.packed, begin, a.count, a.packed_vectors);
    const float absmax =
        begin < a.count ? memory.absmax.Get(begin >> a.block_shift) : 0.0f;
    const auto chunk = DecodeChunk<T>(t, level, codes, absmax);
    QS_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      if (begin + j < a.count) memory.weight.Set(begin + j, chunk.Stored(j));
    }
  }
}

template <class Thread, class Params>
QS_KERNEL void DecodeKernel(Thread& t, NoShared&, const Params& a) {
  using T = typename Params::Element;
  const DecodeMemory<T> memory{
      t.Global(a.weight, a.count), t.Global(a.packed, (a.count + 1) / 2),
      t.Global(a.absmax, BlockCount(a.count, a.block_shift))};
  const float level = a.levels[t.ThreadIndex() % 16];
  const bool vectors = a.weight_vectors && a.packed_vectors;
  const int64_t whole = vectors ? a.count - a.count % kDecodeTile : 0;
  const int64_t step = t.GridSize() * kDecodeTile;
  for (int64_t base = t.BlockIndex() * kDecodeTile; base < a.count;
       base += step) {
    const int64_t begin = base + t.ThreadIndex() * kChunk;
    if (base < whole) {
      DecodeWhole(t, a, memory, level, begin);
    } else {
      DecodeCarefully(t, a, memory, level, begin);
    }
  }
}

QS_DEFINE_ENTRY(DecodeKernel, NoShared)

template <class T>
int DecodeTyped(const Nf4DecodeArgs& args, cudaStream_t stream) {
  DecodeParams<T> params;
  SetParams(args, params);
  const float* levels = CodebookLevels(args.codebook);
  for (int code = 0; code < 16; ++code) params.levels[code] = levels[code];
  return QS_LAUNCH(DecodeKernel, NoShared, params,
                   TileGrid(params.count, kDecodeTile), kTileThreads, stream);
}

}  // namespace

int LaunchNf4Decode(const Nf4DecodeArgs& args, cudaStream_t stream) {
  if (!IsServable(args.weight, args.block_size)) return kCudaInvalidValue;
  if (args.weight.num_elements() == 0) return 0;
  if (!IsPointer(args.packed) || !IsPointer(args.absmax)) {
    return kCudaInvalidValue;
  }
  return WithType(args.weight.dtype, [&](auto type) {
    return DecodeTyped<decltype(type)>(args, stream);
  });
}

}  // namespace qs::cuda

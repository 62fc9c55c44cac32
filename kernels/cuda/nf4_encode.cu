// The NF4/FP4 encoder. Equations: kernels/nf4_math.h; layout:
// kernels/nf4_ops.h; definition: kernels/reference/nf4_reference.cc, whose
// bytes this gives.
//
// Blocks up to 256 without search: nf4_tiles.cu. Larger blocks and the search,
// here: a half or whole warp owns a block and reads it once more for each pass,
// from the cache. All accesses to global memory are 16 bytes wide and coalesced
// where the caller's pointers are aligned.
//
// Limits: block sizes 32 to 4096, powers of two; any count below 2^62.
// Source of the ranks by bins: kernels/cpu/nf4_simd.cc.
// Tested by tests/kernels/nf4_cuda_test.cc.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/nf4_lane_scorer.h"
#include "kernels/cuda/nf4_params.h"
#include "kernels/cuda/nf4_tiles.h"

namespace qs::cuda {
namespace {

using nf4::BlockScale;

template <class T, bool kFp4Value, bool kSearch>
struct WideParams : EncodeParams<T> {
  static constexpr bool kFp4 = kFp4Value;
  static constexpr int kLanes = kSearch ? kSearchLanes : kWarpSize;
  BinTable table;
  BinTable midpoints;
  RankTable midpoint_ranks;
};

struct ResetParams {
  Counter* first_non_finite;
};

// Codes of a chunk by the rule's own table.
template <bool kFp4, class T>
QS_KERNEL uint32_t EncodeChunk(const Ranker<kFp4>& ranker,
                               const BlockScale& scale, uint32_t max_bits,
                               const Chunk<T>& chunk) {
  if (scale.zero) return 0;
  // Where a subnormal float32 cannot matter for NF4, normalizing is a product;
  // what it exceeds 1 by in rounding changes no rank.
  if (!kFp4 && !scale.divide && BitsFloat(max_bits) >= nf4::kSearchMin) {
    return PackCodes(chunk, [&](float w) {
      return ranker.Code(ranker.Rank(w * scale.factor));
    });
  }
  return PackCodes(chunk, [&](float w) {
    return ranker.Code(ranker.Rank(nf4::Normalize(scale, w)));
  });
}

// What a group of lanes knows of its block.
struct WideBlock {
  int64_t index;
  int64_t begin;
  int64_t end;
  int64_t first_chunk;  // this lane's
  int64_t step;         // to its next
};

// Stores the codes of this lane's chunks; `code(chunk)` gives a word.
template <class Params, class Memory, class Code>
QS_KERNEL void StoreBlock(const Params& a, const Memory& memory,
                          const WideBlock& block, const Code& code) {
  for (int64_t i = block.first_chunk; i < block.end; i += block.step) {
    const auto chunk = LoadChunk<typename Params::Element>(
        memory.weight, i, a.count, a.weight_vectors);
    StoreCodes(memory.packed, i, a.count, code(chunk), a.packed_vectors);
  }
}

// The largest magnitude of the block; reports what is not finite.
template <class Thread, class Params, class Memory>
QS_KERNEL uint32_t ScanBlock(Thread& t, const Params& a, const Memory& memory,
                             const WideBlock& block) {
  uint32_t top = 0;
  for (int64_t i = block.first_chunk; i < block.end; i += block.step) {
    const auto chunk = LoadChunk<typename Params::Element>(
        memory.weight, i, a.count, a.weight_vectors);
    const uint32_t own = chunk.MaxMagnitude();
    if (IsNonFinite(own)) ReportNonFinite(memory, chunk, i);
    top = own > top ? own : top;
  }
  return MaxOverLanes(t, top, Params::kLanes);
}

template <class Thread, class Params>
QS_KERNEL WideBlock BlockOf(const Thread& t, const Params& a, int64_t index) {
  const int64_t begin = index << a.block_shift;
  const int64_t end = begin + (int64_t{1} << a.block_shift);
  return {index, begin, end < a.count ? end : a.count,
          begin + t.ThreadIndex() % Params::kLanes * kChunk,
          int64_t{Params::kLanes} * kChunk};
}

template <class Params>
QS_KERNEL bool IsFull(const Params& a, const WideBlock& block) {
  return block.end - block.begin == int64_t{1} << a.block_shift;
}

// Codes one block by the rule, for a lane that owns chunks of it.
template <class Params, class Memory, class Ranker>
QS_KERNEL void EncodeBlock(const Params& a, const Memory& memory,
                           const Ranker& ranker, const WideBlock& block,
                           uint32_t top) {
  const BlockScale scale =
      nf4::MakeBlockScale(a.rule, BitsFloat(top), IsFull(a, block));
  if (block.first_chunk == block.begin) {
    memory.absmax.Set(block.index, scale.absmax);
  }
  StoreBlock(a, memory, block, [&](const auto& chunk) {
    return EncodeChunk(ranker, scale, top, chunk);
  });
}

// Codes one block by the absmax that the search found.
template <class Params, class Memory, class Ranker>
QS_KERNEL void EncodeFound(const Params& a, const Memory& memory,
                           const Ranker& ranker, const WideBlock& block,
                           float absmax) {
  if (block.first_chunk == block.begin) memory.absmax.Set(block.index, absmax);
  const float reciprocal = 1.0f / absmax;
  StoreBlock(a, memory, block, [&](const auto& chunk) {
    return PackCodes(chunk, [&](float w) {
      return ranker.Code(ranker.Rank(ClampUnit(w * reciprocal)));
    });
  });
}

template <class Thread, class Params>
QS_KERNEL void EncodeWideKernel(Thread& t, SharedBins& shared,
                                const Params& a) {
  FillBins(t, a.table, shared);
  t.Barrier();
  const auto memory = MemoryOf(t, a);
  const int lane = t.ThreadIndex() % kWarpSize;
  const Ranker<Params::kFp4> ranker(shared, a.table, lane);
  const int64_t blocks = BlockCount(a.count, a.block_shift);
  const int groups = t.BlockSize() / Params::kLanes;
  for (int64_t base = t.BlockIndex() * groups; base < blocks;
       base += t.GridSize() * groups) {
    const WideBlock block =
        BlockOf(t, a, base + t.ThreadIndex() / Params::kLanes);
    const uint32_t top = ScanBlock(t, a, memory, block);
    if (block.index < blocks) EncodeBlock(a, memory, ranker, block, top);
  }
}

template <class Thread, class Params>
QS_KERNEL void EncodeSearchKernel(Thread& t, SearchShared& shared,
                                  const Params& a) {
  FillBins(t, a.table, shared.table);
  FillBins(t, a.midpoints, shared.midpoints);
  FillLevels(t, a.midpoints.levels, shared.levels);
  FillTerms(t, a.midpoint_ranks, shared.terms);
  t.Barrier();
  const auto memory = MemoryOf(t, a);
  const int lane = t.ThreadIndex() % kWarpSize;
  const Ranker<Params::kFp4> ranker(shared.table, a.table, lane);
  const Ranker<Params::kFp4> midpoints(shared.midpoints, a.midpoints, lane);
  const int64_t blocks = BlockCount(a.count, a.block_shift);
  const int groups = t.BlockSize() / Params::kLanes;
  for (int64_t base = t.BlockIndex() * groups; base < blocks;
       base += t.GridSize() * groups) {
    const WideBlock block =
        BlockOf(t, a, base + t.ThreadIndex() / Params::kLanes);
    const uint32_t top = ScanBlock(t, a, memory, block);
    // A block without a search goes along with no elements.
    const bool search = nf4::Searchable(BitsFloat(top));
    const float max_abs = search ? BitsFloat(top) : 1.0f;
    const LaneRule<Params::kFp4> none{
        ranker, max_abs, a.rule == Nf4Rule::kCpu && !IsFull(a, block)};
    const LaneScorer scorer(t, memory.weight, none, midpoints, shared,
                            block.begin, search ? block.end : block.begin);
    const float found =
        nf4::SearchAbsmax(max_abs, block.end - block.begin, scorer);
    if (block.index >= blocks) continue;
    if (search && found != max_abs) {
      EncodeFound(a, memory, midpoints, block, found);
    } else {
      EncodeBlock(a, memory, ranker, block, top);
    }
  }
}

template <class Thread>
QS_KERNEL void ResetKernel(Thread& t, NoShared&, const ResetParams& a) {
  const auto memory = t.Global(a.first_non_finite, 1);
  if (t.ThreadIndex() == 0) memory.Set(0, ~Counter{0});
}

QS_DEFINE_ENTRY(EncodeWideKernel, SharedBins)
QS_DEFINE_ENTRY(EncodeSearchKernel, SearchShared)
QS_DEFINE_ENTRY(ResetKernel, NoShared)

template <class T, bool kFp4, bool kSearch>
int EncodeWide(const Nf4EncodeArgs& args, cudaStream_t stream) {
  using Params = WideParams<T, kFp4, kSearch>;
  Params params;
  params.Set(args);
  params.table = MakeBinTable(args.codebook, args.rule);
  params.midpoints = MakeBinTable(args.codebook, Nf4Rule::kCpu);
  params.midpoint_ranks = MakeRankTable(args.codebook, Nf4Rule::kCpu);
  const LaunchShape shape =
      ShapeFor(BlockCount(params.count, params.block_shift) * Params::kLanes);
  if constexpr (kSearch) {
    return QS_LAUNCH(EncodeSearchKernel, SearchShared, params, shape.grid,
                     shape.block, stream);
  } else {
    return QS_LAUNCH(EncodeWideKernel, SharedBins, params, shape.grid,
                     shape.block, stream);
  }
}

template <class T, bool kFp4>
int EncodeTyped(const Nf4EncodeArgs& args, cudaStream_t stream) {
  return args.search == Nf4Search::kBestScale
             ? EncodeWide<T, kFp4, true>(args, stream)
             : EncodeWide<T, kFp4, false>(args, stream);
}

int Reset(int64_t* first_non_finite, cudaStream_t stream) {
  const ResetParams params{reinterpret_cast<Counter*>(first_non_finite)};
  return QS_LAUNCH(ResetKernel, NoShared, params, 1, kWarpSize, stream);
}

}  // namespace

int LaunchNf4Encode(const Nf4EncodeArgs& args, cudaStream_t stream) {
  if (!IsServable(args.weight, args.block_size) ||
      !IsPointer(args.first_non_finite)) {
    return kCudaInvalidValue;
  }
  const bool empty = args.weight.num_elements() == 0;
  if (!empty && (!IsPointer(args.packed) || !IsPointer(args.absmax))) {
    return kCudaInvalidValue;
  }
  const int code = Reset(args.first_non_finite, stream);
  if (code != 0 || empty) return code;
  if (args.search == Nf4Search::kNone && args.block_size <= kMaxTileBlock) {
    return EncodeTiles(args, stream);
  }
  return WithType(args.weight.dtype, [&](auto type) {
    using T = decltype(type);
    return args.codebook == Codebook::kFp4
               ? EncodeTyped<T, true>(args, stream)
               : EncodeTyped<T, false>(args, stream);
  });
}

}  // namespace qs::cuda

// NestedRefine: BEST's codes with double quantization. Equations:
// kernels/nf4_nested_math.h; definition:
// kernels/reference/nf4_nested_reference.cc, whose bytes this gives.
//
// A half warp owns a block and reads it once for each pass, from the cache;
// each of its lanes has one of the sixteen partial sums.
// Limits: as nf4_encode.cu.
// Tested by tests/kernels/nf4_nested_cuda_test.cc.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nested_device.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/nf4_lane_scorer.h"
#include "kernels/cuda/nf4_params.h"
#include "kernels/nf4_nested_math.h"

namespace qs::cuda {
namespace {

using nf4::NestedTry;

template <class T, bool kFp4Value>
struct RefineParams {
  using Element = T;
  static constexpr bool kFp4 = kFp4Value;
  const T* weight;
  int64_t count;
  int block_shift;
  bool weight_vectors;  // 16-byte aligned
  bool packed_vectors;  // 4-byte aligned
  int64_t first_block;
  const float* nested_absmax;
  const float* offset;
  uint8_t* codes;
  float* absmax;
  uint8_t* packed;
  float* coded_by;
  BinTable midpoints;
  RankTable midpoint_ranks;
  float levels_by_code[16];
  float map[kNestedLevels];
  float map_midpoints[kNestedMidpoints];
};

struct RefineShared : FitShared {
  SharedLevels levels_by_code;
  float map[kNestedLevels];
  NestedMidpointTable map_midpoints;
};

template <class T>
struct RefineMemory {
  GlobalMemory<const T> weight;
  GlobalMemory<uint8_t> packed;
  GlobalMemory<uint8_t> codes;
  GlobalMemory<float> absmax;
  GlobalMemory<float> coded_by;
};

// What a half warp knows of its block; all its lanes know the same.
struct OldBlock {
  int64_t index;
  int64_t begin;
  int64_t end;
  float absmax;   // kNone's
  float decoded;  // what REFERENCE has for it
  bool zeros;     // ZeroCodesDo
};

// Squared errors of one block as stored. All lanes of the warp call them
// together, each half with a block of its own.
template <class Thread, class Memory, class Params>
class LaneErrors {
 public:
  using T = typename Params::Element;

  // `end`: `block.begin` to go along with no elements.
  QS_KERNEL LaneErrors(Thread& t, const Memory& memory,
                       const RefineShared& shared,
                       const Ranker<Params::kFp4>& midpoints,
                       const OldBlock& block, int64_t end)
      : t_(t),
        memory_(memory),
        shared_(shared),
        midpoints_(midpoints),
        block_(block),
        begin_(block.begin + t.ThreadIndex() % kSearchLanes),
        end_(end),
        column_(t.ThreadIndex() % kWarpSize) {}

  QS_KERNEL float None() const {
    const float absmax = block_.zeros ? 0.0f : block_.decoded;
    float error = 0.0f;
    for (int64_t i = begin_; i < end_; i += kSearchLanes) {
      const int byte = memory_.packed.Get(i / 2);
      const int code = i % 2 == 0 ? byte >> 4 : byte & 15;
      error +=
          SquaredError<T>(Widen(memory_.weight.Get(i)),
                          shared_.levels_by_code.levels[code][column_], absmax);
    }
    return FoldLanes(t_, error);
  }

  QS_KERNEL float Of(const NestedTry& tried) const {
    const float reciprocal = 1.0f / tried.absmax;
    float error = 0.0f;
    QS_NO_UNROLL  // within 64 registers
        for (int64_t i = begin_; i < end_; i += kSearchLanes) {
      const float w = Widen(memory_.weight.Get(i));
      const int rank = midpoints_.Rank(ClampUnit(w * reciprocal));
      error += SquaredError<T>(w, shared_.levels.levels[rank][column_],
                               tried.absmax);
    }
    return FoldLanes(t_, error);
  }

 private:
  Thread& t_;
  const Memory& memory_;
  const RefineShared& shared_;
  const Ranker<Params::kFp4>& midpoints_;
  const OldBlock& block_;
  const int64_t begin_;
  const int64_t end_;
  const int column_;
};

template <class Thread, class Params>
QS_KERNEL void FillShared(Thread& t, const Params& a, RefineShared& shared) {
  FillBins(t, a.midpoints, shared.midpoints);
  FillLevels(t, a.midpoints.levels, shared.levels);
  FillLevels(t, a.levels_by_code, shared.levels_by_code);
  FillTerms(t, a.midpoint_ranks, shared.terms);
  for (int i = t.ThreadIndex(); i < kNestedLevels; i += t.BlockSize()) {
    shared.map[i] = a.map[i];
  }
  shared.map_midpoints.Fill(t, a.map_midpoints);
  t.Barrier();
}

template <class Memory, class Params, class Run>
QS_KERNEL OldBlock ReadBlock(const Params& a, const Memory& memory,
                             int64_t index, const Run& run) {
  OldBlock block = {};
  if (index << a.block_shift >= a.count) return block;
  block.index = index;
  block.begin = index << a.block_shift;
  const int64_t end = block.begin + (int64_t{1} << a.block_shift);
  block.end = end < a.count ? end : a.count;
  block.absmax = memory.absmax.Get(index);
  block.decoded = run.LevelOf(memory.codes.Get(index));
  block.zeros = nf4::ZeroCodesDo(block.absmax, block.decoded);
  return block;
}

// The tries and the best of them.
template <class Thread, class Errors, class Run>
QS_KERNEL nf4::NestedBest FindBest(Thread& t, const Errors& errors,
                                   const Run& run, float absmax,
                                   const nf4::NestedTries& tries) {
  nf4::NestedBest best = {tries.nearest, errors.Of(tries.nearest)};
  best.Offer(tries.other, errors.Of(tries.other));
  if (!t.AnyInWarp(tries.wide)) return best;
  QS_NO_UNROLL
  for (int k = 1; k <= nf4::kWideTries; ++k) {
    const NestedTry wide = nf4::WideTry(run, absmax, k);
    const float error = errors.Of(wide);
    if (tries.wide && wide.code >= 0) best.Offer(wide, error);
  }
  return best;
}

// The codes of this lane's chunks; `code(w)` gives that of one element.
template <class Thread, class Params, class Memory, class Code>
QS_KERNEL void StoreCodesOf(const Thread& t, const Params& a,
                            const Memory& memory, const OldBlock& block,
                            const Code& code) {
  for (int64_t i = block.begin + t.ThreadIndex() % kSearchLanes * kChunk;
       i < block.end; i += kSearchLanes * kChunk) {
    const auto chunk = LoadChunk<typename Params::Element>(
        memory.weight, i, a.count, a.weight_vectors);
    StoreCodes(memory.packed, i, a.count, PackCodes(chunk, code),
               a.packed_vectors);
  }
}

template <class Thread, class Params, class Memory>
QS_KERNEL void StoreNone(const Thread& t, const Params& a, const Memory& memory,
                         const OldBlock& block, const nf4::NestedTries& tries) {
  if (t.ThreadIndex() % kSearchLanes == 0) {
    const bool moved = block.zeros && tries.any;
    if (moved) {
      memory.codes.Set(block.index, static_cast<uint8_t>(tries.nearest.code));
    }
    memory.absmax.Set(block.index,
                      moved ? tries.nearest.absmax : block.decoded);
    memory.coded_by.Set(block.index, block.zeros ? -1.0f : block.absmax);
  }
  if (!block.zeros) return;
  const uint32_t zero = a.midpoints.zero_codes & 15u;
  StoreCodesOf(t, a, memory, block, [zero](float) { return zero; });
}

template <class Thread, class Params, class Memory>
QS_KERNEL void StoreTry(const Thread& t, const Params& a, const Memory& memory,
                        const Ranker<Params::kFp4>& midpoints,
                        const OldBlock& block, const NestedTry& taken) {
  if (t.ThreadIndex() % kSearchLanes == 0) {
    memory.codes.Set(block.index, static_cast<uint8_t>(taken.code));
    memory.absmax.Set(block.index, taken.absmax);
    memory.coded_by.Set(block.index, taken.absmax);
  }
  const float reciprocal = 1.0f / taken.absmax;
  StoreCodesOf(t, a, memory, block, [&](float w) {
    return midpoints.Code(midpoints.Rank(ClampUnit(w * reciprocal)));
  });
}

template <class Thread, class Params>
QS_KERNEL void RefineKernel(Thread& t, RefineShared& shared, const Params& a) {
  using T = typename Params::Element;
  FillShared(t, a, shared);
  const int64_t blocks = BlockCount(a.count, a.block_shift);
  const RefineMemory<T> memory = {
      t.Global(a.weight, a.count), t.Global(a.packed, (a.count + 1) / 2),
      t.Global(a.codes, blocks), t.Global(a.absmax, blocks),
      t.Global(a.coded_by, blocks)};
  const auto scales =
      t.Global(a.nested_absmax, NestedRuns(a.first_block + blocks));
  const float offset = t.Global(a.offset, 1).Get(0);
  const Ranker<Params::kFp4> midpoints(shared.midpoints, a.midpoints,
                                       t.ThreadIndex() % kWarpSize);
  const int groups = t.BlockSize() / kSearchLanes;
  for (int64_t base = t.BlockIndex() * groups; base < blocks;
       base += t.GridSize() * groups) {
    const int64_t own = base + t.ThreadIndex() / kSearchLanes;
    // A half warp without a block goes along with no elements.
    const bool any = own < blocks;
    const int64_t in_run = a.first_block + (any ? own : base);
    const nf4::NestedRun<float[kNestedLevels]> run = {
        shared.map, scales.Get(in_run / kNestedBlockSize), offset};
    const OldBlock block = ReadBlock(a, memory, own, run);
    const bool search = nf4::Searchable(block.absmax);
    const float absmax = search ? block.absmax : 1.0f;
    const int64_t end = search ? block.end : block.begin;
    const LaneRule<Params::kFp4> unused = {midpoints, absmax, false};
    const LaneScorer scorer(t, memory.weight, unused, midpoints, shared,
                            block.begin, end);
    nf4::NestedTries tries = nf4::MakeNestedTries(
        run, nf4::FitAbsmax(absmax, scorer),
        [&](float value) { return shared.map_midpoints.Nearest(value); });
    tries.any = tries.any && search;
    const LaneErrors<Thread, RefineMemory<T>, Params> errors(
        t, memory, shared, midpoints, block, end);
    const float none = errors.None();
    const nf4::NestedBest best = FindBest(t, errors, run, absmax, tries);
    t.WarpBarrier();  // every lane has read the block
    if (!any) continue;
    if (tries.any &&
        nf4::IsSurelyBelow(best.error, none, block.end - block.begin)) {
      StoreTry(t, a, memory, midpoints, block, best.best);
    } else {
      StoreNone(t, a, memory, block, tries);
    }
  }
}

QS_DEFINE_ENTRY(RefineKernel, RefineShared)

template <class T, bool kFp4>
int RefineTyped(const NestedRefineArgs& args, cudaStream_t stream) {
  RefineParams<T, kFp4> params;
  SetParams(args, params);
  params.first_block = args.first_block;
  params.nested_absmax = args.nested_absmax;
  params.offset = args.offset;
  params.codes = args.codes;
  params.coded_by = args.coded_by;
  params.midpoints = MakeBinTable(args.codebook, Nf4Rule::kCpu);
  params.midpoint_ranks = MakeRankTable(args.codebook, Nf4Rule::kCpu);
  std::copy_n(CodebookLevels(args.codebook), 16, params.levels_by_code);
  std::copy_n(NestedLevels(), kNestedLevels, params.map);
  const auto midpoints = NestedMidpoints();
  std::copy(midpoints.begin(), midpoints.end(), params.map_midpoints);
  const LaunchShape shape =
      ShapeFor(BlockCount(params.count, params.block_shift) * kSearchLanes);
  return QS_LAUNCH(RefineKernel, RefineShared, params, shape.grid, shape.block,
                   stream);
}

}  // namespace

int LaunchNestedRefine(const NestedRefineArgs& args, cudaStream_t stream) {
  if (!IsServable(args.weight, args.block_size)) return kCudaInvalidValue;
  if (args.weight.num_elements() == 0) return 0;
  if (!IsPointer(args.nested_absmax) || !IsPointer(args.offset) ||
      !IsPointer(args.codes) || !IsPointer(args.absmax) ||
      !IsPointer(args.packed) || !IsPointer(args.coded_by)) {
    return kCudaInvalidValue;
  }
  return WithType(args.weight.dtype, [&](auto type) {
    using T = decltype(type);
    return args.codebook == Codebook::kFp4
               ? RefineTyped<T, true>(args, stream)
               : RefineTyped<T, false>(args, stream);
  });
}

}  // namespace qs::cuda

// NestedRefine (kernels/nf4_nested_math.h), one text for every instruction set.
// Tested by tests/kernels/nf4_nested_cuda_test.cc.
//
// As in nf4_search-inl.h each step is done for a batch of blocks before the
// next one. Full blocks of ordinary scale are taken by vectors, others element
// by element.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/base/dtype.h"
#include "kernels/cpu/nested_simd.h"
#include "kernels/cpu/nf4_simd.h"
#include "kernels/nf4_math.h"
#include "kernels/nf4_nested_math.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/nf4_nested_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/nf4-inl.h"
#include "kernels/cpu/nf4_search-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {

using Run = NestedRun<const float*>;

// What all blocks have in common.
class Refining {
 public:
  Refining(const NestedRefineArgs& args, const SimdTables& tables)
      : args_(args), tables_(tables), map_(NestedLevels()) {}

  const NestedRefineArgs& args() const { return args_; }
  const SimdTables& tables() const { return tables_; }

  Run RunOf(int64_t b) const {
    const int64_t run = (args_.first_block + b) / kNestedBlockSize;
    return {map_, args_.nested_absmax[run], *args_.offset};
  }
  // What a reader multiplies kNone's codes with; 0 where zeros do.
  float NoneAbsmax(int64_t b) const {
    const float decoded = RunOf(b).LevelOf(args_.codes[b]);
    return ZeroCodesDo(args_.absmax[b], decoded) ? 0.0f : decoded;
  }
  NestedTries Tries(int64_t b, float fitted) const {
    return MakeNestedTries(RunOf(b), fitted,
                           [&](float t) { return NearestByCells(cells_, t); });
  }
  // All but the 4-bit codes. Whether these are to be zeros.
  bool Keep(int64_t b, const NestedTries& tries) const {
    const float decoded = RunOf(b).LevelOf(args_.codes[b]);
    const bool zeros = ZeroCodesDo(args_.absmax[b], decoded);
    if (zeros && tries.any) {
      Take(b, tries.nearest);
    } else {
      args_.coded_by[b] = args_.absmax[b];
      args_.absmax[b] = decoded;
    }
    if (zeros) args_.coded_by[b] = 0.0f;
    return zeros;
  }
  void Take(int64_t b, const NestedTry& taken) const {
    args_.codes[b] = static_cast<uint8_t>(taken.code);
    args_.absmax[b] = taken.absmax;
    args_.coded_by[b] = taken.absmax;
  }

 private:
  const NestedRefineArgs& args_;
  const SimdTables& tables_;
  const float* const map_;
  const NestedCells& cells_ = GetNestedCells();
};

// One block element by element.
template <class T>
class ScalarBlock {
 public:
  ScalarBlock(const Refining& refining, int64_t b, int64_t count)
      : refining_(refining),
        midpoints_(refining.tables().midpoints),
        packed_(refining.args().packed),
        b_(b),
        begin_(b * refining.args().block_size),
        count_(count) {
    // Vectors are loaded from any address, elements only from their own.
    const auto* weight = static_cast<const T*>(refining.args().weight.data);
    std::memcpy(static_cast<void*>(weight_), weight + begin_,
                static_cast<size_t>(count) * sizeof(T));
  }

  void Refine() const {
    const float absmax = refining_.args().absmax[b_];
    NestedTries tries = {};
    if (Searchable(absmax)) tries = refining_.Tries(b_, Fit(absmax));
    NestedTry taken;
    if (tries.any && Choose(tries, &taken)) {
      refining_.Take(b_, taken);
      Pack([&](float w) {
        return midpoints_.codes[SearchRank(midpoints_, 1.0f / taken.absmax, w)];
      });
    } else if (refining_.Keep(b_, tries)) {
      Pack([&](float) { return midpoints_.zero_code; });
    }
  }

 private:
  float At(int64_t i) const { return LoadOne<T>(weight_, i); }

  float Fit(float absmax) const {
    const auto load = [this](int64_t i) { return At(i); };
    const RuleCoding unused = {midpoints_, {}};
    return FitAbsmax(absmax,
                     ScalarScorer(midpoints_, unused, kDType<T>, load, count_));
  }

  bool Choose(const NestedTries& tries, NestedTry* taken) const {
    const float absmax = refining_.args().absmax[b_];
    NestedBest best = {tries.nearest, ErrorOf(tries.nearest)};
    best.Offer(tries.other, ErrorOf(tries.other));
    for (int k = 1; tries.wide && k <= kWideTries; ++k) {
      const NestedTry wide = WideTry(refining_.RunOf(b_), absmax, k);
      if (wide.code >= 0) best.Offer(wide, ErrorOf(wide));
    }
    *taken = best.best;
    return IsSurelyBelow(best.error, NoneError(), count_);
  }

  float NoneError() const {
    const float* levels = refining_.tables().levels_by_code;
    return Error(refining_.NoneAbsmax(b_), [&](int64_t i) {
      const int64_t at = begin_ + i;
      return levels[at % 2 == 0 ? packed_[at / 2] >> 4 : packed_[at / 2] & 15];
    });
  }

  float ErrorOf(const NestedTry& t) const {
    const float reciprocal = 1.0f / t.absmax;
    return Error(t.absmax, [&](int64_t i) {
      return midpoints_.levels[SearchRank(midpoints_, reciprocal, At(i))];
    });
  }

  template <class LevelOf>
  float Error(float absmax, const LevelOf& level_of) const {
    Partial16 error;
    for (int64_t i = 0; i < count_; ++i) {
      const float d = At(i) - affine::RoundTo(kDType<T>, level_of(i) * absmax);
      error.Add(i, d * d);
    }
    return error.Fold();
  }

  template <class Code>
  void Pack(const Code& code) const {
    for (int64_t i = 0; i < count_; ++i) {
      SetNibble(packed_, begin_ + i, code(At(i)));
    }
    if (count_ % 2 != 0) {
      SetNibble(packed_, begin_ + count_, midpoints_.zero_code);
    }
  }

  const Refining& refining_;
  const RankTable& midpoints_;
  T weight_[4096];
  uint8_t* const packed_;
  const int64_t b_;
  const int64_t begin_;
  const int64_t count_;
};

#if HWY_TARGET != HWY_SCALAR
// Full, searchable blocks that lie one behind the other.
template <class T, bool kFp4>
class RefineBatch {
 public:
  explicit RefineBatch(const Refining& refining)
      : refining_(refining),
        block_size_(refining.args().block_size),
        midpoints_(refining.tables().midpoints),
        search_(midpoints_, midpoints_, refining.tables().midpoints.levels,
                *refining.tables().search, block_size_) {}

  // Blocks [first, first + count): at most kBatch of at most kBatchElements
  // together, or one of any size.
  HWY_NOINLINE void Run(const T* w, int64_t first, int64_t count) {
    float max_abs[kBatch] = {};
    std::copy_n(refining_.args().absmax + first, count, max_abs);
    float fitted[kBatch];
    search_.FitAll(w, count, max_abs, fitted);
    NestedTries tries[kBatch];
    for (int64_t b = 0; b < count; ++b) {
      tries[b] = refining_.Tries(first + b, fitted[b]);
    }
    float errors[kSetsOfAll * 2 * kBatch];
    Errors(first, count, tries, errors);
    bool taken[kBatch] = {};
    for (int64_t b = 0; b < count; ++b) {
      const float* of_block = errors + kSets * b;
      NestedBest best = {tries[b].nearest, of_block[1]};
      best.Offer(tries[b].other, of_block[2]);
      if (tries[b].wide) OfferWide(first + b, b, &best);
      if (tries[b].any && IsSurelyBelow(best.error, of_block[0], block_size_)) {
        Take(best.best, first + b, b);
        taken[b] = true;
      } else if (refining_.Keep(first + b, tries[b])) {
        std::fill_n(Packed(first + b), block_size_ / 2,
                    static_cast<uint8_t>(
                        refining_.tables().midpoints.zero_code * 0x11));
      }
    }
    // After all stores of codes, which a load that spans some would wait for.
    for (int64_t b = 0; b < count; ++b) {
      if (!taken[b]) continue;
      PackNibbles(codes_ + b * block_size_, block_size_, Packed(first + b));
    }
  }

 private:
  // None's error, and those of two tries.
  static constexpr int64_t kSets = 3;
  static constexpr int64_t kSetsOfAll = 2;  // PartialSums of a batch
  static_assert(kSets * kBatch <= kSetsOfAll * 2 * kBatch);

  uint8_t* Packed(int64_t block) const {
    return refining_.args().packed + block * block_size_ / 2;
  }
  const float* Values(int64_t b) const {
    return search_.values() + b * block_size_;
  }

  // errors[kSets * b] and on are those of block `first` + b.
  HWY_INLINE void Errors(int64_t first, int64_t count,
                         const NestedTries (&tries)[kBatch],
                         float (&errors)[kSetsOfAll * 2 * kBatch]) const {
    PartialSums sums[kSetsOfAll];
    for (int64_t b = 0; b < count; ++b) {
      VF of_block[kSets][kParts];
      AddErrors(refining_.NoneAbsmax(first + b), Packed(first + b), tries[b],
                Values(b), of_block);
      for (int64_t k = 0; k < kSets; ++k) {
        const int64_t set = kSets * b + k;
        sums[set / (2 * kBatch)].Set(set % (2 * kBatch), of_block[k]);
      }
    }
    for (int64_t i = 0; i < kSetsOfAll; ++i) {
      float folded[2 * kBatch];
      FoldAll(sums[i], folded);
      std::copy_n(folded, 2 * kBatch, errors + i * 2 * kBatch);
    }
  }

  HWY_INLINE void AddErrors(float none_absmax, const uint8_t* packed,
                            const NestedTries& tries, const float* values,
                            VF (&errors)[kSets][kParts]) const {
    const auto ranker = midpoints_.ranker;  // in registers
    // All that a block decodes to, 16 values each.
    const auto none =
        Table16::Decoded<T>(refining_.tables().levels_by_code, none_absmax);
    const auto nearest = Decoded(tries.nearest);
    const auto other = Decoded(tries.other);
    const VF nearest_factor = hn::Set(DF(), 1.0f / tries.nearest.absmax);
    const VF other_factor = hn::Set(DF(), 1.0f / tries.other.absmax);
    for (auto& of_set : errors) {
      for (VF& sum : of_set) sum = hn::Zero(DF());
    }
    const auto add = [](VF difference, VF* sum) HWY_ATTR {
      *sum = hn::Add(*sum, hn::Mul(difference, difference));
    };
    for (int64_t i = 0; i < block_size_; i += 16) {
      for (int64_t p = 0; p < kParts; ++p) {
        const int64_t at = i + p * kLanes;
        const VF x = hn::Load(DF(), values + at);
        add(hn::Sub(x, none.Get(LoadNibbles(packed + at / 2))), &errors[0][p]);
        const VI near_rank = ranker.Rank(Clamp(hn::Mul(x, nearest_factor)));
        add(hn::Sub(x, nearest.Get(near_rank)), &errors[1][p]);
        const VI other_rank = ranker.Rank(Clamp(hn::Mul(x, other_factor)));
        add(hn::Sub(x, other.Get(other_rank)), &errors[2][p]);
      }
    }
  }

  HWY_INLINE Table16 Decoded(const NestedTry& t) const {
    return Table16::Decoded<T>(refining_.tables().midpoints.levels, t.absmax);
  }

  // Few blocks have them.
  HWY_NOINLINE void OfferWide(int64_t block, int64_t b,
                              NestedBest* best) const {
    const float absmax = refining_.args().absmax[block];
    for (int k = 1; k <= kWideTries; ++k) {
      const NestedTry wide = WideTry(refining_.RunOf(block), absmax, k);
      if (wide.code < 0) continue;
      const auto decoded = Decoded(wide);
      const VF factor = hn::Set(DF(), 1.0f / wide.absmax);
      VF error[kParts];
      for (VF& sum : error) sum = hn::Zero(DF());
      for (int64_t i = 0; i < block_size_; i += 16) {
        for (int64_t p = 0; p < kParts; ++p) {
          const VF x = hn::Load(DF(), Values(b) + i + p * kLanes);
          const VI rank = midpoints_.ranker.Rank(Clamp(hn::Mul(x, factor)));
          const VF d = hn::Sub(x, decoded.Get(rank));
          error[p] = hn::Add(error[p], hn::Mul(d, d));
        }
      }
      best->Offer(wide, Fold(error));
    }
  }

  HWY_INLINE void Take(const NestedTry& taken, int64_t block, int64_t b) {
    refining_.Take(block, taken);
    const auto ranker = midpoints_.ranker;
    const VF factor = hn::Set(DF(), 1.0f / taken.absmax);
    const hn::Rebind<uint8_t, DU> d8;
    for (int64_t i = 0; i < block_size_; i += kLanes) {
      const VF x = hn::Load(DF(), Values(b) + i);
      const VU code = hn::BitCast(
          DU(), midpoints_.codes.Code(ranker.Rank(Clamp(hn::Mul(x, factor)))));
      hn::StoreU(hn::TruncateTo(d8, code), d8, codes_ + b * block_size_ + i);
    }
  }

  const Refining& refining_;
  const int64_t block_size_;
  const Coder<kFp4> midpoints_;
  BatchSearch<kFp4> search_;
  alignas(64) uint8_t codes_[4096];
};
#endif  // HWY_TARGET != HWY_SCALAR

template <class T, bool kFp4>
void RefineTyped(const NestedRefineArgs& args, const SimdTables& tables,
                 int64_t first, int64_t last) {
  const Refining refining(args, tables);
  const int64_t n = args.weight.num_elements();
  int64_t b = first;
#if HWY_TARGET != HWY_SCALAR
  RefineBatch<T, kFp4> batch(refining);
  const int64_t most =
      std::clamp<int64_t>(kBatchElements / args.block_size, 1, kBatch);
  const int64_t full = std::min(last, n / args.block_size);
  const auto* weight = static_cast<const T*>(args.weight.data);
  while (b < full) {
    int64_t end = b;
    while (end < std::min(b + most, full) && Searchable(args.absmax[end])) {
      ++end;
    }
    if (end > b) {
      batch.Run(weight + b * args.block_size, b, end - b);
      b = end;
    } else {
      ScalarBlock<T>(refining, b, args.block_size).Refine();
      ++b;
    }
  }
#endif
  for (; b < last; ++b) {
    const int64_t count = std::min(args.block_size, n - b * args.block_size);
    ScalarBlock<T>(refining, b, count).Refine();
  }
}

void NestedRefineBlocks(const NestedRefineArgs& args, const SimdTables& tables,
                        int64_t first, int64_t last) {
  WithType(args.weight.dtype, [&]<class T>(T*) {
    args.codebook == Codebook::kFp4
        ? RefineTyped<T, true>(args, tables, first, last)
        : RefineTyped<T, false>(args, tables, first, last);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::nf4
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::nf4 {

HWY_EXPORT(NestedRefineBlocks);

void NestedRefineBlocks(const NestedRefineArgs& args, const SimdTables& tables,
                        int64_t first_block, int64_t last_block) {
  HWY_DYNAMIC_DISPATCH(NestedRefineBlocks)
  (args, tables, first_block, last_block);
}

}  // namespace qs::nf4
#endif  // HWY_ONCE

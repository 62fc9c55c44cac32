// NestedRefine (kernels/nf4_nested_math.h), one text for every instruction set.
// Tested by tests/kernels/nf4_nested_cuda_test.cc.
//
// As in nf4_search-inl.h each step is done for a batch of blocks before the
// next one. Full blocks of ordinary scale are taken by vectors, others element
// by element.
#include <hwy/cache_control.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/nf4_simd.h"
#include "kernels/nf4_math.h"
#include "kernels/nf4_nested_math.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/nf4_nested_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/nf4-inl.h"
#include "kernels/cpu/nf4_nested_block-inl.h"
#include "kernels/cpu/nf4_nested_tries-inl.h"
#include "kernels/cpu/nf4_search-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {

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

  // Blocks [first, first + count) of one run: at most kBatch of at most
  // kBatchElements together, or one of any size.
  HWY_NOINLINE void Run(const T* w, int64_t first, int64_t count) {
    FillLevels(first);
    float max_abs[kBatch] = {};
    std::copy_n(refining_.args().absmax + first, count, max_abs);
    float fitted[kBatch];
    search_.FitAll(w, count, max_abs, fitted);
    uint8_t none_codes[kBatch] = {};
    std::copy_n(refining_.args().codes + first, count, none_codes);
    BatchTries tries;
    levels_.MakeTries(max_abs, none_codes, fitted, &tries);
    float errors[kSets][kBatch];
    Errors(first, count, max_abs, tries, errors);
    BatchChoices choices;
    ChooseTries(tries, errors, block_size_, &choices);
    for (int64_t b = 0; b < count; ++b) {
      if (choices.taken[b] != 0) {
        Take(first + b, b, tries, choices.which[b] != 0 ? 1 : 0);
      } else {
        Choose(first + b, b, tries, errors);
      }
    }
  }

 private:
  // None's error, and those of two tries.
  static constexpr int64_t kSets = 3;

  uint8_t* Packed(int64_t block) const {
    return refining_.args().packed + block * block_size_ / 2;
  }
  const float* Values(int64_t b) const {
    return search_.values() + b * block_size_;
  }

  void FillLevels(int64_t block) {
    const int64_t run = refining_.RunNumber(block);
    if (run == run_) return;
    levels_.Fill(refining_.RunOf(block));
    run_ = run;
  }

  HWY_INLINE void Take(int64_t block, int64_t b, const BatchTries& tries,
                       int which) {
    refining_.Take(block, tries.Get(b, which));
    PackRanks(midpoints_.codes, search_.Ranks(which, b), block_size_,
              Packed(block));
  }

  // For the few blocks that ChooseTries leaves.
  HWY_NOINLINE void Choose(int64_t block, int64_t b, const BatchTries& tries,
                           const float (&errors)[kSets][kBatch]) {
    const int which = errors[2][b] < errors[1][b] ? 1 : 0;
    NestedBest best = {tries.Get(b, which), errors[1 + which][b]};
    int32_t* ranks = search_.Ranks(which, b);
    if (tries.wide[b] != 0 && OfferWide(block, b, &best)) {
      Rank(best.best, b, ranks);
    }
    const bool any = tries.any[b] != 0;
    if (any && IsSurelyBelow(best.error, errors[0][b], block_size_)) {
      refining_.Take(block, best.best);
      PackRanks(midpoints_.codes, ranks, block_size_, Packed(block));
    } else if (refining_.Keep(block, any, tries.Get(b, 0))) {
      std::fill_n(
          Packed(block), block_size_ / 2,
          static_cast<uint8_t>(refining_.tables().midpoints.zero_code * 0x11));
    }
  }

  // errors[..][b] are those of block `first` + b.
  HWY_INLINE void Errors(int64_t first, int64_t count,
                         const float (&max_abs)[kBatch],
                         const BatchTries& tries,
                         float (&errors)[kSets][kBatch]) {
    for (int which = 0; which < 2; ++which) {
      search_.RankAll(max_abs, tries.absmax[which], which);
    }
    PartialSums<kSets> sums(count);
    for (int64_t b = 0; b < count; ++b) {
      VF of_block[kSets][kParts];
      Fetch(first + count + b);
      AddErrors(Packed(first + b), tries, b, of_block);
      for (int64_t k = 0; k < kSets; ++k) sums.Set(k, b, of_block[k]);
    }
    FoldAll(sums, errors);
  }

  // The weights of a block of the batch after this one, to the cache: a batch
  // reads them in one go, which leaves the processor no time to foresee it.
  HWY_INLINE void Fetch(int64_t block) const {
    const TensorView& weight = refining_.args().weight;
    const int64_t begin = block * block_size_;
    if (begin + block_size_ > weight.num_elements()) return;
    const auto* bytes = reinterpret_cast<const char*>(
        static_cast<const T*>(weight.data) + begin);
    const int64_t count = std::min(block_size_, kBatchElements);
    for (int64_t i = 0; i < count * int64_t{sizeof(T)}; i += 64) {
      hwy::Prefetch(bytes + i);
    }
  }

  // One block's sums, of what is packed already and of the two tries' ranks.
  HWY_INLINE void AddErrors(const uint8_t* packed, const BatchTries& tries,
                            int64_t b, VF (&errors)[kSets][kParts]) {
    const int64_t block_size = block_size_;  // in a register
    const float* values = Values(b);
    const int32_t* near_ranks = search_.Ranks(0, b);
    const int32_t* other_ranks = search_.Ranks(1, b);
    // All that a block decodes to, 16 values each.
    const auto none =
        Table16::Decoded<T>(refining_.tables().levels_by_code, tries.none[b]);
    const auto nearest = Decoded(tries.Get(b, 0));
    const auto other = Decoded(tries.Get(b, 1));
    for (auto& of_set : errors) {
      for (VF& sum : of_set) sum = hn::Zero(DF());
    }
    const auto add = [](VF difference, VF* sum) HWY_ATTR {
      *sum = hn::Add(*sum, hn::Mul(difference, difference));
    };
    for (int64_t i = 0; i < block_size; i += 16) {
      for (int64_t p = 0; p < kParts; ++p) {
        const int64_t at = i + p * kLanes;
        const VF x = hn::Load(DF(), values + at);
        add(hn::Sub(x, none.Get(LoadNibbles(packed + at / 2))), &errors[0][p]);
        add(hn::Sub(x, nearest.Get(hn::Load(DI(), near_ranks + at))),
            &errors[1][p]);
        add(hn::Sub(x, other.Get(hn::Load(DI(), other_ranks + at))),
            &errors[2][p]);
      }
    }
  }

  HWY_INLINE Table16 Decoded(const NestedTry& t) const {
    return Table16::Decoded<T>(refining_.tables().midpoints.levels, t.absmax);
  }

  // Few blocks have them. Whether one is better.
  HWY_NOINLINE bool OfferWide(int64_t block, int64_t b,
                              NestedBest* best) const {
    const int code = best->best.code;
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
    return best->best.code != code;
  }

  HWY_NOINLINE void Rank(const NestedTry& t, int64_t b, int32_t* ranks) const {
    const VF factor = hn::Set(DF(), 1.0f / t.absmax);
    for (int64_t i = 0; i < block_size_; i += kLanes) {
      const VF x = hn::Load(DF(), Values(b) + i);
      hn::Store(midpoints_.ranker.Rank(Clamp(hn::Mul(x, factor))), DI(),
                ranks + i);
    }
  }

  const Refining& refining_;
  const int64_t block_size_;
  const Coder<kFp4> midpoints_;
  BatchSearch<kFp4> search_;
  RunLevels levels_;
  int64_t run_ = -1;  // that levels_ are of
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
    const int64_t in_run =
        kNestedBlockSize - (args.first_block + b) % kNestedBlockSize;
    const int64_t limit = std::min(b + std::min(most, in_run), full);
    int64_t end = b;
    while (end < limit && Searchable(args.absmax[end])) ++end;
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

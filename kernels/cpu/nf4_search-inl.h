// The search of nf4_math.h (SearchAbsmax) by vectors, for a batch of blocks at
// once: the same operations in the same order. Included once for every target,
// by nf4_encode_simd.cc and nf4_nested_simd.cc only.
//
// Each step of one block waits for the step before. So every step is done for
// all blocks of a batch before the next one, and what is left of a block's sums
// is folded together with that of its neighbours.
#if defined(QS_KERNELS_CPU_NF4_SEARCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QS_KERNELS_CPU_NF4_SEARCH_INL_H_
#undef QS_KERNELS_CPU_NF4_SEARCH_INL_H_
#else
#define QS_KERNELS_CPU_NF4_SEARCH_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "kernels/cpu/nf4-inl.h"
#include "kernels/cpu/nf4_simd.h"
#include "kernels/cpu/nf4_sums-inl.h"
#include "kernels/nf4_math.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
// The codes of ranks as nibbles. REQUIRES: count is a multiple of 32.
template <bool kFp4>
HWY_INLINE void PackRanks(const CodeMap<kFp4>& codes, const int32_t* ranks,
                          int64_t count, uint8_t* packed) {
  const VI low = hn::Set(DI(), 15);
  const auto code = [&](int64_t i) HWY_ATTR {
    return hn::And(codes.Code(hn::Load(DI(), ranks + i)), low);
  };
#if HWY_TARGET == HWY_AVX2
  for (int64_t i = 0; i < count; i += 32) {
    StoreNibbles32(code(i), code(i + 8), code(i + 16), code(i + 24),
                   packed + i / 2);
  }
#else
  for (int64_t i = 0; i < count; i += kLanes) {
    StoreNibbles(code(i), packed + i / 2);
  }
#endif
}

// A block's sums of the squared differences from what its ranks decode to.
HWY_INLINE void AddErrors(const float* values, const int32_t* ranks,
                          int64_t count, const Table16& decoded,
                          VF (&sums)[kParts]) {
  for (VF& sum : sums) sum = hn::Zero(DF());
  for (int64_t i = 0; i < count; i += 16) {
    for (int64_t p = 0; p < kParts; ++p) {
      const int64_t at = i + p * kLanes;
      const VF d = hn::Sub(hn::Load(DF(), values + at),
                           decoded.Get(hn::Load(DI(), ranks + at)));
      sums[p] = hn::Add(sums[p], hn::Mul(d, d));
    }
  }
}

// SearchAbsmax of full, searchable blocks that lie one behind the other.
template <bool kFp4>
class BatchSearch {
 public:
  // `rule` codes as kNone does, `midpoints` by the table that `levels` are of;
  // both have the same levels.
  BatchSearch(const Coder<kFp4>& rule, const Coder<kFp4>& midpoints,
              const float* levels, const SearchTable& table, int64_t block_size)
      : rule_(rule),
        coder_(midpoints),
        levels_(levels),
        table_(table),
        block_size_(block_size) {}

  // The absmax of each of `count` <= kBatch blocks of at most kBatchElements
  // together, or of one of any size.
  template <class T>
  HWY_NOINLINE void Run(const T* w, int64_t count,
                        const float (&max_abs)[kBatch], float (&best)[kBatch]) {
    float fitted[kBatch];
    FitAll(w, count, max_abs, fitted);
    Compare<T>(max_abs, fitted, best);
  }

  // FitAbsmax of each.
  template <class T>
  HWY_INLINE void FitAll(const T* w, int64_t count,
                         const float (&max_abs)[kBatch],
                         float (&fitted)[kBatch]) {
    count_ = count;
    Steps(w, max_abs);
    alignas(64) float ratios[kBatch];
    Ratios(ratios);
    for (int64_t b = 0; b < kBatch; ++b) fitted[b] = ratios[b] * max_abs[b];
    Fit(max_abs, fitted);
    KeepInRange(max_abs, fitted);
  }
  // The ranks of all elements for each block's absmax, in one of two places
  // that FitAll uses, too.
  HWY_INLINE void RankAll(const float (&max_abs)[kBatch],
                          const float (&absmax)[kBatch], int place) {
    RankBy(coder_.ranker, max_abs, absmax, ranks_[place]);
  }
  HWY_INLINE int32_t* Ranks(int place, int64_t block) {
    return ranks_[place] + block * block_size_;
  }
  // The elements of the blocks that were last fitted.
  const float* values() const { return values_; }

  // The nibbles of a block whose absmax the last Run has changed.
  HWY_INLINE void Pack(int64_t block, uint8_t* packed) const {
    PackRanks(coder_.codes, ranks_[0] + block * block_size_, block_size_,
              packed);
  }

 private:
  // InSearchRange for all blocks: which ones are in it cannot be foreseen.
  static HWY_INLINE void KeepInRange(const float (&max_abs)[kBatch],
                                     float (&fitted)[kBatch]) {
    const hn::CappedTag<float, kBatch> d;
    const auto set = [d](float value) HWY_ATTR { return hn::Set(d, value); };
    for (int64_t b = 0; b < kBatch; b += hn::MaxLanes(d)) {
      const auto m = hn::LoadU(d, max_abs + b);
      const auto a = hn::LoadU(d, fitted + b);
      const auto near = hn::And(hn::Ge(a, hn::Mul(m, set(0.25f))),
                                hn::Le(a, hn::Mul(m, set(4.0f))));
      const auto low = hn::Or(hn::Le(a, m), hn::Le(a, set(0x1p15f)));
      hn::StoreU(hn::IfThenElse(hn::And(near, low), a, m), d, fitted + b);
    }
  }

  // Fills values_ and offsets_.
  template <class T>
  HWY_INLINE void Steps(const T* w, const float (&max_abs)[kBatch]) {
    static_assert(SearchTable::kFirstRow % 2 == 0);  // ties are even either way
    const hn::Rebind<uint16_t, DF> d16;
    // Rounds to an integer, which is left in the low bits of the sum.
    const VF round = hn::Set(DF(), 0x1.8p23f + SearchTable::kFirstRow);
    const int64_t block_size = block_size_;  // in a register
    for (int64_t b = 0; b < count_; ++b) {
      const VF factor = hn::Set(DF(), kSearchSteps / max_abs[b]);
      for (int64_t i = b * block_size; i < (b + 1) * block_size; i += kLanes) {
        const VF x = LoadVector(w + i);
        hn::Store(x, DF(), values_ + i);
        const VF row = hn::Add(hn::Mul(x, factor), round);
        const VU offset = hn::ShiftLeft<5>(hn::BitCast(DU(), row));
        hn::StoreU(hn::TruncateTo(d16, offset), d16, offsets_ + i);
      }
    }
  }

  HWY_INLINE void Ratios(float (&ratios)[kBatch]) const {
    RatioSums flat[kBatch];
    for (int64_t b = count_; b < kBatch; ++b) flat[b] = {};
    for (int64_t b = 0; b < count_; ++b) {
      VI sums[kParts];
      for (VI& sum : sums) sum = hn::Zero(DI());
      for (int64_t i = b * block_size_; i < (b + 1) * block_size_; i += 8) {
        AddRows(table_, offsets_ + i, sums);
      }
      for (int64_t p = 0; p < kParts; ++p) {
        hn::Store(hn::ConvertTo(DF(), sums[p]), DF(),
                  flat[b].cross + p * kLanes);
      }
    }
    ChooseRatios(flat, ratios);
  }

  // absmax[b] = sum(w L) / sum(L L) for the levels that it gives.
  HWY_INLINE void Fit(const float (&max_abs)[kBatch], float (&absmax)[kBatch]) {
    RankAll(max_abs, absmax, 0);
    const auto levels = coder_.levels;  // in registers, not behind a pointer
    const int64_t block_size = block_size_;
    PartialSums<2> sums(count_);
    for (int64_t b = 0; b < count_; ++b) {
      const float* w = values_ + b * block_size;
      const int32_t* ranks = Ranks(0, b);
      VF cross[kParts];
      VF square[kParts];
      for (VF& sum : cross) sum = hn::Zero(DF());
      for (VF& sum : square) sum = hn::Zero(DF());
      for (int64_t i = 0; i < block_size; i += 16) {
        for (int64_t p = 0; p < kParts; ++p) {
          const int64_t at = i + p * kLanes;
          const VF level = levels.Get(hn::Load(DI(), ranks + at));
          const VF x = hn::Load(DF(), w + at);
          cross[p] = hn::Add(cross[p], hn::Mul(x, level));
          square[p] = hn::Add(square[p], hn::Mul(level, level));
        }
      }
      sums.Set(0, b, cross);
      sums.Set(1, b, square);
    }
    float folded[2][kBatch];
    FoldAll(sums, folded);
    for (int64_t b = 0; b < kBatch; ++b) {
      absmax[b] = folded[0][b] / folded[1][b];
    }
  }

  // best[b] is fitted[b] where its error as stored is below that of kNone, else
  // max_abs[b]; ranks_ are those of `fitted`.
  template <class T>
  HWY_INLINE void Compare(const float (&max_abs)[kBatch],
                          const float (&fitted)[kBatch],
                          float (&best)[kBatch]) {
    // What the rule does to subnormal elements has no place here: they decode
    // to 0.
    RankBy(rule_.ranker, max_abs, max_abs, ranks_[1]);
    RankAll(max_abs, fitted, 0);
    PartialSums<2> sums(count_);
    for (int64_t b = 0; b < count_; ++b) {
      VF none[kParts];
      VF found[kParts];
      const float* w = values_ + b * block_size_;
      AddErrors(w, Ranks(1, b), block_size_,
                Table16::Decoded<T>(levels_, max_abs[b]), none);
      AddErrors(w, Ranks(0, b), block_size_,
                Table16::Decoded<T>(levels_, fitted[b]), found);
      sums.Set(0, b, none);
      sums.Set(1, b, found);
    }
    float folded[2][kBatch];
    FoldAll(sums, folded);
    for (int64_t b = 0; b < count_; ++b) {
      const bool better =
          IsSurelyBelow(folded[1][b], folded[0][b], block_size_);
      best[b] = better ? fitted[b] : max_abs[b];
    }
  }

  // All elements' ranks, of each block's by its factor 1 / absmax. Apart from
  // what is done with the ranks: a core sees further ahead in two short chains
  // of operations than in one of both.
  HWY_INLINE void RankBy(const Ranker<kFp4>& any_ranker,
                         const float (&max_abs)[kBatch],
                         const float (&absmax)[kBatch], int32_t* ranks) const {
    const auto ranker = any_ranker;  // in registers, not behind a pointer
    alignas(64) float factors[kBatch];
    const hn::CappedTag<float, kBatch> d;
    for (int64_t b = 0; b < kBatch; b += hn::MaxLanes(d)) {
      hn::Store(hn::Div(hn::Set(d, 1.0f), hn::LoadU(d, absmax + b)), d,
                factors + b);
    }
    constexpr float kReach = Ranker<kFp4>::kReach;
    for (int64_t b = 0; b < count_; ++b) {
      // Where most blocks have to be clamped a branch would cost more.
      if (kReach > 1.0f && max_abs[b] <= kReach * absmax[b]) {
        RankBlock<false>(ranker, b, factors[b], ranks);
      } else {
        RankBlock<true>(ranker, b, factors[b], ranks);
      }
    }
  }

  template <bool kClamp>
  HWY_INLINE void RankBlock(const Ranker<kFp4>& ranker, int64_t block,
                            float factor, int32_t* ranks) const {
    const VF factors = hn::Set(DF(), factor);
    const int64_t end = (block + 1) * block_size_;
    for (int64_t i = block * block_size_; i < end; i += 32) {
      for (int64_t k = 0; k < 32; k += kLanes) {
        const VF t = hn::Mul(hn::Load(DF(), values_ + i + k), factors);
        hn::Store(ranker.Rank(kClamp ? Clamp(t) : t), DI(), ranks + i + k);
      }
    }
  }

  const Coder<kFp4>& rule_;
  const Coder<kFp4>& coder_;
  const float* const levels_;
  const SearchTable& table_;
  const int64_t block_size_;
  int64_t count_ = 0;
  alignas(64) float values_[4096];
  alignas(64) uint16_t offsets_[4096];  // of rows, bytes
  alignas(64) int32_t ranks_[2][4096];
};
#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace qs::nf4
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target

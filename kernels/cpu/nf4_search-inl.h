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
#include "kernels/nf4_math.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
constexpr int64_t kBatch = 16;            // blocks
constexpr int64_t kBatchElements = 1024;  // F32 values that stay in cache

// Sets of 16 partial sums. A batch need not be full, and all of it is folded.
template <int64_t kSets>
struct PartialSums {
  static_assert(kSets % 4 == 0);
  alignas(64) float s[kSets][16];

  // By vectors: compilers take a string instruction for so many bytes.
  HWY_INLINE PartialSums() {
    for (auto& set : s) {
      for (int64_t i = 0; i < 16; i += kLanes) {
        hn::Store(hn::Zero(DF()), DF(), set + i);
      }
    }
  }
  HWY_INLINE void Set(int64_t set, const VF (&sums)[kParts]) {
    for (int64_t p = 0; p < kParts; ++p) {
      hn::Store(sums[p], DF(), s[set] + p * kLanes);
    }
  }
};

// Folds each set as Partial16 does.
template <int64_t kSets>
HWY_INLINE void FoldAll(const PartialSums<kSets>& sums, float (&out)[kSets]) {
#if HWY_TARGET <= HWY_AVX3
  // Four sets at a time: every step halves what is left of each.
  for (int64_t k = 0; k < kSets; k += 4) {
    const auto halves = [&](int i) HWY_ATTR {
      const __m512 x = _mm512_load_ps(sums.s[k + i]);
      const __m512 y = _mm512_load_ps(sums.s[k + i + 1]);
      return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44),
                           _mm512_shuffle_f32x4(x, y, 0xee));
    };
    const __m512 a = halves(0);
    const __m512 b = halves(2);
    const VF quarters{_mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88),
                                    _mm512_shuffle_f32x4(a, b, 0xdd))};
    const VF pairs = hn::Add(quarters, hn::Shuffle1032(quarters));
    alignas(64) float folded[16];
    hn::Store(hn::Add(pairs, hn::Shuffle2301(pairs)), DF(), folded);
    for (int i = 0; i < 4; ++i) out[k + i] = folded[4 * i];
  }
#else
  for (int64_t k = 0; k < kSets; ++k) {
    VF set[kParts];
    for (int64_t p = 0; p < kParts; ++p) {
      set[p] = hn::Load(DF(), sums.s[k] + p * kLanes);
    }
    out[k] = Fold(set);
  }
#endif
}

// sums += the 16-bit lanes of `row`, in order; a template for the sake of the
// branch that does not compile.
template <class V16, size_t kRowParts>
HWY_INLINE void AddWide(const V16 (&row)[kRowParts], VI (&sums)[kParts]) {
  const hn::DFromV<V16> d;
  if constexpr (kRowParts == kParts) {
    for (size_t p = 0; p < kParts; ++p) {
      sums[p] = hn::Add(sums[p], hn::PromoteTo(DI(), row[p]));
    }
  } else {
    static_assert(2 * kRowParts == kParts);
    const hn::Half<decltype(d)> half;
    for (size_t p = 0; p < kRowParts; ++p) {
      const auto low = hn::LowerHalf(half, row[p]);
      const auto high = hn::UpperHalf(half, row[p]);
      sums[2 * p] = hn::Add(sums[2 * p], hn::PromoteTo(DI(), low));
      sums[2 * p + 1] = hn::Add(sums[2 * p + 1], hn::PromoteTo(DI(), high));
    }
  }
}

// Adds the eight rows of the search table that lie `offsets` bytes from its
// beginning: the sum of eight fits 16 bits.
HWY_INLINE void AddRows(const SearchTable& table, const uint16_t* offsets,
                        VI (&sums)[kParts]) {
  static_assert(sizeof(table.rows[0]) == 1 << 5);
  const hn::CappedTag<int16_t, 2 * kCandidates> d;  // a row, or parts of it
  constexpr int64_t kWidth = hn::MaxLanes(d);
  constexpr int64_t kRowParts = 2 * kCandidates / kWidth;
  const char* rows = reinterpret_cast<const char*>(table.rows);
  hn::Vec<decltype(d)> sum[kRowParts];
  for (auto& part : sum) part = hn::Zero(d);
  for (int half = 0; half < 2; ++half) {
    uint64_t four;  // one load instead of four
    hwy::CopyBytes<sizeof(four)>(offsets + 4 * half, &four);
    for (int i = 0; i < 4; ++i, four >>= 16) {
      const auto* row =
          reinterpret_cast<const int16_t*>(rows + (four & 0xffff));
      for (int64_t p = 0; p < kRowParts; ++p) {
        sum[p] = hn::Add(sum[p], hn::Load(d, row + p * kWidth));
      }
    }
  }
  AddWide(sum, sums);
}

// A block's sums of step 1 as floats.
struct RatioSums {
  alignas(64) float cross[kCandidates];
  float square[kCandidates];
};

// ChooseRatio of kBatch blocks.
HWY_INLINE void ChooseRatios(const RatioSums (&sums)[kBatch],
                             float (&ratios)[kBatch]) {
  const hn::CappedTag<float, kCandidates> df;
  const hn::RebindToSigned<decltype(df)> di;
  constexpr int64_t kWidth = hn::MaxLanes(df);
  static_assert(kBatch % kWidth == 0);
  // A block's candidates compete in its lanes, and then, each step halving what
  // is left of two neighbours, as many blocks as there are lanes do.
  alignas(32) int32_t best[kBatch];
  for (int64_t b = 0; b < kBatch; b += kWidth) {
    hn::Vec<decltype(di)> keys[kWidth];
    for (int64_t i = 0; i < kWidth; ++i) {
      keys[i] = hn::Zero(di);
      for (int64_t k = 0; k < kCandidates; k += kWidth) {
        const auto cross = hn::Load(df, sums[b + i].cross + k);
        const auto square = hn::Load(df, sums[b + i].square + k);
        const auto gain = hn::Div(hn::Mul(cross, cross), square);
        const auto number =
            hn::Sub(hn::Set(di, 7 - static_cast<int>(k)), hn::Iota(di, 0));
        const auto bits = hn::AndNot(hn::Set(di, 7), hn::BitCast(di, gain));
        keys[i] = hn::Max(keys[i], hn::Or(bits, number));
      }
    }
    for (int64_t n = kWidth / 2; n > 0; n /= 2) {
      for (int64_t i = 0; i < n; ++i) {
        keys[i] = hn::Max(hn::ConcatEven(di, keys[2 * i + 1], keys[2 * i]),
                          hn::ConcatOdd(di, keys[2 * i + 1], keys[2 * i]));
      }
    }
    hn::Store(keys[0], di, best + b);
  }
  for (int64_t b = 0; b < kBatch; ++b) {
    const int32_t k = 7 - (best[b] & 7);
    ratios[b] = sums[b].cross[k] / sums[b].square[k];
  }
}

// Elements' codes, a byte each, as nibbles. REQUIRES: count is a multiple of
// 32. Above the lowest four bits of a byte may be anything.
HWY_INLINE void PackNibbles(const uint8_t* codes, int64_t count,
                            uint8_t* packed) {
  const hn::CappedTag<uint16_t, 16> d16;
  const hn::Rebind<uint8_t, decltype(d16)> d8;
  const auto nibbles = hn::Set(d16, 0x0f0f);
  constexpr int64_t kWidth = hn::MaxLanes(d16);
  for (int64_t i = 0; i < count / 2; i += kWidth) {
    // The first element is the lower byte and goes to the high nibble.
    const auto pair = hn::And(
        hn::LoadU(d16, reinterpret_cast<const uint16_t*>(codes + 2 * i)),
        nibbles);
    hn::StoreU(hn::TruncateTo(
                   d8, hn::Or(hn::ShiftLeft<4>(pair), hn::ShiftRight<8>(pair))),
               d8, packed + i);
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
    float ratios[kBatch];
    Ratios(ratios);
    for (int64_t b = 0; b < kBatch; ++b) fitted[b] = ratios[b] * max_abs[b];
    Fit(fitted);
    for (int64_t b = 0; b < count; ++b) {
      if (!InSearchRange(max_abs[b], fitted[b])) fitted[b] = max_abs[b];
    }
  }
  // The elements of the blocks that were last fitted.
  const float* values() const { return values_; }

  // The nibbles of a block whose absmax the last Run has changed.
  HWY_INLINE void Pack(int64_t block, uint8_t* packed) const {
    PackNibbles(codes_ + block * block_size_, block_size_, packed);
  }

 private:
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
  HWY_INLINE void Fit(float (&absmax)[kBatch]) const {
    const auto ranker = coder_.ranker;  // in registers, not behind a pointer
    const auto levels = coder_.levels;
    PartialSums<2 * kBatch> sums;
    for (int64_t b = 0; b < count_; ++b) {
      const float* w = values_ + b * block_size_;
      const VF reciprocal = hn::Set(DF(), 1.0f / absmax[b]);
      VF cross[kParts];
      VF square[kParts];
      for (VF& sum : cross) sum = hn::Zero(DF());
      for (VF& sum : square) sum = hn::Zero(DF());
      for (int64_t i = 0; i < block_size_; i += 16) {
        for (int64_t p = 0; p < kParts; ++p) {
          const VF x = hn::Load(DF(), w + i + p * kLanes);
          const VF level =
              levels.Get(ranker.Rank(Clamp(hn::Mul(x, reciprocal))));
          cross[p] = hn::Add(cross[p], hn::Mul(x, level));
          square[p] = hn::Add(square[p], hn::Mul(level, level));
        }
      }
      sums.Set(b, cross);
      sums.Set(kBatch + b, square);
    }
    float folded[2 * kBatch];
    FoldAll(sums, folded);
    for (int64_t b = 0; b < count_; ++b) {
      absmax[b] = folded[b] / folded[kBatch + b];
    }
  }

  // best[b] is fitted[b] where its error as stored is below that of kNone, else
  // max_abs[b]; codes_ are those of `fitted`.
  template <class T>
  HWY_INLINE void Compare(const float (&max_abs)[kBatch],
                          const float (&fitted)[kBatch],
                          float (&best)[kBatch]) {
    PartialSums<2 * kBatch> sums;
    for (int64_t b = 0; b < count_; ++b) {
      VF none[kParts];
      VF found[kParts];
      AddErrors<T>(b, max_abs[b], fitted[b], none, found);
      sums.Set(b, none);
      sums.Set(kBatch + b, found);
    }
    float folded[2 * kBatch];
    FoldAll(sums, folded);
    for (int64_t b = 0; b < count_; ++b) {
      const bool better =
          IsSurelyBelow(folded[kBatch + b], folded[b], block_size_);
      best[b] = better ? fitted[b] : max_abs[b];
    }
  }

  // One block's sums. What the rule does to subnormal elements has no place
  // here: they decode to 0.
  template <class T>
  HWY_INLINE void AddErrors(int64_t block, float max_abs, float fitted,
                            VF (&none)[kParts], VF (&found)[kParts]) {
    const auto rule = rule_.ranker;  // in registers, not behind a pointer
    const auto midpoints = coder_.ranker;
    const hn::Rebind<uint8_t, DI> d8;
    // All that a block decodes to: 16 values.
    const auto none_values = Table16::Decoded<T>(levels_, max_abs);
    const auto found_values = Table16::Decoded<T>(levels_, fitted);
    const VF none_factor = hn::Set(DF(), 1.0f / max_abs);
    const VF found_factor = hn::Set(DF(), 1.0f / fitted);
    for (VF& sum : none) sum = hn::Zero(DF());
    for (VF& sum : found) sum = hn::Zero(DF());
    const int64_t begin = block * block_size_;
    for (int64_t i = begin; i < begin + block_size_; i += 16) {
      for (int64_t p = 0; p < kParts; ++p) {
        const VF x = hn::Load(DF(), values_ + i + p * kLanes);
        const VI none_rank = rule.Rank(hn::Mul(x, none_factor));
        const VF none_d = hn::Sub(x, none_values.Get(none_rank));
        none[p] = hn::Add(none[p], hn::Mul(none_d, none_d));
        const VI rank = midpoints.Rank(Clamp(hn::Mul(x, found_factor)));
        const VF d = hn::Sub(x, found_values.Get(rank));
        found[p] = hn::Add(found[p], hn::Mul(d, d));
        const VU code = hn::BitCast(DU(), coder_.codes.Code(rank));
        hn::StoreU(hn::TruncateTo(d8, code), d8, codes_ + i + p * kLanes);
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
  alignas(64) uint8_t codes_[4096];
};
#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace qs::nf4
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target

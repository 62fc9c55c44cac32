// Sums of a batch of NF4 blocks: the integers of the search's first step, and
// partial sums in F32 with their fold. Included once for every target, by
// nf4_search-inl.h only.
#if defined(QS_KERNELS_CPU_NF4_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QS_KERNELS_CPU_NF4_SUMS_INL_H_
#undef QS_KERNELS_CPU_NF4_SUMS_INL_H_
#else
#define QS_KERNELS_CPU_NF4_SUMS_INL_H_
#endif

#include <hwy/highway.h>

#include "kernels/cpu/nf4-inl.h"
#include "kernels/cpu/nf4_simd.h"
#include "kernels/nf4_math.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
constexpr int64_t kBatch = 16;            // blocks
constexpr int64_t kBatchElements = 1024;  // F32 values that stay in cache

// Sets of 16 partial sums, kSets of each block. A batch need not be full, and
// all of it is folded.
template <int64_t kSets>
struct PartialSums {
  alignas(64) float s[kSets][kBatch][16];

  // Zeros but in the first `count` blocks.
  explicit HWY_INLINE PartialSums(int64_t count) {
    for (auto& set : s) {
      for (int64_t b = count; b < kBatch; ++b) {
        for (int64_t i = 0; i < 16; i += kLanes) {
          hn::Store(hn::Zero(DF()), DF(), set[b] + i);
        }
      }
    }
  }
  HWY_INLINE void Set(int64_t set, int64_t b, const VF (&sums)[kParts]) {
    for (int64_t p = 0; p < kParts; ++p) {
      hn::Store(sums[p], DF(), s[set][b] + p * kLanes);
    }
  }
};

// What two halvings leave of the first set and every fourth one after it, as
// many as a vector holds.
HWY_INLINE VF Quarters(const float (*sets)[16]) {
#if HWY_TARGET <= HWY_AVX3
  const auto halves = [sets](int i) HWY_ATTR {
    const __m512 x = _mm512_load_ps(sets[i]);
    const __m512 y = _mm512_load_ps(sets[i + 4]);
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44),
                         _mm512_shuffle_f32x4(x, y, 0xee));
  };
  const __m512 a = halves(0);
  const __m512 b = halves(8);
  return VF{_mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88),
                          _mm512_shuffle_f32x4(a, b, 0xdd))};
#else
  const auto sum = [](const float* x, const float* y) HWY_ATTR {
    return hn::Add(hn::Load(DF(), x), hn::Load(DF(), y));
  };
#if HWY_TARGET == HWY_AVX2
  const VF a = sum(sets[0], sets[0] + 8);
  const VF b = sum(sets[4], sets[4] + 8);
  return hn::Add(hn::ConcatLowerLower(DF(), b, a),
                 hn::ConcatUpperUpper(DF(), b, a));
#else
  static_assert(kLanes == 4);
  return hn::Add(sum(sets[0], sets[0] + 8), sum(sets[0] + 4, sets[0] + 12));
#endif
#endif
}

// Folds each set as Partial16 does.
template <int64_t kSets>
HWY_INLINE void FoldAll(const PartialSums<kSets>& sums,
                        float (&out)[kSets][kBatch]) {
  const hn::RepartitionToWide<DF> d64;
  const auto add = [d64](VF x, VF y) HWY_ATTR {
    const auto x64 = hn::BitCast(d64, x);
    const auto y64 = hn::BitCast(d64, y);
    return hn::Add(hn::BitCast(DF(), hn::InterleaveLower(d64, x64, y64)),
                   hn::BitCast(DF(), hn::InterleaveUpper(d64, x64, y64)));
  };
  const auto zip_add = [](VF x, VF y) HWY_ATTR {
    return hn::Add(hn::InterleaveLower(DF(), x, y),
                   hn::InterleaveUpper(DF(), x, y));
  };
  for (int64_t k = 0; k < kSets; ++k) {
    for (int64_t b = 0; b < kBatch; b += kLanes) {
      const float(*sets)[16] = sums.s[k] + b;
      // Each step halves what is left of twice as many sets.
      const VF pairs01 = zip_add(Quarters(sets), Quarters(sets + 1));
      const VF pairs23 = zip_add(Quarters(sets + 2), Quarters(sets + 3));
      hn::StoreU(add(pairs01, pairs23), DF(), out[k] + b);
    }
  }
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
#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace qs::nf4
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target

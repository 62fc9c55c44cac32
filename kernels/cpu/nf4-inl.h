// What the NF4 loops share: ranks, codes and levels of vectors of up to sixteen
// F32 lanes. Included once for every target, by nf4_*_simd.cc only.
//
// The rank of t is found
//   * with 16 lanes and NF4, by 31 equal bins of [-1, 1]: each holds at most
//     one threshold, so two table look-ups and one comparison are exact (the
//     bin of t is monotone in t, and the tables are built with the same bins);
//   * with 8 lanes and NF4, where a look-up knows 8 entries only, by 15 bins
//     along a curve: bin k holds threshold k and no other, so that no look-up
//     but that of the threshold is needed;
//   * otherwise by counting comparisons with the 15 bounds.
// Only the lowest four bits of a lane are the rank, and only they are looked
// at; above them is 0, except where a ranker says so.
#if defined(QS_KERNELS_CPU_NF4_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QS_KERNELS_CPU_NF4_INL_H_
#undef QS_KERNELS_CPU_NF4_INL_H_
#else
#define QS_KERNELS_CPU_NF4_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/simd-inl.h"
#include "kernels/nf4_math.h"
#include "kernels/nf4_tables.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

using VI = hn::Vec<DI>;

inline void SetNibble(uint8_t* packed, int64_t i, int code) {
  uint8_t& byte = packed[i / 2];
  byte = static_cast<uint8_t>(i % 2 == 0 ? code << 4 : byte | code);
}

#if HWY_TARGET != HWY_SCALAR
// Entry `rank` (0..15) of a table of 16, each multiplied by a factor.
class Table16 {
 public:
  // The products rounded to the type, as they are decoded.
  template <class T>
  static HWY_INLINE Table16 Decoded(const float* levels, float absmax) {
    Table16 table;
    for (int64_t i = 0; i < 16; i += kLanes) {
      const VF product =
          hn::Mul(hn::LoadU(DF(), levels + i), hn::Set(DF(), absmax));
      hn::Store(RoundVector<T>(product), DF(), table.values_ + i);
    }
    return table;
  }
  explicit Table16(const float* values, float factor = 1.0f) {
    for (int i = 0; i < 16; ++i) values_[i] = values[i] * factor;
  }
  HWY_INLINE VF Get(VI rank) const {
    if constexpr (kLanes == 16) {
      return hn::TableLookupLanes(hn::Load(DF(), values_),
                                  hn::IndicesFromVec(DF(), rank));
#if HWY_TARGET == HWY_AVX2
    } else if constexpr (kLanes == 8) {
      // The look-ups see the lowest three bits, the choice sees the fourth.
      const VF upper = hn::BitCast(DF(), hn::ShiftLeft<28>(rank));
      return hn::IfNegativeThenElse(
          upper,
          VF{_mm256_permutevar8x32_ps(_mm256_load_ps(values_ + 8), rank.raw)},
          VF{_mm256_permutevar8x32_ps(_mm256_load_ps(values_), rank.raw)});
#endif
    } else {
      return hn::GatherIndex(DF(), values_, rank);
    }
  }

 private:
  Table16() = default;
  alignas(64) float values_[16];
};

class CountRanker {
 public:
  // Up to which |t| it may be asked; Clamp makes any t such.
  static constexpr float kReach = std::numeric_limits<float>::infinity();
  explicit CountRanker(const RankTable& table) {
    std::copy_n(table.bounds, 15, bounds_);
  }
  HWY_INLINE VI Rank(VF t) const {
    VI rank = hn::Zero(DI());
    for (float bound : bounds_) {
      // A true mask is -1 in every lane.
      rank = hn::Sub(
          rank,
          hn::VecFromMask(
              DI(), hn::RebindMask(DI(), hn::Gt(t, hn::Set(DF(), bound)))));
    }
    return rank;
  }

 private:
  float bounds_[15];
};

#if HWY_TARGET <= HWY_AVX3
// REQUIRES: NF4, whose thresholds are further apart than a bin.
class BinRanker {
 public:
  static constexpr float kReach = 1.0f;
  explicit BinRanker(const RankTable& table) {
    alignas(64) float bounds[32];
    alignas(64) int32_t base[32] = {};
    for (int bin = 0; bin < 32; ++bin) {
      bounds[bin] = 4.0f;
      for (float bound : table.bounds) {
        const int at = BinOf(bound);
        if (at < bin) ++base[bin];
        if (at == bin) bounds[bin] = bound;
      }
    }
    for (int half = 0; half < 2; ++half) {
      bounds_[half] = _mm512_load_ps(bounds + 16 * half);
      base_[half] = _mm512_load_si512(base + 16 * half);
    }
  }
  HWY_INLINE VI Rank(VF t) const {
    // The look-ups see the lowest five bits alone.
    const __m512i bin = _mm512_castps_si512(_mm512_fmadd_ps(
        t.raw, _mm512_set1_ps(kBinScale), _mm512_set1_ps(kBinOffset)));
    const __m512 bound = _mm512_permutex2var_ps(bounds_[0], bin, bounds_[1]);
    const __m512i base = _mm512_permutex2var_epi32(base_[0], bin, base_[1]);
    return VI{_mm512_mask_add_epi32(
        base, _mm512_cmp_ps_mask(bound, t.raw, _CMP_LT_OQ), base,
        _mm512_set1_epi32(1))};
  }

 private:
  // t times the scale, rounded to an integer by the size of the offset and
  // left in the low bits of the sum: 1 for t = -1, 31 for t = 1.
  static constexpr float kBinScale = 15.49f;
  static constexpr float kBinOffset = 0x1p23f + 16.0f;
  static int BinOf(float t) {
    const float sum = std::fma(t, kBinScale, kBinOffset);
    return static_cast<int>(std::bit_cast<uint32_t>(sum) & 31);
  }
  __m512 bounds_[2];
  __m512i base_[2];
};
#endif

#if HWY_TARGET == HWY_AVX2
// REQUIRES: NF4. Above the rank's four bits is what is left of a float.
class CurveRanker {
 public:
  static constexpr float kReach = 1.6f;
  explicit CurveRanker(const RankTable& table) {
    // Below zero are bins 0 to 7, from zero on 7 to 14: either way the lowest
    // three bits tell them apart.
    for (int bin = 0; bin < 8; ++bin) {
      below_[bin] = table.bounds[bin];
      above_[(bin + 7) % 8] = table.bounds[bin + 7];
    }
  }
  HWY_INLINE VI Rank(VF t) const {
    const VF slope =
        hn::NegMulAdd(hn::Set(DF(), kBend), hn::Abs(t), hn::Set(DF(), kSlope));
    const __m256i bin =
        _mm256_castps_si256(hn::MulAdd(t, slope, hn::Set(DF(), kOffset)).raw);
    const VF bound = hn::IfNegativeThenElse(
        t, VF{_mm256_permutevar8x32_ps(_mm256_load_ps(below_), bin)},
        VF{_mm256_permutevar8x32_ps(_mm256_load_ps(above_), bin)});
    // A true mask is -1 in every lane.
    return hn::Sub(
        VI{bin}, hn::VecFromMask(DI(), hn::RebindMask(DI(), hn::Gt(t, bound))));
  }

 private:
  // t (slope - bend |t|) + 7, rounded to an integer by the size of the offset
  // and left in the low bits of the sum. The curve passes threshold k within
  // 0.474 of k. From 1 to kReach, either side, it rises no higher than 7.473
  // and falls no lower than 6.825: every end of a bin is a thousand times as
  // far from all of these as rounding could move it.
  static constexpr float kSlope = 12.09f;
  static constexpr float kBend = 4.89f;
  static constexpr float kOffset = 0x1.8p23f + 7.0f;
  alignas(32) float below_[8];
  alignas(32) float above_[8];
};
#endif

// [-1, 1]: beyond it the ranks are 0 and 15 anyway, and the bins end.
HWY_INLINE VF Clamp(VF t) {
#if HWY_TARGET <= HWY_AVX3
  // The smaller magnitude with the sign of t, in one instruction.
  return VF{_mm512_range_ps(t.raw, _mm512_set1_ps(1.0f), 2)};
#else
  return hn::Min(hn::Max(t, hn::Set(DF(), -1.0f)), hn::Set(DF(), 1.0f));
#endif
}

// Codes of kLanes elements as bytes, first element in the high nibble.
HWY_INLINE void StoreNibbles(VI codes, uint8_t* packed) {
  const hn::RepartitionToWide<hn::RebindToUnsigned<DF>> d64;
  const auto pair = hn::BitCast(d64, codes);
  const auto bytes = hn::Or(hn::ShiftLeft<4>(pair), hn::ShiftRight<32>(pair));
  const hn::Rebind<uint8_t, decltype(d64)> d8;
  hn::StoreU(hn::TruncateTo(d8, bytes), d8, packed);
}

#if HWY_TARGET == HWY_AVX2
// The same of 32 elements, a quarter of the work.
HWY_INLINE void StoreNibbles32(VI a, VI b, VI c, VI d, uint8_t* packed) {
  // Either half has four codes of each vector: as bytes, then as nibbles in the
  // lower eight bytes.
  const __m256i codes = _mm256_packus_epi16(_mm256_packs_epi32(a.raw, b.raw),
                                            _mm256_packs_epi32(c.raw, d.raw));
  const __m256i bytes = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0110));
  const __m256i halves = _mm256_packus_epi16(bytes, bytes);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(packed),
                   _mm_unpacklo_epi16(_mm256_castsi256_si128(halves),
                                      _mm256_extracti128_si256(halves, 1)));
}
#endif

// kLanes codes from kLanes / 2 bytes; above a lane's lowest four bits may be
// anything.
HWY_INLINE VI LoadNibbles(const uint8_t* packed) {
#if HWY_TARGET <= HWY_AVX3
  // All of them to every 64 bits, each lane's byte to its place, and its nibble
  // down.
  int64_t eight;
  hwy::CopyBytes<sizeof(eight)>(packed, &eight);
  const __m512i byte = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4,  //
                                        3, 3, 2, 2, 1, 1, 0, 0);
  const __m512i down = _mm512_set1_epi64(4);
  return VI{_mm512_srlv_epi32(
      _mm512_shuffle_epi8(_mm512_set1_epi64(eight), byte), down)};
#elif HWY_TARGET == HWY_AVX2
  int32_t four;
  hwy::CopyBytes<sizeof(four)>(packed, &four);
  return VI{_mm256_srlv_epi32(_mm256_set1_epi32(four),
                              _mm256_set_epi32(24, 28, 16, 20, 8, 12, 0, 4))};
#else
  const hn::RepartitionToWide<hn::RebindToUnsigned<DF>> d64;
  const hn::Rebind<uint8_t, decltype(d64)> d8;
  const hn::Rebind<uint32_t, decltype(d64)> d32;
  const auto bytes =
      hn::PromoteTo(d64, hn::PromoteTo(d32, hn::LoadU(d8, packed)));
  const auto low = hn::ShiftLeft<32>(hn::And(bytes, hn::Set(d64, 15)));
  return hn::BitCast(DI(), hn::Or(hn::ShiftRight<4>(bytes), low));
#endif
}

// The rank as the code that is stored. NF4's codes are its ranks.
template <bool kFp4>
class CodeMap {
 public:
  explicit CodeMap(const RankTable& table) : codes_(AsFloats(table).values) {}
  HWY_INLINE VI Code(VI rank) const {
    if constexpr (kFp4) {
      return hn::BitCast(DI(), codes_.Get(rank));
    } else {
      return rank;
    }
  }

 private:
  struct Floats {
    float values[16];
  };
  static Floats AsFloats(const RankTable& table) {
    Floats floats;
    for (int i = 0; i < 16; ++i) {
      floats.values[i] =
          std::bit_cast<float>(static_cast<uint32_t>(table.codes[i]));
    }
    return floats;
  }
  Table16 codes_;
};

#if HWY_TARGET <= HWY_AVX3
template <bool kFp4>
using Ranker = std::conditional_t<kFp4, CountRanker, BinRanker>;
#elif HWY_TARGET == HWY_AVX2
template <bool kFp4>
using Ranker = std::conditional_t<kFp4, CountRanker, CurveRanker>;
#else
template <bool kFp4>
using Ranker = CountRanker;
#endif

template <bool kFp4>
struct Coder {
  explicit Coder(const RankTable& table)
      : ranker(table), codes(table), levels(table.levels) {}
  Ranker<kFp4> ranker;
  CodeMap<kFp4> codes;
  Table16 levels;
};

#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace qs::nf4
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target

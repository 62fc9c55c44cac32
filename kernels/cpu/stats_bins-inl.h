// Counts of 32 bins without a table: an element is one bit of a word, and the
// words are added as bit slices, by full adders. Included once for every
// target, by stats_simd.cc only.
//
// A table's counters wait for each other when neighbours fall into one bin;
// comparing with every bin costs as many operations as there are bins. Here an
// element costs one shift and about one full adder (two operations with
// AVX-512), whatever its bin.
#if defined(QS_KERNELS_CPU_STATS_BINS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QS_KERNELS_CPU_STATS_BINS_INL_H_
#undef QS_KERNELS_CPU_STATS_BINS_INL_H_
#else
#define QS_KERNELS_CPU_STATS_BINS_INL_H_
#endif

#include <hwy/highway.h>

#include <array>
#include <cstring>

#include "kernels/cpu/simd-inl.h"
#include "kernels/stats_ops.h"

HWY_BEFORE_NAMESPACE();
namespace qs::stats {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

// The word whose bit `x`, cut to an integer, is set; none from 32 on with
// AVX-512, the last one elsewhere. REQUIRES: x >= 0.
HWY_INLINE VU BitOf(VF x) {
  const VU one = hn::Set(DU(), 1);
#if HWY_TARGET <= HWY_AVX3
  return VU{_mm512_sllv_epi32(one.raw, _mm512_cvttps_epi32(x.raw))};
#else
  const VF least = hn::Min(x, hn::Set(DF(), kHistogramBins - 0.5f));
  return one << hn::BitCast(DU(), hn::ConvertTo(DI(), least));
#endif
}

// sum + b + c of every bit: its lower digit stays in `sum`, the upper is
// returned.
HWY_INLINE VU FullAdd(VU* sum, VU b, VU c) {
  const VU a = *sum;
#if HWY_TARGET <= HWY_AVX3
  *sum = VU{_mm512_ternarylogic_epi32(a.raw, b.raw, c.raw, 0x96)};
  return VU{_mm512_ternarylogic_epi32(a.raw, b.raw, c.raw, 0xe8)};
#else
  const VU half = hn::Xor(a, b);
  *sum = hn::Xor(half, c);
  return hn::Or(hn::And(a, b), hn::And(half, c));
#endif
}

// Sums of words of weight 2, sixteen lanes each.
class BinCounter {
 public:
  // Room for `count` words of sixteen lanes each, at most kBuffered, to be
  // filled before the next call.
  HWY_INLINE uint32_t* Next(int64_t count) {
    if (buffered_ + count > kBuffered) Drain();
    uint32_t* const words = buffer_[buffered_];
    buffered_ += count;
    return words;
  }

  // What was counted, and once `ones`, words of weight 1.
  void AddTo(const VU (&ones)[kParts],
             std::array<int64_t, kHistogramBins>* histogram) {
    Drain();
    AddWords(ones, 1, histogram);
    for (int level = 0; level < kLevels; ++level) {
      VU words[kParts];
      LoadWords(sums_[level], words);
      AddWords(words, int64_t{2} << level, histogram);
      const bool pending = level >= kTree && (calls_ >> (level - kTree)) % 2;
      if (!pending) continue;
      LoadWords(pending_[level], words);
      AddWords(words, int64_t{2} << level, histogram);
    }
  }

 private:
  static constexpr int64_t kBuffered = 64;  // a multiple of 8
  static constexpr int kTree = 3;  // levels that AddEight adds in place
  static constexpr int kLevels = 40;

  static void LoadWords(const uint32_t* from, VU (&words)[kParts]) {
    for (int64_t p = 0; p < kParts; ++p) {
      words[p] = hn::LoadU(DU(), from + p * kLanes);
    }
  }

  static void AddWords(const VU (&words)[kParts], int64_t weight,
                       std::array<int64_t, kHistogramBins>* histogram) {
    alignas(64) uint32_t lanes[16];
    uint32_t any = 0;
    for (int64_t p = 0; p < kParts; ++p) {
      hn::StoreU(words[p], DU(), lanes + p * kLanes);
    }
    for (uint32_t lane : lanes) any |= lane;
    for (size_t bin = 0; any >> bin != 0; ++bin) {
      int64_t set = 0;
      for (uint32_t lane : lanes) set += lane >> bin & 1;
      (*histogram)[bin] += weight * set;
      if (bin + 1 == kHistogramBins) break;
    }
  }

  void Drain() {
    while (buffered_ % 8 != 0) {
      std::memset(buffer_[buffered_++], 0, sizeof(buffer_[0]));
    }
    for (int64_t i = 0; i < buffered_; i += 8) AddEight(i);
    buffered_ = 0;
  }

  void AddEight(int64_t first) {
    for (int64_t p = 0; p < kParts; ++p) {
      const auto at = [p](uint32_t* words) { return words + p * kLanes; };
      const auto word = [&](int i) HWY_ATTR {
        return hn::LoadU(DU(), at(buffer_[first + i]));
      };
      VU s0 = hn::LoadU(DU(), at(sums_[0]));
      VU s1 = hn::LoadU(DU(), at(sums_[1]));
      VU s2 = hn::LoadU(DU(), at(sums_[2]));
      const VU a = FullAdd(&s0, word(0), word(1));
      const VU b = FullAdd(&s0, word(2), word(3));
      const VU c = FullAdd(&s0, word(4), word(5));
      const VU d = FullAdd(&s0, word(6), word(7));
      const VU e = FullAdd(&s1, a, b);
      const VU f = FullAdd(&s1, c, d);
      VU carry = FullAdd(&s2, e, f);
      hn::StoreU(s0, DU(), at(sums_[0]));
      hn::StoreU(s1, DU(), at(sums_[1]));
      hn::StoreU(s2, DU(), at(sums_[2]));
      int level = kTree;
      for (uint64_t n = calls_; n % 2 != 0; n /= 2, ++level) {
        VU sum = hn::LoadU(DU(), at(sums_[level]));
        carry = FullAdd(&sum, hn::LoadU(DU(), at(pending_[level])), carry);
        hn::StoreU(sum, DU(), at(sums_[level]));
      }
      hn::StoreU(carry, DU(), at(pending_[level]));
    }
    ++calls_;
  }

  alignas(64) uint32_t buffer_[kBuffered][16];
  int64_t buffered_ = 0;
  uint64_t calls_ = 0;  // of AddEight
  // Words of weight 2, 4, 8 ... and one more where `calls_` says so.
  alignas(64) uint32_t sums_[kLevels][16] = {};
  alignas(64) uint32_t pending_[kLevels][16] = {};
};

}  // namespace HWY_NAMESPACE
}  // namespace qs::stats
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target

// NF4 codes against their weights: one text for every instruction set.
// Tested by tests/kernels/nf4_verify_test.cc.
//
// Two look-ups give the interval of a weight's code, and a clamp to it leaves
// the weight as it is, or not. Vectors only ever say that all is well: where
// they do not, and in blocks whose absmax is not ordinary, each weight is
// looked at by itself.
#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/base/checked_math.h"
#include "kernels/base/dtype.h"
#include "kernels/cpu/nf4_intervals.h"
#include "kernels/nf4_verify_ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/nf4_verify_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

#if HWY_TARGET != HWY_SCALAR
using VI = hn::Vec<DI>;

// The elements of kLanes bytes of codes: those of the high nibbles, those of
// the low ones.
struct Halves {
  VF high;
  VF low;
};
HWY_INLINE Halves LoadHalves(const float* w) {
  Halves halves;
  hn::LoadInterleaved2(DF(), w, halves.high, halves.low);
  return halves;
}
HWY_INLINE Halves LoadHalves(const hwy::bfloat16_t* w) {
  const VU pair = hn::LoadU(DU(), reinterpret_cast<const uint32_t*>(w));
  return {hn::BitCast(DF(), hn::ShiftLeft<16>(pair)),
          hn::BitCast(DF(), hn::And(pair, hn::Set(DU(), 0xffff0000u)))};
}
HWY_INLINE Halves LoadHalves(const hwy::float16_t* w) {
  const VU pair = hn::LoadU(DU(), reinterpret_cast<const uint32_t*>(w));
  const hn::Rebind<uint16_t, DU> d16;
  const hn::Rebind<hwy::float16_t, DF> half;
  const auto first = hn::TruncateTo(d16, pair);
  const auto second = hn::TruncateTo(d16, hn::ShiftRight<16>(pair));
  return {hn::PromoteTo(DF(), hn::BitCast(half, first)),
          hn::PromoteTo(DF(), hn::BitCast(half, second))};
}

// Entries of a table of 16, each multiplied by a factor, by the lowest four
// bits of a lane.
class ScaledTable {
 public:
#if HWY_TARGET <= HWY_AVX3
  HWY_INLINE ScaledTable(const float* values, VF factor)
      : values_(hn::Mul(hn::Load(DF(), values), factor)) {}
  HWY_INLINE VF Get(VI index) const {
    return VF{_mm512_permutexvar_ps(index.raw, values_.raw)};
  }

 private:
  VF values_;
#elif HWY_TARGET == HWY_AVX2
  HWY_INLINE ScaledTable(const float* values, VF factor)
      : lower_(hn::Mul(hn::Load(DF(), values), factor)),
        upper_(hn::Mul(hn::Load(DF(), values + 8), factor)) {}
  HWY_INLINE VF Get(VI index) const {
    // The look-ups see the lowest three bits, the choice sees the fourth.
    const VF choice = hn::BitCast(DF(), hn::ShiftLeft<28>(index));
    return hn::IfNegativeThenElse(
        choice, VF{_mm256_permutevar8x32_ps(upper_.raw, index.raw)},
        VF{_mm256_permutevar8x32_ps(lower_.raw, index.raw)});
  }

 private:
  VF lower_;
  VF upper_;
#else
  HWY_INLINE ScaledTable(const float* values, VF factor)
      : values_(values), factor_(factor) {}
  HWY_INLINE VF Get(VI index) const {
    const VI entry = hn::And(index, hn::Set(DI(), 15));
    return hn::Mul(hn::GatherIndex(DF(), values_, entry), factor_);
  }

 private:
  const float* values_;
  VF factor_;
#endif
};
#endif  // HWY_TARGET != HWY_SCALAR

template <class T>
class Verifier {
 public:
  Verifier(const Nf4VerifyArgs& args, const CodeIntervals& intervals)
      : args_(args),
        weight_(static_cast<const T*>(args.weight.data)),
        n_(args.weight.num_elements()),
        num_blocks_(CeilDiv(n_, args.block_size)),
        full_blocks_(n_ / args.block_size),
        intervals_(intervals) {}

  int64_t Run() const {
    const int64_t batch =
        std::max<int64_t>(1, kBatchElements / args_.block_size);
    for (int64_t b = 0; b < num_blocks_; b += batch) {
      const int64_t last = std::min(num_blocks_, b + batch);
      if (Fit(b, last)) continue;
      const int64_t wrong = FirstWrong(b, last);
      if (wrong >= 0) return wrong;
    }
    if (n_ % 2 == 0) return -1;
    const int code = NibbleAt(args_.packed, n_);
    return code == 0 || intervals_.zero[code] ? -1 : n_;
  }

 private:
  static constexpr int64_t kBatchElements = 4096;

  // Of blocks [first, last), element by element.
  int64_t FirstWrong(int64_t first, int64_t last) const {
    const int64_t end = std::min(n_, last * args_.block_size);
    for (int64_t i = first * args_.block_size; i < end; ++i) {
      T element;  // at any address
      std::memcpy(static_cast<void*>(&element), weight_ + i, sizeof(T));
      if (!IsRight(NibbleAt(args_.packed, i), LoadOne<T>(&element, 0),
                   args_.absmax[i / args_.block_size])) {
        return i;
      }
    }
    return -1;
  }

  bool IsRight(int code, float w, float absmax) const {
    return args_.nested_rule
               ? intervals_.FitsRule(*args_.nested_rule, code, w, absmax)
               : intervals_.Fits(code, w, absmax);
  }

  // Whether all is well in blocks [first, last); where it is not, FirstWrong
  // has the last word.
  bool Fit(int64_t first, int64_t last) const {
#if HWY_TARGET == HWY_SCALAR
    return FirstWrong(first, last) < 0;
#else
    while (first < last) {
      int64_t b = first;
      while (b < last && Ordinary(b)) ++b;
      if (!AllFit(first, b)) return false;
      if (b < last && !Empty(b) && FirstWrong(b, b + 1) >= 0) return false;
      first = b + 1;
    }
    return true;
#endif
  }

#if HWY_TARGET != HWY_SCALAR
  // Full, and with an absmax that kIntervalTiny is nothing against and that has
  // a reciprocal.
  bool Ordinary(int64_t b) const {
    // Floats above 0 order as their bits, and all others lie above them.
    constexpr auto kLeast = std::bit_cast<uint32_t>(0x1p-100f);
    constexpr auto kMost = std::bit_cast<uint32_t>(kLastReciprocal);
    const auto bits = std::bit_cast<uint32_t>(args_.absmax[b]);
    return b < full_blocks_ && bits - kLeast <= kMost - kLeast;
  }

  // Full, and all of it as it must be: pruned weights, or zeros of
  // NestedRefine.
  bool Empty(int64_t b) const {
    if (b >= full_blocks_) return false;
    const float absmax = args_.absmax[b];
    if (absmax < 0) return IsFilled(b, intervals_.zero_code);
    if (absmax != 0) return false;
    const bool cuda = args_.nested_rule == Nf4Rule::kCuda;
    return MaxAbs32(weight_ + b * args_.block_size, args_.block_size) <
               kSmallestNormal &&
           (!args_.nested_rule || IsFilled(b, cuda ? 0 : intervals_.zero_code));
  }

  // Whether all of a full block's codes are `code`.
  bool IsFilled(int64_t b, int code) const {
    const int64_t count = args_.block_size / 2;
    const uint8_t* packed = args_.packed + b * count;
    const uint64_t filled = 0x1111111111111111u * static_cast<uint64_t>(code);
    uint64_t different = 0;
    for (int64_t i = 0; i < count; i += 8) {
      uint64_t codes;
      std::memcpy(&codes, packed + i, sizeof(codes));
      different |= codes ^ filled;
    }
    return different == 0;
  }

  // Whether all is well in ordinary blocks.
  HWY_INLINE bool AllFit(int64_t first, int64_t last) const {
    const hn::Rebind<uint8_t, DI> d8;
    const int64_t block_size = args_.block_size;
    const T* w = weight_ + first * block_size;
    const uint8_t* packed = args_.packed + first * block_size / 2;
    VF moved = hn::Zero(DF());
    for (int64_t b = first; b < last; ++b) {
      const VF absmax = hn::Set(DF(), args_.absmax[b]);
      const ScaledTable low(intervals_.low, absmax);
      const ScaledTable high(intervals_.high, absmax);
      const auto move = [&](VF x, VI code) HWY_ATTR {
        return hn::Xor(x, hn::Min(hn::Max(x, low.Get(code)), high.Get(code)));
      };
      for (int64_t i = 0; i < block_size; i += 2 * kLanes) {
        const VI bytes = hn::PromoteTo(DI(), hn::LoadU(d8, packed));
        const Halves halves = LoadHalves(w);
        moved = hn::Or3(moved, move(halves.high, hn::ShiftRight<4>(bytes)),
                        move(halves.low, bytes));
        w += 2 * kLanes;
        packed += kLanes;
      }
    }
    return hn::AllTrue(DI(), hn::Eq(hn::BitCast(DI(), moved), hn::Zero(DI())));
  }
#endif

  const Nf4VerifyArgs& args_;
  const T* const weight_;
  const int64_t n_;
  const int64_t num_blocks_;
  const int64_t full_blocks_;
  const CodeIntervals& intervals_;
};

int64_t FindWrong(const Nf4VerifyArgs& args, const CodeIntervals& intervals) {
  return WithType(args.weight.dtype, [&]<class T>(T*) {
    return Verifier<T>(args, intervals).Run();
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::nf4
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs {
namespace nf4 {

HWY_EXPORT(FindWrong);

int64_t FindWrongAnywhere(const Nf4VerifyArgs& args) {
  static const CodeIntervals nf4(CodebookLevels(Codebook::kNf4));
  static const CodeIntervals fp4(CodebookLevels(Codebook::kFp4));
  return HWY_DYNAMIC_DISPATCH(FindWrong)(
      args, args.codebook == Codebook::kNf4 ? nf4 : fp4);
}

}  // namespace nf4

int64_t FindWrongNf4Code(const Nf4VerifyArgs& args) {
  return nf4::FindWrongAnywhere(args);
}

}  // namespace qs
#endif  // HWY_ONCE

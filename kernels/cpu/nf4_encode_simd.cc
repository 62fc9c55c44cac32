// The NF4 encoder and its search, one text for every instruction set.
// Tested by tests/kernels/nf4_differential_test.cc.
//
// A block is taken whole by vectors when it is full and its scale is ordinary
// (2^-100 <= m <= 2^100, where no float32 subnormal matters for NF4); every
// other block by the scalar arithmetic of nf4_math.h.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/base/dtype.h"
#include "kernels/cpu/nf4_simd.h"
#include "kernels/nf4_math.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/nf4_encode_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/nf4-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {

template <class T>
float SearchScalar(const RankTable& midpoints, const T* w, int64_t count,
                   float max_abs) {
  const auto load = [w](int64_t i) { return LoadOne<T>(w, i); };
  return SearchAbsmax(max_abs, ScalarScorer(midpoints, load, count));
}

// Block `b` element by element.
template <class T>
void EncodeScalar(const Nf4EncodeArgs& args, const SimdTables& tables,
                  const T* w, int64_t b, int64_t count, float max_abs) {
  const int64_t begin = b * args.block_size;
  if (args.search == Nf4Search::kBestScale && Searchable(max_abs)) {
    const float best = SearchScalar(tables.midpoints, w, count, max_abs);
    if (best != max_abs) {
      const float reciprocal = 1.0f / best;
      args.absmax[b] = best;
      for (int64_t i = 0; i < count; ++i) {
        const int rank =
            SearchRank(tables.midpoints, reciprocal, LoadOne<T>(w, i));
        SetNibble(args.packed, begin + i, tables.midpoints.codes[rank]);
      }
      return;
    }
  }
  const BlockScale scale =
      MakeBlockScale(args.rule, max_abs, count == args.block_size);
  args.absmax[b] = scale.absmax;
  for (int64_t i = 0; i < count; ++i) {
    SetNibble(args.packed, begin + i,
              EncodeOne(tables.rule, scale, LoadOne<T>(w, i)));
  }
}

#if HWY_TARGET != HWY_SCALAR
// Folds each of kCount sets of 16 partial sums as Partial16 does.
template <int kCount>
HWY_INLINE void FoldAll(const VF (&sums)[kCount][kParts],
                        float (&out)[kCount]) {
#if HWY_TARGET <= HWY_AVX3
  // Four sets at a time: every step halves what is left of each.
  for (int k = 0; k < kCount; k += 4) {
    const auto set = [&](int i) HWY_ATTR {
      return sums[std::min(k + i, kCount - 1)][0].raw;
    };
    const auto halves = [](__m512 x, __m512 y) HWY_ATTR {
      return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44),
                           _mm512_shuffle_f32x4(x, y, 0xee));
    };
    const __m512 a = halves(set(0), set(1));
    const __m512 b = halves(set(2), set(3));
    const VF quarters{_mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88),
                                    _mm512_shuffle_f32x4(a, b, 0xdd))};
    const VF pairs = hn::Add(quarters, hn::Shuffle1032(quarters));
    alignas(64) float folded[16];
    hn::Store(hn::Add(pairs, hn::Shuffle2301(pairs)), DF(), folded);
    for (int i = 0; i < std::min(4, kCount - k); ++i)
      out[k + i] = folded[4 * i];
  }
#elif HWY_TARGET == HWY_AVX2
  for (int k = 0; k < kCount; ++k) {
    const VF halves = hn::Add(sums[k][0], sums[k][1]);
    const VF quarters = hn::Add(halves, hn::SwapAdjacentBlocks(halves));
    const VF pairs = hn::Add(quarters, hn::Shuffle1032(quarters));
    out[k] = hn::GetLane(hn::Add(pairs, hn::Shuffle2301(pairs)));
  }
#else
  for (int k = 0; k < kCount; ++k) {
    Partial16 partial;
    for (int64_t p = 0; p < 16 / kLanes; ++p) {
      hn::StoreU(sums[k][p], DF(), partial.s + p * kLanes);
    }
    out[k] = partial.Fold();
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

// The vector form of ScalarScorer, with the same additions in the same order.
template <bool kFp4>
class VectorScorer {
 public:
  // `w` are F32 values; count is a multiple of 16.
  VectorScorer(const Coder<kFp4>& coder, const SimdTables& tables,
               const float* w, int64_t count)
      : coder_(coder), tables_(tables), w_(w), count_(count) {}

  // These are called from SearchAbsmax, which is compiled for the baseline: no
  // inlining.
  HWY_NOINLINE float Ratio(float steps) const {
    alignas(64) uint16_t offsets[4096];
    const hn::RebindToUnsigned<DF> d32;
    const hn::Rebind<uint16_t, DF> d16;
    const VF factor = hn::Set(DF(), steps);
    for (int64_t i = 0; i < count_; i += kLanes) {
      const VI step = hn::NearestInt(hn::Mul(hn::Load(DF(), w_ + i), factor));
      const VI row = hn::Add(step, hn::Set(DI(), kSearchSteps));
      const auto offset = hn::BitCast(d32, hn::ShiftLeft<5>(row));
      hn::StoreU(hn::TruncateTo(d16, offset), d16, offsets + i);
    }
    VI sums[kParts];
    for (VI& sum : sums) sum = hn::Zero(DI());
    for (int64_t i = 0; i < count_; i += 8) AddRows(offsets + i, sums);
    alignas(64) float flat[2 * kCandidates];
    for (int64_t p = 0; p < kParts; ++p) {
      hn::Store(hn::ConvertTo(DF(), sums[p]), DF(), flat + p * kLanes);
    }
    return Choose(flat, flat + kCandidates);
  }

  HWY_NOINLINE float Fit(float absmax) const {
    const auto ranker = coder_.ranker;  // in registers, not behind a pointer
    const auto levels = coder_.levels;
    VF sums[2][kParts];
    for (auto& of_kind : sums) {
      for (VF& sum : of_kind) sum = hn::Zero(DF());
    }
    const VF reciprocal = hn::Set(DF(), 1.0f / absmax);
    for (int64_t i = 0; i < count_; i += 16) {
      for (int64_t p = 0; p < kParts; ++p) {
        const VF x = hn::Load(DF(), w_ + i + p * kLanes);
        const VF level = levels.Get(ranker.Rank(Clamp(hn::Mul(x, reciprocal))));
        sums[0][p] = hn::Add(sums[0][p], hn::Mul(x, level));
        sums[1][p] = hn::Add(sums[1][p], hn::Mul(level, level));
      }
    }
    float folded[2];
    FoldAll(sums, folded);
    return folded[0] / folded[1];
  }

  HWY_NOINLINE void Errors(const float (&absmax)[2], float (&errors)[2]) const {
    const auto ranker = coder_.ranker;
    // fl(level * absmax) for every level: the product of the score, hoisted.
    const float* levels = tables_.midpoints.levels;
    const Table16 products[2] = {Table16(levels, absmax[0]),
                                 Table16(levels, absmax[1])};
    VF sums[2][kParts];
    VF reciprocals[2];
    for (int k = 0; k < 2; ++k) {
      for (VF& sum : sums[k]) sum = hn::Zero(DF());
      reciprocals[k] = hn::Set(DF(), 1.0f / absmax[k]);
    }
    for (int64_t i = 0; i < count_; i += 16) {
      for (int64_t p = 0; p < kParts; ++p) {
        const VF x = hn::Load(DF(), w_ + i + p * kLanes);
        for (int k = 0; k < 2; ++k) {
          const VI rank = ranker.Rank(Clamp(hn::Mul(x, reciprocals[k])));
          const VF d = hn::Sub(x, products[k].Get(rank));
          sums[k][p] = hn::Add(sums[k][p], hn::Mul(d, d));
        }
      }
    }
    FoldAll(sums, errors);
  }

 private:
  // Adds the eight rows of the search table that lie `offsets` bytes from its
  // beginning: the sum of eight fits 16 bits.
  HWY_INLINE void AddRows(const uint16_t* offsets, VI (&sums)[kParts]) const {
    static_assert(sizeof(tables_.search->rows[0]) == 1 << 5);
    const hn::CappedTag<int16_t, 2 * kCandidates> d;  // a row, or parts of it
    constexpr int64_t kWidth = hn::MaxLanes(d);
    constexpr int64_t kRowParts = 2 * kCandidates / kWidth;
    const char* rows = reinterpret_cast<const char*>(tables_.search->rows);
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

  // ChooseRatio, given the sums as floats.
  static HWY_INLINE float Choose(const float* cross, const float* square) {
    const hn::CappedTag<float, kCandidates> df;
    const hn::RebindToSigned<decltype(df)> di;
    auto best = hn::Zero(di);
    for (size_t k = 0; k < kCandidates; k += hn::Lanes(df)) {
      const auto c = hn::Load(df, cross + k);
      const auto gain = hn::Div(hn::Mul(c, c), hn::Load(df, square + k));
      const auto number =
          hn::Sub(hn::Set(di, 7 - static_cast<int>(k)), hn::Iota(di, 0));
      const auto bits = hn::AndNot(hn::Set(di, 7), hn::BitCast(di, gain));
      best = hn::Max(best, hn::Or(bits, number));
    }
    const int32_t k = 7 - (hn::GetLane(hn::MaxOfLanes(di, best)) & 7);
    return cross[k] / square[k];
  }

  const Coder<kFp4>& coder_;
  const SimdTables& tables_;
  const float* const w_;
  const int64_t count_;
};

// Two lanes of codes as bytes, `high` in the high nibble.
HWY_INLINE void StoreBytes(VI high, VI low, uint8_t* packed) {
  const hn::RebindToUnsigned<DF> d32;
  const auto bytes =
      hn::Or(hn::ShiftLeft<4>(hn::BitCast(d32, high)), hn::BitCast(d32, low));
  const hn::Rebind<uint8_t, decltype(d32)> d8;
  hn::StoreU(hn::TruncateTo(d8, bytes), d8, packed);
}

// FP4 under kCuda sees subnormal inputs as zero; NF4's codes do not change.
template <bool kFp4>
HWY_INLINE VF FlushInput(VF x, bool flush) {
  if (!kFp4 || !flush) return x;
  return hn::IfThenZeroElse(hn::Lt(hn::Abs(x), hn::Set(DF(), kMinNormal)), x);
}

// Codes of a full block for a multiplier.
template <bool kFp4, bool kClamp, class T>
HWY_INLINE void EncodeVector(const Coder<kFp4>& coder, const T* w,
                             int64_t count, float factor, bool flush,
                             uint8_t* packed) {
  const auto ranker = coder.ranker;  // in registers, not behind a pointer
  const VF multiplier = hn::Set(DF(), factor);
  const auto code = [&](VF x) HWY_ATTR {
    VF t = hn::Mul(FlushInput<kFp4>(x, flush), multiplier);
    if constexpr (kClamp) t = Clamp(t);
    return coder.codes.Code(ranker.Rank(t));
  };
  if constexpr (std::is_same_v<T, hwy::bfloat16_t>) {
    // A 32-bit lane holds a byte's two elements, and a BF16 is the upper half
    // of its F32: no widening, and half the packing.
    const hn::RebindToUnsigned<DF> d32;
    const auto* pairs = reinterpret_cast<const uint32_t*>(w);
    for (int64_t i = 0; i < count / 2; i += kLanes) {
      const auto pair = hn::LoadU(d32, pairs + i);
      const VF first = hn::BitCast(DF(), hn::ShiftLeft<16>(pair));
      const VF second =
          hn::BitCast(DF(), hn::And(pair, hn::Set(d32, 0xffff0000u)));
      StoreBytes(code(first), code(second), packed + i);
    }
  } else {
    for (int64_t i = 0; i < count; i += kLanes) {
      StoreNibbles(code(LoadVector(w + i)), packed + i / 2);
    }
  }
}

// Codes of one full block; `best` is what the search found, else max_abs.
template <bool kFp4, class T>
void EncodeFull(const Nf4EncodeArgs& args, const Coder<kFp4>& rule,
                const Coder<kFp4>& midpoints, const T* w, int64_t b,
                float max_abs, float best) {
  uint8_t* packed = args.packed + b * args.block_size / 2;
  if (best != max_abs) {
    args.absmax[b] = best;
    EncodeVector<kFp4, true>(midpoints, w, args.block_size, 1.0f / best, false,
                             packed);
    return;
  }
  const BlockScale scale = MakeBlockScale(args.rule, max_abs, true);
  args.absmax[b] = scale.absmax;
  EncodeVector<kFp4, false>(rule, w, args.block_size, scale.factor, scale.cuda,
                            packed);
}

// Blocks whose maxima, searches and codes are computed together, step by step:
// each step of one block waits for the step before, and this way the waiting of
// one overlaps with the work on the others.
constexpr int64_t kBatch = 8;
constexpr int64_t kBatchElements = 1024;  // F32 values that stay in cache

// SearchAbsmax for `count` full, searchable blocks from `w` on.
template <bool kFp4, class T>
void SearchBatch(const Coder<kFp4>& midpoints, const SimdTables& tables,
                 const T* w, int64_t block_size, int64_t count,
                 const float* max_abs, float* best) {
  alignas(64) float values[4096];
  float ratio[kBatch];
  float fitted[kBatch];
  const auto scorer = [&](int64_t i) {
    return VectorScorer<kFp4>(midpoints, tables, values + i * block_size,
                              block_size);
  };
  for (int64_t i = 0; i < count * block_size; i += kLanes) {
    hn::Store(LoadVector(w + i), DF(), values + i);
  }
  for (int64_t i = 0; i < count; ++i) {
    ratio[i] = scorer(i).Ratio(kSearchSteps / max_abs[i]);
  }
  for (int64_t i = 0; i < count; ++i) {
    fitted[i] = scorer(i).Fit(ratio[i] * max_abs[i]);
  }
  for (int64_t i = 0; i < count; ++i) {
    best[i] = max_abs[i];
    if (!InSearchRange(max_abs[i], fitted[i])) continue;
    const float pair[2] = {max_abs[i], fitted[i]};
    float errors[2];
    scorer(i).Errors(pair, errors);
    if (errors[1] < errors[0]) best[i] = fitted[i];
  }
}
#endif  // HWY_TARGET != HWY_SCALAR

template <class T, bool kFp4>
class Encoder {
 public:
  Encoder(const Nf4EncodeArgs& args, const SimdTables& tables)
      : args_(args),
        tables_(tables),
        weight_(static_cast<const T*>(args.weight.data)),
        n_(args.weight.num_elements())
#if HWY_TARGET != HWY_SCALAR
        ,
        rule_(tables.rule),
        midpoints_(tables.midpoints)
#endif
  {
  }

  // Blocks [first, last). The first block with a non-finite element, or -1.
  int64_t Run(int64_t first, int64_t last) {
    const int64_t batch =
        std::clamp<int64_t>(kMaxBatchElements / args_.block_size, 1, kMaxBatch);
    int64_t bad_block = -1;
    for (int64_t b = first; b < last; b += batch) {
      const int64_t bad = RunBatch(b, std::min(batch, last - b));
      if (bad_block < 0) bad_block = bad;
    }
    return bad_block;
  }

 private:
#if HWY_TARGET != HWY_SCALAR
  static constexpr int64_t kMaxBatch = kBatch;
  static constexpr int64_t kMaxBatchElements = kBatchElements;
#else
  static constexpr int64_t kMaxBatch = 1;
  static constexpr int64_t kMaxBatchElements = 1;
#endif

  int64_t CountOf(int64_t b) const {
    return std::min(args_.block_size, n_ - b * args_.block_size);
  }

  int64_t RunBatch(int64_t b, int64_t count) {
    const T* w = weight_ + b * args_.block_size;
#if HWY_TARGET != HWY_SCALAR
    float max_abs[kMaxBatch];
    if ((b + count) * args_.block_size <= n_) {
      bool vectors = true;
      for (int64_t i = 0; i < count; ++i) {
        max_abs[i] = MaxAbs32(w + i * args_.block_size, args_.block_size);
        vectors &= Searchable(max_abs[i]);
      }
      if (vectors) {
        RunVectors(w, b, count, max_abs);
        return -1;
      }
    }
#endif
    int64_t bad_block = -1;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t n = CountOf(b + i);
      // Vectors are loaded from any address, elements only from their own.
      T block[4096];
      std::memcpy(static_cast<void*>(block), w + i * args_.block_size,
                  static_cast<size_t>(n) * sizeof(T));
      const float top = MaxAbs(block, n);
      if (!(top < INFINITY) && bad_block < 0) bad_block = b + i;
      EncodeScalar(args_, tables_, block, b + i, n, top);
    }
    return bad_block;
  }

#if HWY_TARGET != HWY_SCALAR
  void RunVectors(const T* w, int64_t b, int64_t count, const float* max_abs) {
    float best[kMaxBatch];
    std::copy_n(max_abs, count, best);
    if (args_.search == Nf4Search::kBestScale) {
      SearchBatch<kFp4>(midpoints_, tables_, w, args_.block_size, count,
                        max_abs, best);
    }
    for (int64_t i = 0; i < count; ++i) {
      EncodeFull<kFp4>(args_, rule_, midpoints_, w + i * args_.block_size,
                       b + i, max_abs[i], best[i]);
    }
  }
#endif

  const Nf4EncodeArgs& args_;
  const SimdTables& tables_;
  const T* const weight_;
  const int64_t n_;
#if HWY_TARGET != HWY_SCALAR
  const Coder<kFp4> rule_;
  const Coder<kFp4> midpoints_;
#endif
};

template <class T, bool kFp4>
int64_t EncodeTyped(const Nf4EncodeArgs& args, const SimdTables& tables,
                    int64_t first, int64_t last) {
  const int64_t bad_block = Encoder<T, kFp4>(args, tables).Run(first, last);
  const int64_t n = args.weight.num_elements();
  if (last * args.block_size >= n && n % 2 != 0) {
    const bool zero = args.rule == Nf4Rule::kCuda && args.absmax[last - 1] == 0;
    SetNibble(args.packed, n, zero ? 0 : tables.rule.zero_code);
  }
  if (bad_block < 0) return -1;
  int64_t i = bad_block * args.block_size;
  while (std::isfinite(LoadAsFloat(args.weight.data, kDType<T>, i))) ++i;
  return i;
}

int64_t EncodeBlocks(const Nf4EncodeArgs& args, const SimdTables& tables,
                     int64_t first, int64_t last) {
  return WithType(args.weight.dtype, [&]<class T>(T*) {
    return args.codebook == Codebook::kFp4
               ? EncodeTyped<T, true>(args, tables, first, last)
               : EncodeTyped<T, false>(args, tables, first, last);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::nf4
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::nf4 {

HWY_EXPORT(EncodeBlocks);

int64_t EncodeBlocks(const Nf4EncodeArgs& args, const SimdTables& tables,
                     int64_t first_block, int64_t last_block) {
  return HWY_DYNAMIC_DISPATCH(EncodeBlocks)(args, tables, first_block,
                                            last_block);
}

}  // namespace qs::nf4
#endif  // HWY_ONCE

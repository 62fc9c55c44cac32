// The NF4 encoder and its search, one text for every instruction set.
// Tested by tests/kernels/nf4_differential_test.cc.
//
// A full block is taken whole by vectors, with less ado where its scale is
// ordinary (2^-100 <= m <= 2^100, where no float32 subnormal matters for NF4);
// the short last block, and those that are not finite, by the scalar arithmetic
// of nf4_math.h.
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
#include "kernels/cpu/nf4_search-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {

template <class T>
float SearchScalar(const RankTable& midpoints, const RuleCoding& none,
                   const T* w, int64_t count, float max_abs) {
  const auto load = [w](int64_t i) { return LoadOne<T>(w, i); };
  return SearchAbsmax(max_abs, count,
                      ScalarScorer(midpoints, none, kDType<T>, load, count));
}

// Block `b` element by element.
template <class T>
void EncodeScalar(const Nf4EncodeArgs& args, const SimdTables& tables,
                  const T* w, int64_t b, int64_t count, float max_abs) {
  const int64_t begin = b * args.block_size;
  const BlockScale scale =
      MakeBlockScale(args.rule, max_abs, count == args.block_size);
  if (args.search == Nf4Search::kBestScale && Searchable(max_abs)) {
    const float best =
        SearchScalar(tables.midpoints, {tables.rule, scale}, w, count, max_abs);
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
  args.absmax[b] = scale.absmax;
  for (int64_t i = 0; i < count; ++i) {
    SetNibble(args.packed, begin + i,
              EncodeOne(tables.rule, scale, LoadOne<T>(w, i)));
  }
}

#if HWY_TARGET != HWY_SCALAR
// Two lanes of codes as bytes, `high` in the high nibble.
HWY_INLINE void StoreBytes(VI high, VI low, uint8_t* packed) {
  const hn::RebindToUnsigned<DF> d32;
  const auto bytes =
      hn::Or(hn::ShiftLeft<4>(hn::BitCast(d32, high)), hn::BitCast(d32, low));
  const hn::Rebind<uint8_t, decltype(d32)> d8;
  hn::StoreU(hn::TruncateTo(d8, bytes), d8, packed);
}

HWY_INLINE VF FlushVector(VF x) {
  return hn::IfThenZeroElse(hn::Lt(hn::Abs(x), hn::Set(DF(), kMinNormal)), x);
}

// Codes of a full block whose elements `normalize` brings to [-1, 1].
template <bool kFp4, class T, class Normalize>
HWY_INLINE void EncodeVector(const Coder<kFp4>& coder, const T* w,
                             int64_t count, const Normalize& normalize,
                             uint8_t* packed) {
  const auto ranker = coder.ranker;  // in registers, not behind a pointer
  const auto code = [&](VF x) HWY_ATTR {
    return coder.codes.Code(ranker.Rank(normalize(x)));
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

// Codes of one full block of ordinary scale by the rule.
template <bool kFp4, class T>
HWY_INLINE void EncodeFull(const Nf4EncodeArgs& args, const Coder<kFp4>& rule,
                           const T* w, int64_t b, float max_abs) {
  const BlockScale scale = MakeBlockScale(args.rule, max_abs, true);
  args.absmax[b] = scale.absmax;
  const VF multiplier = hn::Set(DF(), scale.factor);
  // FP4 under kCuda sees subnormal inputs as zero; NF4's codes do not change.
  const bool flush = kFp4 && scale.cuda;
  const auto normalize = [&](VF x) HWY_ATTR {
    return hn::Mul(flush ? FlushVector(x) : x, multiplier);
  };
  EncodeVector(rule, w, args.block_size, normalize,
               args.packed + b * args.block_size / 2);
}

// The same of any finite scale. No flush after the product: the rule's tables
// rank what is subnormal as 0. But where the reciprocal is subnormal the
// product may end beyond 1.
template <bool kFp4, class T>
HWY_NOINLINE void EncodeOdd(const Nf4EncodeArgs& args, const Coder<kFp4>& rule,
                            int zero_code, const T* w, int64_t b,
                            float max_abs) {
  const BlockScale scale = MakeBlockScale(args.rule, max_abs, true);
  args.absmax[b] = scale.absmax;
  uint8_t* packed = args.packed + b * args.block_size / 2;
  if (scale.absmax == 0.0f) {
    const int code = scale.zero ? 0 : zero_code;
    std::memset(packed, code * 0x11, static_cast<size_t>(args.block_size / 2));
    return;
  }
  const VF multiplier = hn::Set(DF(), scale.factor);
  const auto normalize = [&](VF x) HWY_ATTR {
    return Clamp(hn::Mul(scale.cuda ? FlushVector(x) : x, multiplier));
  };
  EncodeVector(rule, w, args.block_size, normalize, packed);
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
        full_blocks_(n_ / args.block_size),
        rule_(tables.rule),
        midpoints_(tables.midpoints),
        search_(rule_, midpoints_, tables.midpoints.levels, *tables.search,
                args.block_size)
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

  int64_t RunBatch(int64_t b, int64_t count) {
    int64_t bad_block = -1;
    int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
    const T* w = weight_ + b * args_.block_size;
    const int64_t full = std::min(count, full_blocks_ - b);
    float max_abs[kBatch] = {};
    bool ordinary = full > 0;
    for (; i < full; ++i) {
      max_abs[i] = MaxAbs32(w + i * args_.block_size, args_.block_size);
      ordinary &= Searchable(max_abs[i]);
    }
    if (ordinary) {
      RunVectors(w, full, max_abs, [b](int64_t k) { return b + k; });
    } else {
      bad_block = RunMixed(w, b, full, max_abs);
    }
#endif
    for (; i < count; ++i) {
      const bool finite = RunElements(b + i);
      if (!finite && bad_block < 0) bad_block = b + i;
    }
    return bad_block;
  }

  // Block `b` element by element. Whether it is finite.
  bool RunElements(int64_t b) {
    const int64_t count = std::min(args_.block_size, n_ - b * args_.block_size);
    // Vectors are loaded from any address, elements only from their own.
    T block[4096];
    std::memcpy(static_cast<void*>(block), weight_ + b * args_.block_size,
                static_cast<size_t>(count) * sizeof(T));
    const float max_abs = MaxAbs(block, count);
    EncodeScalar(args_, tables_, block, b, count, max_abs);
    return max_abs < INFINITY;
  }

#if HWY_TARGET != HWY_SCALAR
  // Full blocks, some of which no search may see: the others are moved side by
  // side for it. The first block that is not finite, or -1.
  HWY_NOINLINE int64_t RunMixed(const T* w, int64_t b, int64_t count,
                                const float (&max_abs)[kBatch]) {
    int64_t bad_block = -1;
    int64_t blocks[kBatch];
    float tops[kBatch] = {};
    T moved[kBatchElements];  // more than one block where there is any to move
    int64_t ordinary = 0;
    for (int64_t i = 0; i < count; ++i) {
      const T* block = w + i * args_.block_size;
      if (Searchable(max_abs[i])) {
        std::memcpy(static_cast<void*>(moved + ordinary * args_.block_size),
                    block, static_cast<size_t>(args_.block_size) * sizeof(T));
        blocks[ordinary] = b + i;
        tops[ordinary++] = max_abs[i];
      } else if (max_abs[i] < INFINITY) {
        EncodeOdd(args_, rule_, tables_.rule.zero_code, block, b + i,
                  max_abs[i]);
      } else {
        RunElements(b + i);
        if (bad_block < 0) bad_block = b + i;
      }
    }
    if (ordinary > 0) {
      RunVectors(moved, ordinary, tops, [&](int64_t k) { return blocks[k]; });
    }
    return bad_block;
  }

  // Full blocks of ordinary scale; the number of the k-th is `block_of(k)`.
  template <class BlockOf>
  HWY_INLINE void RunVectors(const T* w, int64_t count,
                             const float (&max_abs)[kBatch],
                             const BlockOf& block_of) {
    float best[kBatch];
    std::copy_n(max_abs, kBatch, best);
    if (args_.search == Nf4Search::kBestScale) {
      search_.Run(w, count, max_abs, best);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t b = block_of(i);
      if (best[i] == max_abs[i]) {
        EncodeFull(args_, rule_, w + i * args_.block_size, b, max_abs[i]);
      } else {
        args_.absmax[b] = best[i];
        search_.Pack(i, args_.packed + b * args_.block_size / 2);
      }
    }
  }
#endif

  const Nf4EncodeArgs& args_;
  const SimdTables& tables_;
  const T* const weight_;
  const int64_t n_;
#if HWY_TARGET != HWY_SCALAR
  const int64_t full_blocks_;
  const Coder<kFp4> rule_;
  const Coder<kFp4> midpoints_;
  BatchSearch<kFp4> search_;
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

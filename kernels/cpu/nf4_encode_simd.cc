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

// FP4 under kCuda sees subnormal inputs as zero; NF4's codes do not change.
template <bool kFp4>
HWY_INLINE VF FlushInput(VF x, bool flush) {
  if (!kFp4 || !flush) return x;
  return hn::IfThenZeroElse(hn::Lt(hn::Abs(x), hn::Set(DF(), kMinNormal)), x);
}

// Codes of a full block for a multiplier.
template <bool kFp4, class T>
HWY_INLINE void EncodeVector(const Coder<kFp4>& coder, const T* w,
                             int64_t count, float factor, bool flush,
                             uint8_t* packed) {
  const auto ranker = coder.ranker;  // in registers, not behind a pointer
  const VF multiplier = hn::Set(DF(), factor);
  const auto code = [&](VF x) HWY_ATTR {
    const VF t = hn::Mul(FlushInput<kFp4>(x, flush), multiplier);
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

// Codes of one full block by the rule.
template <bool kFp4, class T>
HWY_INLINE void EncodeFull(const Nf4EncodeArgs& args, const Coder<kFp4>& rule,
                           const T* w, int64_t b, float max_abs) {
  const BlockScale scale = MakeBlockScale(args.rule, max_abs, true);
  args.absmax[b] = scale.absmax;
  EncodeVector<kFp4>(rule, w, args.block_size, scale.factor, scale.cuda,
                     args.packed + b * args.block_size / 2);
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

  int64_t CountOf(int64_t b) const {
    return std::min(args_.block_size, n_ - b * args_.block_size);
  }

  int64_t RunBatch(int64_t b, int64_t count) {
    const T* w = weight_ + b * args_.block_size;
#if HWY_TARGET != HWY_SCALAR
    float max_abs[kBatch] = {};
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
  void RunVectors(const T* w, int64_t b, int64_t count,
                  const float (&max_abs)[kBatch]) {
    float best[kBatch];
    std::copy_n(max_abs, kBatch, best);
    if (args_.search == Nf4Search::kBestScale) {
      search_.Run(w, count, max_abs, best);
    }
    for (int64_t i = 0; i < count; ++i) {
      if (best[i] == max_abs[i]) {
        EncodeFull(args_, rule_, w + i * args_.block_size, b + i, max_abs[i]);
      } else {
        args_.absmax[b + i] = best[i];
        search_.Pack(i, args_.packed + (b + i) * args_.block_size / 2);
      }
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

// AWQ GEMM's words, one text for every instruction set.
// Tested by tests/kernels/pack_layouts_test.cc.
//
// A word is four bytes, and a byte two rows of its column: rows are joined to
// bytes, bytes interleaved to words, a run of columns at a time, and the words
// of sixteen such runs are transposed.
#include "kernels/cpu/pack_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pack_awq_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace qs::affine {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D8 = hn::CappedTag<uint8_t, 64>;
using V8 = hn::Vec<D8>;

// The row, of a word's eight, whose code is the low nibble of byte b; that of
// the high one is two rows on.
HWY_INLINE int64_t LowRow(int b) { return b < 2 ? 4 * b : 4 * b - 7; }

HWY_INLINE V8 JoinRows(const uint8_t* low, const uint8_t* high) {
  const auto mask = hn::Set(D8(), 15);
  return hn::Or(hn::And(hn::LoadU(D8(), low), mask),
                hn::ShiftLeft<4>(hn::And(hn::LoadU(D8(), high), mask)));
}

// The words of eight rows, `count` columns; rows are `stride` codes apart.
void JoinEight(const uint8_t* codes, int64_t stride, int64_t count,
               uint32_t* words) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(D8()));
  const auto join = [&](int64_t k, int b) {
    const uint8_t* low = codes + LowRow(b) * stride + k;
    return JoinRows(low, low + 2 * stride);
  };
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) {
    hn::StoreInterleaved4(join(k, 0), join(k, 1), join(k, 2), join(k, 3), D8(),
                          reinterpret_cast<uint8_t*>(words + k));
  }
  for (; k < count; ++k) {
    words[k] = 0;
    for (int b = 0; b < 4; ++b) {
      const uint8_t* low = codes + LowRow(b) * stride + k;
      const uint32_t byte = (low[0] & 15u) | (low[2 * stride] & 15u) << 4;
      words[k] |= byte << (8 * b);
    }
  }
}

void SplitEight(const uint32_t* words, int64_t count, uint8_t* codes,
                int64_t stride) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(D8()));
  const auto mask = hn::Set(D8(), 15);
  const auto split = [&](V8 bytes, int64_t k, int b) {
    uint8_t* low = codes + LowRow(b) * stride + k;
    hn::StoreU(hn::And(bytes, mask), D8(), low);
    hn::StoreU(hn::ShiftRight<4>(bytes), D8(), low + 2 * stride);
  };
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) {
    V8 b0, b1, b2, b3;
    hn::LoadInterleaved4(D8(), reinterpret_cast<const uint8_t*>(words + k), b0,
                         b1, b2, b3);
    split(b0, k, 0);
    split(b1, k, 1);
    split(b2, k, 2);
    split(b3, k, 3);
  }
  for (; k < count; ++k) {
    for (int b = 0; b < 4; ++b) {
      uint8_t* low = codes + LowRow(b) * stride + k;
      low[0] = static_cast<uint8_t>(words[k] >> (8 * b) & 15u);
      low[2 * stride] = static_cast<uint8_t>(words[k] >> (8 * b + 4) & 15u);
    }
  }
}

#if HWY_TARGET != HWY_SCALAR
// Four rows of four words.
HWY_INLINE void TransposeFour(const uint32_t* from, int64_t from_stride,
                              uint32_t* to, int64_t to_stride) {
  const hn::Full128<uint32_t> d;
  const hn::Full128<uint64_t> d64;
  const auto r0 = hn::LoadU(d, from);
  const auto r1 = hn::LoadU(d, from + from_stride);
  const auto r2 = hn::LoadU(d, from + 2 * from_stride);
  const auto r3 = hn::LoadU(d, from + 3 * from_stride);
  const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1));
  const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
  const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
  const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
  const auto store = [&](auto pairs, int64_t c) {
    hn::StoreU(hn::BitCast(d, pairs), d, to + c * to_stride);
  };
  store(hn::InterleaveLower(d64, low01, low23), 0);
  store(hn::InterleaveUpper(d64, low01, low23), 1);
  store(hn::InterleaveLower(d64, high01, high23), 2);
  store(hn::InterleaveUpper(d64, high01, high23), 3);
}
#endif

// to[c * to_stride + r] = from[r * from_stride + c]. Four columns are written,
// or read, to their end before the next: they may be a power of two apart, and
// few such lines are in a cache at once.
template <bool kToColumns>
void TransposeWords(const uint32_t* from, int64_t from_stride, int64_t rows,
                    int64_t cols, uint32_t* to, int64_t to_stride) {
  int64_t whole_rows = 0;
  int64_t whole_cols = 0;
#if HWY_TARGET != HWY_SCALAR
  whole_rows = rows / 4 * 4;
  whole_cols = cols / 4 * 4;
  const auto four = [&](int64_t r, int64_t c) {
    TransposeFour(from + r * from_stride + c, from_stride,
                  to + c * to_stride + r, to_stride);
  };
  if (kToColumns) {
    for (int64_t c = 0; c < whole_cols; c += 4) {
      for (int64_t r = 0; r < whole_rows; r += 4) four(r, c);
    }
  } else {
    for (int64_t r = 0; r < whole_rows; r += 4) {
      for (int64_t c = 0; c < whole_cols; c += 4) four(r, c);
    }
  }
#endif
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t r = c < whole_cols ? whole_rows : 0; r < rows; ++r) {
      to[c * to_stride + r] = from[r * from_stride + c];
    }
  }
}

void PackAwqBlock(const PackAwqArgs& args, const AwqBlock& block) {
  HWY_ALIGN uint32_t words[kAwqBlockWords * kAwqBlockColumns];
  const uint8_t* codes =
      args.codes + block.first_word * 8 * args.cols + block.first_col;
  for (int64_t i = 0; i < block.words; ++i) {
    JoinEight(codes + i * 8 * args.cols, args.cols, block.cols,
              words + i * kAwqBlockColumns);
  }
  TransposeWords<true>(
      words, kAwqBlockColumns, block.words, block.cols,
      args.words + block.first_col * args.stride + block.first_word,
      args.stride);
}

void UnpackAwqBlock(const UnpackAwqArgs& args, const AwqBlock& block) {
  HWY_ALIGN uint32_t words[kAwqBlockWords * kAwqBlockColumns];
  TransposeWords<false>(
      args.words + block.first_col * args.stride + block.first_word,
      args.stride, block.cols, block.words, words, kAwqBlockColumns);
  uint8_t* codes =
      args.codes + block.first_word * 8 * args.cols + block.first_col;
  for (int64_t i = 0; i < block.words; ++i) {
    SplitEight(words + i * kAwqBlockColumns, block.cols,
               codes + i * 8 * args.cols, args.cols);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::affine
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::affine {

HWY_EXPORT(PackAwqBlock);
HWY_EXPORT(UnpackAwqBlock);

void PackAwqBlock(const PackAwqArgs& args, const AwqBlock& block) {
  HWY_DYNAMIC_DISPATCH(PackAwqBlock)(args, block);
}

void UnpackAwqBlock(const UnpackAwqArgs& args, const AwqBlock& block) {
  HWY_DYNAMIC_DISPATCH(UnpackAwqBlock)(args, block);
}

}  // namespace qs::affine
#endif  // HWY_ONCE

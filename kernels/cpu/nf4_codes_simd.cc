// NF4 codes for given scales, and weights from codes: one text for every
// instruction set. Tested by tests/kernels/nf4_differential_test.cc.
#include <algorithm>
#include <cmath>

#include "kernels/base/dtype.h"
#include "kernels/cpu/nf4_simd.h"
#include "kernels/nf4_math.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/nf4_codes_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/nf4-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {

template <class T, bool kFp4>
void RecodeTyped(const Nf4RecodeArgs& args, const SimdTables& tables,
                 int64_t first, int64_t last) {
  const T* weight = static_cast<const T*>(args.weight.data);
  const int64_t n = args.weight.num_elements();
#if HWY_TARGET != HWY_SCALAR
  const Coder<kFp4> coder(tables.midpoints);
#endif
  for (int64_t b = first; b < last; ++b) {
    const int64_t begin = b * args.block_size;
    const int64_t count = std::min(args.block_size, n - begin);
    const float absmax = args.absmax[b];
    int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
    if (absmax > 0.0f) {
      const VF divisor = hn::Set(DF(), absmax);
      for (; i + kLanes <= count; i += kLanes) {
        const VF t = hn::Div(LoadVector(weight + begin + i), divisor);
        StoreNibbles(coder.codes.Code(coder.ranker.Rank(Clamp(t))),
                     args.packed + (begin + i) / 2);
      }
    }
#endif
    for (; i < count; ++i) {
      SetNibble(
          args.packed, begin + i,
          RecodeOne(tables.midpoints, absmax, LoadOne<T>(weight, begin + i)));
    }
  }
  if (last * args.block_size >= n && n % 2 != 0) {
    SetNibble(args.packed, n, tables.midpoints.zero_code);
  }
}

template <class T>
void DecodeTyped(const Nf4DecodeArgs& args, const SimdTables& tables,
                 int64_t first, int64_t last) {
  T* weight = static_cast<T*>(args.weight.data);
  const int64_t n = args.weight.num_elements();
#if HWY_TARGET != HWY_SCALAR
  const Table16 levels(tables.levels_by_code);
#endif
  for (int64_t b = first; b < last; ++b) {
    const int64_t end = std::min(n, (b + 1) * args.block_size);
    int64_t i = b * args.block_size;
#if HWY_TARGET != HWY_SCALAR
    const VF absmax = hn::Set(DF(), args.absmax[b]);
    for (; i + kLanes <= end; i += kLanes) {
      const VF level = levels.Get(LoadNibbles(args.packed + i / 2));
      StoreVector(hn::Mul(level, absmax), weight + i);
    }
#endif
    for (; i < end; ++i) {
      const int code =
          i % 2 == 0 ? args.packed[i / 2] >> 4 : args.packed[i / 2] & 15;
      StoreFromFloat(weight, kDType<T>, i,
                     tables.levels_by_code[code] * args.absmax[b]);
    }
  }
}

void RecodeBlocks(const Nf4RecodeArgs& args, const SimdTables& tables,
                  int64_t first, int64_t last) {
  WithType(args.weight.dtype, [&]<class T>(T*) {
    args.codebook == Codebook::kFp4
        ? RecodeTyped<T, true>(args, tables, first, last)
        : RecodeTyped<T, false>(args, tables, first, last);
  });
}

void DecodeBlocks(const Nf4DecodeArgs& args, const SimdTables& tables,
                  int64_t first, int64_t last) {
  WithType(args.weight.dtype,
           [&]<class T>(T*) { DecodeTyped<T>(args, tables, first, last); });
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::nf4
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::nf4 {

HWY_EXPORT(RecodeBlocks);
HWY_EXPORT(DecodeBlocks);

void RecodeBlocks(const Nf4RecodeArgs& args, const SimdTables& tables,
                  int64_t first_block, int64_t last_block) {
  HWY_DYNAMIC_DISPATCH(RecodeBlocks)(args, tables, first_block, last_block);
}

void DecodeBlocks(const Nf4DecodeArgs& args, const SimdTables& tables,
                  int64_t first_block, int64_t last_block) {
  HWY_DYNAMIC_DISPATCH(DecodeBlocks)(args, tables, first_block, last_block);
}

}  // namespace qs::nf4
#endif  // HWY_ONCE

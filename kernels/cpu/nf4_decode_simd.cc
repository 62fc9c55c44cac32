// NF4 weights from codes: one text for every instruction set. Tested by
// tests/kernels/nf4_differential_test.cc.
#include <algorithm>

#include "kernels/base/dtype.h"
#include "kernels/cpu/nf4_simd.h"
#include "kernels/nf4_math.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/nf4_decode_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/nf4-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {

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

HWY_EXPORT(DecodeBlocks);

void DecodeBlocks(const Nf4DecodeArgs& args, const SimdTables& tables,
                  int64_t first_block, int64_t last_block) {
  HWY_DYNAMIC_DISPATCH(DecodeBlocks)(args, tables, first_block, last_block);
}

}  // namespace qs::nf4
#endif  // HWY_ONCE

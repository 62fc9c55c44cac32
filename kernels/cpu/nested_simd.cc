// The 8-bit coding of absmax, one text for every instruction set: the bytes of
// NestedEncodeBlock (kernels/nested_absmax.h), with its searches by tables.
// Tested by tests/kernels/nf4_differential_test.cc.
//
// Signs and cells of real data are as good as random, so nothing branches on
// them.
#include "kernels/cpu/nested_simd.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/nested_absmax.h"
#include "kernels/nf4_math.h"
#include "kernels/nf4_tables.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/nested_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd-inl.h"

#ifndef QS_KERNELS_CPU_NESTED_SIMD_TABLES_
#define QS_KERNELS_CPU_NESTED_SIMD_TABLES_
namespace qs::nf4 {

// NestedOfStep of every step.
const std::vector<uint8_t>& GetNestedSteps();

}  // namespace qs::nf4
#endif  // QS_KERNELS_CPU_NESTED_SIMD_TABLES_

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

using VI = hn::Vec<DI>;

template <bool kCuda>
HWY_INLINE VF FlushVector(VF x) {
  if constexpr (!kCuda) return x;
  return hn::IfThenZeroElse(hn::Lt(hn::Abs(x), hn::Set(DF(), kMinNormal)), x);
}

// d = absmax - offset for `count` <= 256 values, 0 up to a whole vector behind
// them; the largest |d|. Magnitudes are compared as integers, which order them.
template <bool kCuda>
float Differences(const float* absmax, int64_t count, float offset, float* d) {
  const VI mask = hn::Set(DI(), 0x7fffffff);
  const VF shift = hn::Set(DF(), offset);
  VI top = hn::Zero(DI());
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const VF difference =
        FlushVector<kCuda>(hn::Sub(hn::LoadU(DF(), absmax + i), shift));
    hn::Store(difference, DF(), d + i);
    top = hn::Max(top, hn::And(hn::BitCast(DI(), difference), mask));
  }
  if (i < count) {
    const auto rest = static_cast<size_t>(count - i);
    alignas(64) float padded[kLanes] = {};
    std::memcpy(padded, absmax + i, rest * sizeof(float));
    const VF difference = hn::IfThenElseZero(
        hn::FirstN(DF(), rest),
        FlushVector<kCuda>(hn::Sub(hn::Load(DF(), padded), shift)));
    hn::Store(difference, DF(), d + i);
    top = hn::Max(top, hn::And(hn::BitCast(DI(), difference), mask));
  }
  return std::bit_cast<float>(hn::GetLane(hn::MaxOfLanes(DI(), top)));
}

// d / m2: a d of 0 stays 0 where the reciprocal is infinite.
HWY_INLINE VF Scaled(const float* d, VF reciprocal) {
  const VF v = hn::Load(DF(), d);
  return hn::IfThenZeroElse(hn::Eq(v, hn::Zero(DF())), hn::Mul(v, reciprocal));
}

// The magnitude's bits, within those that the cells span.
HWY_INLINE VI MagnitudeBits(VI bits) {
  return hn::Min(hn::Max(hn::And(bits, hn::Set(DI(), 0x7fffffff)),
                         hn::Set(DI(), NestedCells::kSmallest)),
                 hn::Set(DI(), NestedCells::kLargest));
}

// NestedNearest, given the bits of a value and its cell; in the low byte.
HWY_INLINE VU NearestCode(VI bits, VI cell) {
  const VI base = hn::And(cell, hn::Set(DI(), 255));
  // The greater level above a midpoint, the even code on it.
  const VI low = hn::Add(
      hn::And(MagnitudeBits(bits), hn::Set(DI(), NestedCells::kLowMask)),
      hn::And(base, hn::Set(DI(), 1)));
  const VI above =  // a true mask is -1 in every lane
      hn::VecFromMask(DI(), hn::Gt(low, hn::ShiftRight<8>(cell)));
  const VI code = hn::Sub(base, above);
  // Below zero the map mirrors; it has no counterpart of 1.0 there.
  const VI mirrored =
      hn::Max(hn::Sub(hn::Set(DI(), 254), code), hn::Zero(DI()));
  return hn::BitCast(
      DU(), hn::IfThenElse(hn::Lt(bits, hn::Zero(DI())), mirrored, code));
}

// In three passes, so that only the look-ups are one by one: a gather takes
// longer than they do.
void CodesCuda(const float* d, int64_t count, float max_abs, uint8_t* codes) {
  const NestedCells& table = GetNestedCells();
  const VF reciprocal = hn::Set(DF(), Flush(1.0f / max_abs));
  alignas(64) int32_t bits[kNestedBlockSize];
  alignas(64) int32_t cells[kNestedBlockSize];
  alignas(64) uint16_t numbers[kNestedBlockSize] = {};
  const hn::Rebind<uint16_t, DU> d16;
  uint8_t padded[kNestedBlockSize];
  for (int64_t i = 0; i < count; i += kLanes) {
    const VI t =
        hn::BitCast(DI(), FlushVector<true>(Scaled(d + i, reciprocal)));
    hn::Store(t, DI(), bits + i);
    const VI cell =
        hn::Sub(hn::ShiftRight<NestedCells::kShift>(MagnitudeBits(t)),
                hn::Set(DI(), NestedCells::kFirst));
    hn::StoreU(hn::TruncateTo(d16, hn::BitCast(DU(), cell)), d16, numbers + i);
  }
  for (int64_t i = 0; i < count; i += 4) {
    uint64_t four;  // one load instead of four
    hwy::CopyBytes<sizeof(four)>(numbers + i, &four);
    for (int64_t k = i; k < i + 4; ++k, four >>= 16) {
      cells[k] = table.cells[four & 0xffff];
    }
  }
  for (int64_t i = 0; i < count; i += kLanes) {
    StoreBytes(NearestCode(hn::Load(DI(), bits + i), hn::Load(DI(), cells + i)),
               padded + i);
  }
  std::memcpy(codes, padded, static_cast<size_t>(count));
}

// NestedStep of a vector, to memory.
HWY_INLINE void StoreSteps(VF t, int32_t* steps) {
#if HWY_NATIVE_FMA
  const VF v = hn::Min(hn::Max(t, hn::Set(DF(), -1.0f)), hn::Set(DF(), 1.0f));
  const VF h = hn::Mul(hn::Add(v, hn::Set(DF(), 1.0f)), hn::Set(DF(), 0.5f));
  const VF step = hn::MulAdd(h, hn::Set(DF(), 65535.0f), hn::Set(DF(), 0.5f));
  hn::Store(hn::ConvertTo(DI(), step), DI(), steps);
#else
  alignas(64) float values[kLanes];
  hn::Store(t, DF(), values);
  for (int64_t i = 0; i < kLanes; ++i) steps[i] = NestedStep(values[i]);
#endif
}

void CodesCpu(const float* d, int64_t count, float max_abs, uint8_t* codes) {
  const uint8_t* table = GetNestedSteps().data();
  const VF reciprocal = hn::Set(DF(), 1.0f / max_abs);
  alignas(64) int32_t steps[kNestedBlockSize];
  for (int64_t i = 0; i < count; i += kLanes) {
    StoreSteps(Scaled(d + i, reciprocal), steps + i);
  }
  for (int64_t i = 0; i < count; ++i) codes[i] = table[steps[i]];
}

template <bool kCuda>
float EncodeOneBlock(const float* absmax, int64_t count, float offset,
                     uint8_t* codes) {
  alignas(64) float d[kNestedBlockSize];
  const float max_abs = Differences<kCuda>(absmax, count, offset, d);
  if (max_abs == 0.0f || !std::isfinite(max_abs)) {
    std::fill_n(codes, count, uint8_t{0});
  } else if constexpr (kCuda) {
    CodesCuda(d, count, max_abs, codes);
  } else {
    CodesCpu(d, count, max_abs, codes);
  }
  return max_abs;
}

void NestedEncodeBlocks(const NestedEncodeArgs& args, int64_t begin,
                        int64_t end) {
  const auto encode = args.rule == Nf4Rule::kCuda ? EncodeOneBlock<true>
                                                  : EncodeOneBlock<false>;
  for (int64_t i = begin; i < end; i += kNestedBlockSize) {
    args.nested_absmax[i / kNestedBlockSize] =
        encode(args.absmax + i, std::min(kNestedBlockSize, end - i),
               *args.offset, args.codes + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::nf4
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::nf4 {

NestedCells::NestedCells() {
  const std::array<float, 255> midpoints = NestedMidpoints();
  for (int32_t cell = 0; cell < kCount; ++cell) {
    const int32_t low = (cell + kFirst) << kShift;
    int32_t base = 127;
    int32_t bound = kNoBound;
    for (int32_t i = 127; i < 255; ++i) {
      const auto midpoint =
          std::bit_cast<int32_t>(midpoints[static_cast<size_t>(i)]);
      if (midpoint < low) base = i + 1;
      if (midpoint >> kShift == cell + kFirst) bound = midpoint & kLowMask;
    }
    cells[static_cast<size_t>(cell)] = bound << 8 | base;
  }
}

const NestedCells& GetNestedCells() {
  static const NestedCells* cells = new NestedCells;
  return *cells;
}

const std::vector<uint8_t>& GetNestedSteps() {
  static const std::vector<uint8_t>* codes = [] {
    auto* of_step = new std::vector<uint8_t>;
    for (int step = 0; step < 65536; ++step) {
      of_step->push_back(NestedOfStep(step));
    }
    return of_step;
  }();
  return *codes;
}

HWY_EXPORT(NestedEncodeBlocks);

void NestedEncodeBlocks(const NestedEncodeArgs& args, int64_t begin,
                        int64_t end) {
  HWY_DYNAMIC_DISPATCH(NestedEncodeBlocks)(args, begin, end);
}

}  // namespace qs::nf4
#endif  // HWY_ONCE

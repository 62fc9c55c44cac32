// Ranks by multiplication: what the encoder of small blocks spends on a weight.
//
// [-1, 1] is cut into 32 bins, each of which holds at most one bound, so that
// the rank is a step of at most 1 in it, and a step is the floor of a line:
//
//   bin  = floor(scale t) + 16,   rank = floor(gain[bin] t + base[bin]).
//
// Both are one FMA rounded down, exact because it rounds the exact sum once,
// whose low bits are the number that is wanted. A step sits where the line
// passes a whole number, and MakeStepTable (nf4_step_table.h) finds lines that
// do so between a bound and the next float. They are the ranks that comparisons
// give, for every t that MakeStepTable says.
//
// Each lane holds one bin and the others ask it: no shared memory. Codes are
// packed where the sum leaves them: the exponent of what is added (FieldOrigin)
// decides at which of its bits a rank begins, and bits above and below are cut
// off when two are put together.
// Tested by tests/kernels/nf4_steps_test.cc.
#ifndef QS_KERNELS_CUDA_NF4_STEPS_H_
#define QS_KERNELS_CUDA_NF4_STEPS_H_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {

constexpr int kBins = kWarpSize;
// NF4's lines share one base, so that a bin is one number.
constexpr float kNf4Base = 7.0f + 15.0f / 32.0f;
// Bases are multiples of 2^-kFieldShift: a rank begins there or higher.
constexpr int kFieldShift = 7;

struct StepTable {
  float scale;
  float gain[kBins];
  float base[kBins];
  // FP4: all ones where the two zeros' codes are swapped.
  uint32_t swap_zeros;
};

// The bits of `a` where `mask` has ones, and else those of `b`.
#if defined(QS_CUDA_EMULATION)
inline uint32_t Merge(uint32_t a, uint32_t b, uint32_t mask) {
  return (a & mask) | (b & ~mask);
}
#else
// One instruction, of which the compiler makes two if it knows the mask.
QS_KERNEL uint32_t Merge(uint32_t a, uint32_t b, uint32_t mask) {
  uint32_t merged;
  asm("lop3.b32 %0, %1, %2, %3, 0xe4;"
      : "=r"(merged)
      : "r"(a), "r"(b), "r"(mask));
  return merged;
}
#endif

// a * b + c rounded down. For finite values that do not overflow.
#if defined(QS_CUDA_EMULATION)
inline float FmaDown(float a, float b, float c) {
  const float nearest = std::fma(a, b, c);
  const double product = static_cast<double>(a) * b;  // exact
  const double sum = product + c;
  const double back = sum - product;
  const double error = (product - (sum - back)) + (c - back);  // of sum, exact
  const bool above = nearest > sum || (nearest == sum && error < 0);
  return above ? std::nextafter(nearest, -INFINITY) : nearest;
}
// a * b where subnormal float32 are zero.
inline float MultiplyFlushed(float a, float b) {
  return nf4::Flush(nf4::Flush(a) * nf4::Flush(b));
}
#else
QS_KERNEL float FmaDown(float a, float b, float c) {
  return __fmaf_rd(a, b, c);
}
QS_KERNEL float MultiplyFlushed(float a, float b) {
  float product;
  asm("mul.ftz.f32 %0, %1, %2;" : "=f"(product) : "f"(a), "f"(b));
  return product;
}
#endif

// The low five bits are the bin.
QS_HD float BinOrigin() { return 0x1p23f + 16.0f; }

// What puts the lowest bit of a rank at `shift`, at most 19, of a float's bits.
QS_HD constexpr float FieldOrigin(int shift) {
  return static_cast<float>(1 << (23 - shift));
}

// One lane's part of a table.
template <bool kFp4>
class Steps {
 public:
  template <class Thread>
  QS_KERNEL Steps(const Thread& t, const StepTable& table)
      : scale_(table.scale),
        gain_(table.gain[t.ThreadIndex() % kBins]),
        base_(kFp4 ? table.base[t.ThreadIndex() % kBins] : kNf4Base),
        swap_zeros_(table.swap_zeros) {}

  // The codes of eight weights; normalize(w) is in the table's range, or the
  // codes are unspecified. By all lanes of the warp.
  template <class Thread, class T, class Normalize>
  QS_KERNEL uint32_t Codes(Thread& t, const Chunk<T>& chunk,
                           const Normalize& normalize) const {
    const auto field = [&](int j) {
      return Field(t, normalize(chunk.At(j)), NibbleShift(j % 4) + kFieldShift);
    };
    const uint32_t low = Half(field(1), field(0), field(3), field(2));
    const uint32_t high = Half(field(5), field(4), field(7), field(6));
    const uint32_t ranks =
        Join(low >> kFieldShift, high << (16 - kFieldShift), 16);
    return kFp4 ? Fp4Codes(ranks) : ranks;  // NF4's codes are its ranks
  }

 private:
  // A float's bits with the rank of x at `shift`.
  template <class Thread>
  QS_KERNEL uint32_t Field(Thread& t, float x, int shift) const {
    const uint32_t bin = FloatBits(FmaDown(x, scale_, BinOrigin()));
    const float gain = t.Lookup(gain_, bin);
    const float base = kFp4 ? t.Lookup(base_, bin) : kNf4Base;
    return FloatBits(FmaDown(x, gain, base + FieldOrigin(shift)));
  }
  // `low` below bit `at`, `high` from there on.
  QS_KERNEL static uint32_t Join(uint32_t low, uint32_t high, int at) {
    return Merge(low, high, (1u << at) - 1);
  }
  // Four fields, the lowest first.
  QS_KERNEL static uint32_t Half(uint32_t a, uint32_t b, uint32_t c,
                                 uint32_t d) {
    return Join(Join(Join(a, b, kFieldShift + 4), c, kFieldShift + 8), d,
                kFieldShift + 12);
  }
  // Ranks ascend from -1 to 1: seven negative levels, the two zeros, seven
  // positive ones. A code is a sign and the level's number among its like, m:
  // 0, 1, 6, 7, 4, 5, 2, 3. All eight nibbles at once.
  QS_KERNEL uint32_t Fp4Codes(uint32_t ranks) const {
    const uint32_t negative = ~ranks & 0x88888888u;
    const uint32_t m = (ranks ^ (negative - (negative >> 3))) & 0x77777777u;
    const uint32_t zero = ~(m + 0x77777777u) & 0x88888888u;
    const uint32_t sign = negative ^ (zero & swap_zeros_);
    return (m ^ (m << 1 & 0x44444444u)) | sign;
  }

  float scale_, gain_, base_;
  uint32_t swap_zeros_;
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_NF4_STEPS_H_

// What the affine and HQQ kernels share: division by a number that many are
// divided by, sums over half a warp.
// Tested by tests/kernels/affine_cuda_test.cc.
#ifndef QS_KERNELS_CUDA_AFFINE_DEVICE_H_
#define QS_KERNELS_CUDA_AFFINE_DEVICE_H_

#include <cstdint>

#include "kernels/affine_math.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {

using Counter = unsigned long long;  // what atomics take

template <class T>
constexpr DType kDTypeOf = DType::kF32;
template <>
inline constexpr DType kDTypeOf<F16> = DType::kF16;
template <>
inline constexpr DType kDTypeOf<BF16> = DType::kBF16;

// fl(x / divisor) by products: two steps from a first guess give the correctly
// rounded quotient when the reciprocal of the divisor is correctly rounded and
// no remainder is below the normal numbers (Markstein, IBM J. Res. Dev. 34,
// 1990): for 2^-40 <= divisor <= 2^40, and x = 0 or 2^-60 <= |x| <= 2^60.
QS_HD float QuotientOf(float x, float divisor, float reciprocal) {
  const float guess = x * reciprocal;
  const float near = fmaf(fmaf(-divisor, guess, x), reciprocal, guess);
  return fmaf(fmaf(-divisor, near, x), reciprocal, near);
}

// Divides the elements of a group by its scale: fl(x / scale) where that is
// 2^-40 or more, else a number below 2^-39. Both are divided by a power of two
// where the scale is small or large. REQUIRES: |x / scale| <= 2^10.
class Divider {
 public:
  QS_HD explicit Divider(float scale)
      : unit_(scale < 0x1p-40f ? 0x1p64f : (scale > 0x1p40f ? 0x1p-64f : 1.0f)),
        divisor_(scale * unit_),
        reciprocal_(1.0f / divisor_) {}

  QS_HD float operator()(float x) const {
    return QuotientOf(x * unit_, divisor_, reciprocal_);
  }

 private:
  float unit_;
  float divisor_;
  float reciprocal_;
};

constexpr int kHalfWarp = 16;

// The fold of sixteen partial sums (affine_math.h), one a lane: an addition
// gives both of its lanes the same sum. By all lanes of the warp.
template <class Thread, class Sum>
QS_KERNEL Sum FoldHalfWarp(Thread& t, Sum sum) {
  QS_UNROLL
  for (int half = kHalfWarp / 2; half > 0; half /= 2) {
    sum += t.ShuffleXor(sum, half);
  }
  return sum;
}

// The least and the greatest over `lanes` neighbours, a power of two. By all
// lanes of the warp; no NaN.
template <class Thread>
QS_KERNEL void BoundsOverLanes(Thread& t, int lanes, float* low, float* high) {
  for (int mask = 1; mask < lanes; mask *= 2) {
    const float other_low = t.ShuffleXor(*low, mask);
    const float other_high = t.ShuffleXor(*high, mask);
    *low = other_low < *low ? other_low : *low;
    *high = other_high > *high ? other_high : *high;
  }
}

// Eight codes of one byte each as two words.
struct alignas(8) CodeWords {
  uint32_t w[2];
};

// Stores the codes of the chunk at `begin`. `vector`: 8-byte accesses are
// aligned.
template <class Global>
QS_KERNEL void StoreByteCodes(const Global& codes, int64_t begin, int64_t end,
                              const CodeWords& words, bool vector) {
  if (vector && begin + kChunk <= end) {
    codes.SetVector(begin, words);
    return;
  }
  QS_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    if (begin + j < end) codes.Set(begin + j, words.w[j / 4] >> (j % 4 * 8));
  }
}

// The code of w on a group's min-max grid, unsigned.
template <class T>
struct GridCoder {
  affine::Grid grid;
  float offset;  // of unsigned codes: 2^(bits-1)
  bool symmetric;
  Divider divider;

  QS_KERNEL GridCoder(const affine::Spec& spec, const affine::Grid& g)
      : grid(g),
        offset(spec.offset()),
        symmetric(spec.symmetric),
        divider(g.scale) {}

  QS_KERNEL uint32_t Code(float w) const {
    float t = Rounded<T>(divider(w));
    if (!symmetric) t = Rounded<T>(t + (grid.zero_point - offset));
    const float code = affine::Clamp(t, -offset, offset - 1);
    return static_cast<uint32_t>(affine::RoundEven(code) + offset);
  }
};

// The code of w on a grid that a search found.
struct SearchCoder {
  float reciprocal;
  float low;
  float high;

  QS_KERNEL SearchCoder(const affine::Spec& spec, const affine::Grid& g)
      : reciprocal(1.0f / g.scale),
        low(-g.zero_point),
        high(spec.max_code() - g.zero_point) {}

  QS_KERNEL uint32_t Code(float w) const {
    const float q = affine::Clamp(w * reciprocal, low, high);
    return static_cast<uint32_t>(affine::RoundEven(q) - low);
  }
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_AFFINE_DEVICE_H_

// Arithmetic on sizes that a client chose: overflow is a result, not a wrap.
#ifndef QS_KERNELS_BASE_CHECKED_MATH_H_
#define QS_KERNELS_BASE_CHECKED_MATH_H_

#include <cstdint>
#include <optional>
#include <span>

namespace qs {

inline std::optional<int64_t> CheckedMul(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}

inline std::optional<int64_t> CheckedAdd(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}

// Product of the dimensions; 1 for no dimension. Nullopt on overflow or on a
// negative dimension.
inline std::optional<int64_t> CheckedNumElements(
    std::span<const int64_t> shape) {
  int64_t n = 1;
  for (int64_t d : shape) {
    if (d < 0) return std::nullopt;
    const std::optional<int64_t> next = CheckedMul(n, d);
    if (!next) return std::nullopt;
    n = *next;
  }
  return n;
}

// REQUIRES: a >= 0, b > 0.
constexpr int64_t CeilDiv(int64_t a, int64_t b) {
  return a / b + (a % b != 0 ? 1 : 0);
}

}  // namespace qs

#endif  // QS_KERNELS_BASE_CHECKED_MATH_H_

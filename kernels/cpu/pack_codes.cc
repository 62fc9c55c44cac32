// Tested by tests/kernels/affine_pack_test.cc.
#include "kernels/cpu/pack_codes.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "kernels/base/checked_math.h"

namespace qs::affine {
namespace {

static_assert(std::endian::native == std::endian::little,
              "words and bytes are the same memory");

constexpr int64_t kEight = 8;  // codes: `bits` bytes

// The lowest `bits` (at most 32) bits of every `every`-th bit.
constexpr uint64_t Fields(int bits, int every) {
  const uint64_t field = (uint64_t{1} << bits) - 1;
  uint64_t all = 0;
  for (int at = 0; at < 64; at += every) all |= field << at;
  return all;
}

// Eight codes, one a byte, to the lowest 8 * bits bits: neighbours are moved
// together as pairs, fours and eight, the even one staying where it is.
template <int kBits>
uint64_t Squeeze(uint64_t x) {
  constexpr uint64_t kOne = Fields(kBits, 16);
  constexpr uint64_t kTwo = Fields(2 * kBits, 32);
  constexpr uint64_t kFour = Fields(4 * kBits, 64);
  x = (x & kOne) | (x >> 8 & kOne) << kBits;
  x = (x & kTwo) | (x >> 16 & kTwo) << 2 * kBits;
  return (x & kFour) | (x >> 32 & kFour) << 4 * kBits;
}

template <int kBits>
uint64_t Spread(uint64_t x) {
  constexpr uint64_t kOne = Fields(kBits, 16);
  constexpr uint64_t kTwo = Fields(2 * kBits, 32);
  constexpr uint64_t kFour = Fields(4 * kBits, 64);
  x = (x & kFour) | (x >> 4 * kBits & kFour) << 32;
  x = (x & kTwo) | (x >> 2 * kBits & kTwo) << 16;
  return (x & kOne) | (x >> kBits & kOne) << 8;
}

// Loads `count` bytes (1..8), zeros above.
uint64_t LoadBytes(const uint8_t* p, size_t count) {
  uint64_t x = 0;
  std::memcpy(&x, p, count);
  return x;
}

template <int kBits>
void PackFixed(const uint8_t* codes, int64_t count, uint32_t* words) {
  auto* out = reinterpret_cast<uint8_t*>(words);
  const uint8_t* end =
      reinterpret_cast<uint8_t*>(words + CeilDiv(count * kBits, 32));
  int64_t i = 0;
  for (; i + kEight <= count; i += kEight, out += kBits) {
    const uint64_t packed = Squeeze<kBits>(LoadBytes(codes + i, 8));
    // What a whole store writes beyond its kBits bytes is overwritten next.
    std::memcpy(out, &packed, end - out >= 8 ? 8 : size_t{kBits});
  }
  const auto left = static_cast<size_t>(end - out);
  if (left == 0) return;
  std::memset(out, 0, left);
  if (i == count) return;
  const auto rest = static_cast<size_t>(count - i);
  const uint64_t packed = Squeeze<kBits>(LoadBytes(codes + i, rest));
  std::memcpy(out, &packed, std::min(left, size_t{8}));
}

template <int kBits>
void UnpackFixed(const uint32_t* words, int64_t count, uint8_t* codes) {
  const auto* in = reinterpret_cast<const uint8_t*>(words);
  const uint8_t* end =
      reinterpret_cast<const uint8_t*>(words + CeilDiv(count * kBits, 32));
  int64_t i = 0;
  for (; i + kEight <= count; i += kEight, in += kBits) {
    const uint64_t bytes =
        Spread<kBits>(LoadBytes(in, end - in >= 8 ? 8 : size_t{kBits}));
    std::memcpy(codes + i, &bytes, 8);
  }
  if (i == count) return;
  const uint64_t bytes = Spread<kBits>(
      LoadBytes(in, std::min(static_cast<size_t>(end - in), size_t{8})));
  std::memcpy(codes + i, &bytes, static_cast<size_t>(count - i));
}

// Calls `run` with the width as a constant.
template <class Run>
void WithBits(int bits, const Run& run) {
  switch (bits) {
    case 1:
      return run(std::integral_constant<int, 1>());
    case 2:
      return run(std::integral_constant<int, 2>());
    case 3:
      return run(std::integral_constant<int, 3>());
    case 4:
      return run(std::integral_constant<int, 4>());
    case 5:
      return run(std::integral_constant<int, 5>());
    case 6:
      return run(std::integral_constant<int, 6>());
    case 7:
      return run(std::integral_constant<int, 7>());
    default:
      return run(std::integral_constant<int, 8>());
  }
}

}  // namespace

void PackCodes(const uint8_t* codes, int64_t count, int bits, uint32_t* words) {
  WithBits(bits, [&]<int kBits>(std::integral_constant<int, kBits>) {
    PackFixed<kBits>(codes, count, words);
  });
}

void UnpackCodes(const uint32_t* words, int64_t count, int bits,
                 uint8_t* codes) {
  WithBits(bits, [&]<int kBits>(std::integral_constant<int, kBits>) {
    UnpackFixed<kBits>(words, count, codes);
  });
}

void PackColumnBlock(const uint8_t* codes, int64_t rows, int64_t stride,
                     int bits, uint32_t* words) {
  std::fill_n(words, CeilDiv(rows * bits, 32) * stride, 0u);
  const uint32_t mask = (1u << bits) - 1;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t shift = i * bits % 32;
    const uint8_t* code = codes + i * stride;
    uint32_t* word = words + i * bits / 32 * stride;
    for (int64_t j = 0; j < stride; ++j) word[j] |= (code[j] & mask) << shift;
    if (shift + bits <= 32) continue;
    for (int64_t j = 0; j < stride; ++j) {
      word[stride + j] |= (code[j] & mask) >> (32 - shift);
    }
  }
}

void UnpackColumnBlock(const uint32_t* words, int64_t rows, int64_t stride,
                       int bits, uint8_t* codes) {
  const uint32_t mask = (1u << bits) - 1;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t shift = i * bits % 32;
    const uint32_t* word = words + i * bits / 32 * stride;
    uint8_t* code = codes + i * stride;
    for (int64_t j = 0; j < stride; ++j) {
      code[j] = static_cast<uint8_t>(word[j] >> shift & mask);
    }
    if (shift + bits <= 32) continue;
    for (int64_t j = 0; j < stride; ++j) {
      code[j] = static_cast<uint8_t>(code[j] |
                                     (word[stride + j] << (32 - shift) & mask));
    }
  }
}

}  // namespace qs::affine

// What a report says of a group of weights and its codes: the weights' range,
// codes that are not the nearest. `Type`: of float_types.h.
//
// The loops choose by integers, which compilers vectorize; of floats they make
// branches.
// Thread: pure functions. Tested by tests/quant/coded_group_test.cc.
#ifndef QS_QUANT_CODED_GROUP_H_
#define QS_QUANT_CODED_GROUP_H_

#include <algorithm>
#include <bit>
#include <cstdint>

namespace qs {

// Half to even; beyond 512 that is far enough.
inline int32_t RoundedSteps(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto size = std::min(static_cast<int32_t>(bits & 0x7fffffffu),
                             std::bit_cast<int32_t>(512.0f));
  const auto near =
      std::bit_cast<float>(static_cast<uint32_t>(size) | (bits & 0x80000000u));
  return static_cast<int32_t>((near + 0x1.8p23f) - 0x1.8p23f);
}

template <class Type>
struct CodedGroup {
  const typename Type::Stored* weights;
  const uint8_t* codes;
  int64_t size;
  float step;
  int32_t zero;
  int32_t top;
};

// How many codes are not the nearest.
template <class Type>
int64_t NotNearest(const CodedGroup<Type>& g) {
  int32_t count = 0;
  for (int64_t i = 0; i < g.size; ++i) {
    const int32_t steps = RoundedSteps(Type::Widen(g.weights[i]) / g.step);
    const int32_t code = std::min(std::max(steps + g.zero, 0), g.top);
    count += code != g.codes[i] ? 1 : 0;
  }
  return count;
}

struct FloatRange {
  float low = 0;
  float high = 0;
};

// An integer in the order of floats, and back.
inline int32_t OrderOf(int32_t bits) {
  return bits ^ (bits >> 31 & 0x7fffffff);
}

// Of the weights and 0.
template <class Type>
FloatRange RangeOf(const typename Type::Stored* weights, int64_t size) {
  int32_t low = 0;
  int32_t high = 0;
  for (int64_t i = 0; i < size; ++i) {
    const int32_t at = OrderOf(std::bit_cast<int32_t>(Type::Widen(weights[i])));
    low = std::min(low, at);
    high = std::max(high, at);
  }
  return {std::bit_cast<float>(OrderOf(low)),
          std::bit_cast<float>(OrderOf(high))};
}

}  // namespace qs

#endif  // QS_QUANT_CODED_GROUP_H_

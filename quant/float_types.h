// Float dtypes as types, so that a loop over weights is compiled for its own.
// Thread: pure functions.
#ifndef QS_QUANT_FLOAT_TYPES_H_
#define QS_QUANT_FLOAT_TYPES_H_

#include <cstdint>

#include "kernels/base/dtype.h"

namespace qs {

struct F32Type {
  using Stored = float;
  static float Widen(float x) { return x; }
  static float Narrow(float x) { return x; }
};
struct F16Type {
  using Stored = uint16_t;
  static float Widen(uint16_t x) { return F16ToFloat(x); }
  static uint16_t Narrow(float x) { return FloatToF16(x); }
};
struct Bf16Type {
  using Stored = uint16_t;
  static float Widen(uint16_t x) { return Bf16ToFloat(x); }
  static uint16_t Narrow(float x) { return FloatToBf16(x); }
};

// Calls body(F32Type()) or what else `dtype` is. REQUIRES: it is one of them.
template <class Body>
void WithFloatType(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF16:
      return body(F16Type());
    case DType::kBF16:
      return body(Bf16Type());
    default:
      return body(F32Type());
  }
}

}  // namespace qs

#endif  // QS_QUANT_FLOAT_TYPES_H_

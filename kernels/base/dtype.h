// Element types of tensors: names, sizes, and exact scalar conversions.
//
// Used by every layer. F16 and BF16 widen to F32 exactly; narrowing rounds to
// nearest, ties to even, overflow to infinity, NaN stays NaN (quiet).
#ifndef QS_KERNELS_BASE_DTYPE_H_
#define QS_KERNELS_BASE_DTYPE_H_

#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace qs {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kU8,
  kI32,
  kI64,  // what kernels read and write
  kF64,
  kI8,
  kI16,
  kU16,
  kU32,
  kU64,
  kBool,
  kF8E4M3,
  kF8E5M2,  // carried only
};

// Bytes of one element.
constexpr int64_t DTypeBytes(DType t) {
  switch (t) {
    case DType::kI64:
    case DType::kF64:
    case DType::kU64:
      return 8;
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
    case DType::kU16:
      return 2;
    default:
      return 1;
  }
}

// The name that safetensors uses: "F32", "BF16", "F8_E4M3".
std::string DTypeName(DType t);
std::optional<DType> ParseDType(std::string_view name);

// F32, F16 or BF16: what the methods take as weights.
constexpr bool IsFloatWeight(DType t) {
  return t == DType::kF32 || t == DType::kF16 || t == DType::kBF16;
}

inline float Bf16ToFloat(uint16_t v) {
  return std::bit_cast<float>(static_cast<uint32_t>(v) << 16);
}

inline uint16_t FloatToBf16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) {
    return static_cast<uint16_t>((u >> 16) | 0x40u);  // quiet NaN
  }
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float F16ToFloat(uint16_t v);
uint16_t FloatToF16(float f);

// Element `i` of an array of F32, F16 or BF16 as F32.
// REQUIRES: IsFloatWeight(t).
float LoadAsFloat(const void* data, DType t, int64_t i);
// REQUIRES: IsFloatWeight(t).
void StoreFromFloat(void* data, DType t, int64_t i, float value);

}  // namespace qs

#endif  // QS_KERNELS_BASE_DTYPE_H_

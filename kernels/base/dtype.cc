// Tested by tests/kernels/base_test.cc.
#include "kernels/base/dtype.h"

#include <array>
#include <cstring>
#include <utility>

namespace qs {
namespace {

constexpr std::array<std::pair<DType, std::string_view>, 15> kNames = {{
    {DType::kF32, "F32"},
    {DType::kF16, "F16"},
    {DType::kBF16, "BF16"},
    {DType::kU8, "U8"},
    {DType::kI32, "I32"},
    {DType::kI64, "I64"},
    {DType::kF64, "F64"},
    {DType::kI8, "I8"},
    {DType::kI16, "I16"},
    {DType::kU16, "U16"},
    {DType::kU32, "U32"},
    {DType::kU64, "U64"},
    {DType::kBool, "BOOL"},
    {DType::kF8E4M3, "F8_E4M3"},
    {DType::kF8E5M2, "F8_E5M2"},
}};

}  // namespace

std::string DTypeName(DType t) {
  for (const auto& [dtype, name] : kNames) {
    if (dtype == t) return std::string(name);
  }
  return "?";
}

std::optional<DType> ParseDType(std::string_view name) {
  for (const auto& [dtype, known] : kNames) {
    if (known == name) return dtype;
  }
  return std::nullopt;
}

float F16ToFloat(uint16_t v) {
  const uint32_t sign = static_cast<uint32_t>(v & 0x8000u) << 16;
  const uint32_t exponent = (v >> 10) & 0x1fu;
  const uint32_t mantissa = v & 0x3ffu;
  if (exponent == 31) {
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  }
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in F32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) |
                              (mantissa << 13));
}

uint16_t FloatToF16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((a >> 13) & 0x1ffu));
  }
  if (a >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 65536 or above
  if (a < 0x38800000u) {
    // Below 2^-14 the grid is 2^-24, the last mantissa bit of 0.5: adding
    // 0.5 rounds to it, ties to even.
    const float aligned = std::bit_cast<float>(a) + 0.5f;
    return static_cast<uint16_t>(
        sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000u));
  }
  const uint32_t rounded = a + 0xfffu + ((a >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

namespace {

template <class T>
T LoadUnaligned(const void* data, int64_t i) {
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  T value;
  std::memcpy(&value, static_cast<const uint8_t*>(data) + i * kSize, kSize);
  return value;
}

}  // namespace

float LoadAsFloat(const void* data, DType t, int64_t i) {
  switch (t) {
    case DType::kF32:
      return LoadUnaligned<float>(data, i);
    case DType::kF16:
      return F16ToFloat(LoadUnaligned<uint16_t>(data, i));
    default:
      return Bf16ToFloat(LoadUnaligned<uint16_t>(data, i));
  }
}

void StoreFromFloat(void* data, DType t, int64_t i, float value) {
  switch (t) {
    case DType::kF32:
      static_cast<float*>(data)[i] = value;
      return;
    case DType::kF16:
      static_cast<uint16_t*>(data)[i] = FloatToF16(value);
      return;
    default:
      static_cast<uint16_t*>(data)[i] = FloatToBf16(value);
      return;
  }
}

}  // namespace qs

// Names and shapes of hqq's state dict, for its writer and its reader.
#ifndef QS_QUANT_FORMATS_HQQ_NAMES_H_
#define QS_QUANT_FORMATS_HQQ_NAMES_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/base/dtype.h"
#include "quant/formats/hqq_format.h"

namespace qs::hqq {

// Code rows that share a word at 3 bits.
inline constexpr int64_t kThreeBitRows = 10;

inline std::string_view PackingName(int bits) {
  switch (bits) {
    case 1:
      return "1bit_u8";
    case 2:
      return "2bit_u8";
    case 3:
      return "3bit_32";
    case 4:
      return "4bit_u8";
    default:
      return "8bit_u8";
  }
}

inline DType PackedDType(int bits) {
  return bits == 3 ? DType::kI32 : DType::kU8;
}

inline std::string_view UnpackDType(int bits) {
  return bits == 3 ? "torch.int32" : "torch.uint8";
}

inline std::string_view TorchDType(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return "torch.float16";
    case DType::kBF16:
      return "torch.bfloat16";
    default:
      return "torch.float32";
  }
}

inline std::vector<int64_t> PackedShape(const HqqLayout& layout) {
  const int64_t rows = layout.bits == 3
                           ? CeilDiv(layout.code_rows(), kThreeBitRows)
                           : layout.code_rows() * layout.bits / 8;
  return {rows, layout.code_cols()};
}

// Of scale and zero.
inline std::vector<int64_t> SideShape(const HqqLayout& layout) {
  if (layout.axis == 1) return {layout.groups(), 1};
  return {1, layout.groups()};
}

}  // namespace qs::hqq

#endif  // QS_QUANT_FORMATS_HQQ_NAMES_H_

// The tensors that store one quantized weight, looked up and checked: what both
// decoders start from.
#ifndef QS_QUANT_FORMATS_STORED_TENSORS_H_
#define QS_QUANT_FORMATS_STORED_TENSORS_H_

#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/buffer.h"
#include "kernels/base/dtype.h"
#include "quant/formats/safetensors.h"

namespace qs {

using StoredTensors = std::map<std::string, SafetensorsItem>;

// Errors: INVALID_ARGUMENT — there is none.
absl::StatusOr<const SafetensorsItem*> FindStored(const StoredTensors& tensors,
                                                  const std::string& name);

// The bytes of a tensor. Errors: INVALID_ARGUMENT — none of that name, or
// another dtype or shape.
absl::StatusOr<std::span<const uint8_t>> StoredBytes(
    const StoredTensors& tensors, const std::string& name, DType dtype,
    const std::vector<int64_t>& shape);

// INVALID_ARGUMENT "tensor NAME: got, allowed".
absl::Status StoredError(const std::string& name, const std::string& got,
                         const std::string& allowed);

// Element `i` of packed little-endian values; no alignment is asked for.
template <typename T>
T LoadAt(std::span<const uint8_t> bytes, int64_t i) {
  T value;
  std::memcpy(&value, bytes.data() + i * static_cast<int64_t>(sizeof(T)),
              sizeof(T));
  return value;
}

// Element `i` of F32, F16 or BF16 as F32.
inline float LoadStoredFloat(std::span<const uint8_t> bytes, DType dtype,
                             int64_t i) {
  if (dtype == DType::kF32) return LoadAt<float>(bytes, i);
  const auto half = LoadAt<uint16_t>(bytes, i);
  return dtype == DType::kF16 ? F16ToFloat(half) : Bf16ToFloat(half);
}

// Errors: RESOURCE_EXHAUSTED.
absl::StatusOr<Buffer> CopyToBuffer(const void* data, int64_t bytes);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_STORED_TENSORS_H_

// Tested by tests/formats/gptq_format_test.cc and
// tests/formats/awq_format_test.cc.
#include "quant/formats/grid_pieces.h"

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"

namespace qs::grid {

absl::StatusOr<std::string> ModuleOf(const std::string& name) {
  constexpr std::string_view kEnd = ".weight";
  if (name.size() <= kEnd.size() || !absl::EndsWith(name, ".weight")) {
    return StoredError(name, "this name", "one that ends in .weight");
  }
  return name.substr(0, name.size() - kEnd.size());
}

int64_t NumGroups(const GridSpec& grid, int64_t cols) {
  return grid.group_size < 0 ? 1 : CeilDiv(cols, grid.group_size);
}

absl::Status CheckScales(std::span<const uint8_t> scales, DType dtype,
                         const std::string& name) {
  const auto count = static_cast<int64_t>(scales.size()) / DTypeBytes(dtype);
  for (int64_t i = 0; i < count; ++i) {
    const float scale = LoadStoredFloat(scales, dtype, i);
    if (!std::isfinite(scale) || scale < 0) {
      return StoredError(name, absl::StrCat(scale, " at index ", i),
                         "finite scales that are not negative");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Buffer> TransposedScales(std::span<const uint8_t> scales,
                                        DType dtype, int64_t rows,
                                        int64_t groups) {
  // An aligned copy first: a file's bytes need not be.
  QS_ASSIGN_OR_RETURN(
      const Buffer copy,
      CopyToBuffer(scales.data(), static_cast<int64_t>(scales.size())));
  QS_ASSIGN_OR_RETURN(Buffer out, Buffer::Allocate(copy.size()));
  if (dtype == DType::kF32) {
    Transpose(copy.As<uint32_t>(), groups, rows, rows, out.As<uint32_t>(),
              groups);
  } else {
    Transpose(copy.As<uint16_t>(), groups, rows, rows, out.As<uint16_t>(),
              groups);
  }
  return out;
}

absl::StatusOr<DType> ScaleDType(const StoredTensors& tensors,
                                 const std::string& name) {
  QS_ASSIGN_OR_RETURN(const SafetensorsItem* item, FindStored(tensors, name));
  if (IsFloatWeight(item->dtype)) return item->dtype;
  return StoredError(name, DTypeName(item->dtype), "F32, F16, BF16");
}

}  // namespace qs::grid

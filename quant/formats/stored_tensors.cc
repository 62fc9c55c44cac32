// Tested by tests/formats/bitsandbytes_decode_test.cc and
// tests/formats/compressed_tensors_test.cc.
#include "quant/formats/stored_tensors.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"

namespace qs {
namespace {

std::string TypeText(DType dtype, const std::vector<int64_t>& shape) {
  return absl::StrCat(DTypeName(dtype), " [", absl::StrJoin(shape, ", "), "]");
}

}  // namespace

absl::Status StoredError(const std::string& name, const std::string& got,
                         const std::string& allowed) {
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor ", QuoteForError(name), ": got ", got, ", allowed: ", allowed));
}

absl::StatusOr<const SafetensorsItem*> FindStored(const StoredTensors& tensors,
                                                  const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) {
    return StoredError(name, "nothing", "a tensor of that name");
  }
  const SafetensorsItem& item = found->second;
  const std::optional<int64_t> count = CheckedNumElements(item.shape);
  const std::optional<int64_t> bytes =
      count ? CheckedMul(*count, DTypeBytes(item.dtype)) : std::nullopt;
  if (!bytes || *bytes != static_cast<int64_t>(item.data.size())) {
    return StoredError(name, absl::StrCat(item.data.size(), " bytes"),
                       TypeText(item.dtype, item.shape));
  }
  return &item;
}

absl::StatusOr<std::span<const uint8_t>> StoredBytes(
    const StoredTensors& tensors, const std::string& name, DType dtype,
    const std::vector<int64_t>& shape) {
  QS_ASSIGN_OR_RETURN(const SafetensorsItem* item, FindStored(tensors, name));
  if (item->dtype != dtype || item->shape != shape) {
    return StoredError(name, TypeText(item->dtype, item->shape),
                       TypeText(dtype, shape));
  }
  return item->data;
}

absl::StatusOr<Buffer> CopyToBuffer(const void* data, int64_t bytes) {
  QS_ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(bytes));
  if (bytes > 0) {
    std::memcpy(buffer.data(), data, static_cast<size_t>(bytes));
  }
  return buffer;
}

}  // namespace qs

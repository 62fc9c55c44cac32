// Tested by tests/formats/safetensors_header_test.cc and
// tests/fuzz/safetensors_fuzz.cc.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "quant/formats/safetensors.h"

namespace qs {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kLeastHeaderBytes = 2;  // {}
// The header, one tensor, its shape.
constexpr JsonLimits kHeaderLimits = {.max_bytes = kMaxHeaderBytes,
                                      .max_depth = 3};
constexpr char kDTypes[] =
    "F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32, I16, I8, U64, U32, U16, "
    "U8, BOOL";

absl::Status Invalid(const std::string& where, const std::string& got,
                     const std::string& allowed) {
  return absl::InvalidArgumentError(absl::StrCat(
      "safetensors ", where, ": got ", got, ", allowed: ", allowed));
}

absl::StatusOr<int64_t> ParseSize(const Json& value, const std::string& where) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kMax) {
    return Invalid(where, JsonForError(value),
                   absl::StrCat("an integer from 0 to ", kMax));
  }
  return static_cast<int64_t>(value.get<uint64_t>());
}

absl::StatusOr<std::vector<int64_t>> ParseSizes(const Json& value,
                                                const std::string& where) {
  if (!value.is_array()) {
    return Invalid(where, JsonForError(value), "an array");
  }
  std::vector<int64_t> sizes;
  sizes.reserve(value.size());
  for (const Json& item : value) {
    QS_ASSIGN_OR_RETURN(
        const int64_t size,
        ParseSize(item, absl::StrCat(where, "[", sizes.size(), "]")));
    sizes.push_back(size);
  }
  return sizes;
}

absl::StatusOr<DType> ParseDTypeName(const Json& value,
                                     const std::string& where) {
  std::optional<DType> dtype;
  if (value.is_string()) {
    dtype = ParseDType(value.get_ref<const std::string&>());
  }
  if (!dtype) return Invalid(where, JsonForError(value), kDTypes);
  return *dtype;
}

absl::StatusOr<std::map<std::string, std::string>> ParseMetadata(
    const Json& value) {
  if (!value.is_object()) {
    return Invalid("__metadata__", JsonForError(value), "an object of strings");
  }
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.get_ref<const Json::object_t&>()) {
    if (!text.is_string()) {
      return Invalid(absl::StrCat("__metadata__[", QuoteForError(key), "]"),
                     JsonForError(text), "a string");
    }
    metadata.emplace(key, text.get_ref<const std::string&>());
  }
  return metadata;
}

// Nullopt on overflow, even where a dimension of 0 would hide it: who computes
// with the other dimensions must not meet it.
std::optional<int64_t> NumBytes(const SafetensorsEntry& entry) {
  bool empty = false;
  std::optional<int64_t> bytes = DTypeBytes(entry.dtype);
  for (const int64_t size : entry.shape) {
    empty = empty || size == 0;
    if (bytes && size != 0) bytes = CheckedMul(*bytes, size);
  }
  return bytes && empty ? 0 : bytes;
}

// dtype x shape must be the byte range.
absl::Status CheckBytes(const SafetensorsEntry& entry,
                        const std::string& where) {
  const std::optional<int64_t> bytes = NumBytes(entry);
  if (!bytes) {
    return Invalid(where + ".shape", "a product beyond 2^63 bytes",
                   "what fits the file");
  }
  if (entry.end - entry.begin != *bytes) {
    return Invalid(where + ".data_offsets",
                   absl::StrCat(entry.end - entry.begin, " bytes"),
                   absl::StrCat(*bytes, ", by dtype and shape"));
  }
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsEntry> ParseEntry(const std::string& name,
                                            const Json& value) {
  const std::string where = absl::StrCat("tensor ", QuoteForError(name));
  if (!value.is_object()) {
    return Invalid(where, JsonForError(value), "an object");
  }
  for (const auto& [key, unused] : value.get_ref<const Json::object_t&>()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return Invalid(where, "key " + QuoteForError(key),
                     "dtype, shape, data_offsets");
    }
  }
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(key)) {
      return Invalid(where, absl::StrCat("no ", key),
                     "dtype, shape and data_offsets");
    }
  }
  SafetensorsEntry entry;
  entry.name = name;
  QS_ASSIGN_OR_RETURN(entry.dtype,
                      ParseDTypeName(value["dtype"], where + ".dtype"));
  QS_ASSIGN_OR_RETURN(entry.shape,
                      ParseSizes(value["shape"], where + ".shape"));
  QS_ASSIGN_OR_RETURN(
      const std::vector<int64_t> offsets,
      ParseSizes(value["data_offsets"], where + ".data_offsets"));
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    return Invalid(where + ".data_offsets", value["data_offsets"].dump(),
                   "[begin, end] with begin <= end");
  }
  entry.begin = offsets[0];
  entry.end = offsets[1];
  QS_RETURN_IF_ERROR(CheckBytes(entry, where));
  return entry;
}

// The tensors must fill [0, data_bytes) without overlap or hole.
absl::Status CheckCoverage(const std::vector<SafetensorsEntry>& tensors,
                           int64_t data_bytes) {
  int64_t filled = 0;
  for (const SafetensorsEntry& entry : tensors) {
    const std::string where =
        absl::StrCat("tensor ", QuoteForError(entry.name), ".data_offsets");
    if (entry.end > data_bytes) {
      return Invalid(where, absl::StrCat("an end at ", entry.end),
                     absl::StrCat("at most ", data_bytes,
                                  ", the bytes behind the header"));
    }
    if (entry.begin != filled) {
      return Invalid(where,
                     absl::StrCat(entry.begin < filled ? "an overlap: begin "
                                                       : "a hole: begin ",
                                  entry.begin),
                     absl::StrCat(filled));
    }
    filled = entry.end;
  }
  if (filled != data_bytes) {
    return Invalid("file", absl::StrCat(data_bytes, " bytes behind the header"),
                   absl::StrCat(filled, ", the end of the last tensor"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> HeaderBytes(std::span<const uint8_t> head,
                                    int64_t file_bytes) {
  if (file_bytes < kLengthBytes + kLeastHeaderBytes) {
    return Invalid("file", absl::StrCat(file_bytes, " bytes"),
                   absl::StrCat(kLengthBytes + kLeastHeaderBytes,
                                " at least, for the header's length and {}"));
  }
  if (static_cast<int64_t>(head.size()) < kLengthBytes) {
    return Invalid("header length", absl::StrCat(head.size(), " bytes"),
                   absl::StrCat(kLengthBytes));
  }
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | head[i];
  const int64_t most = std::min(kMaxHeaderBytes, file_bytes - kLengthBytes);
  if (length < static_cast<uint64_t>(kLeastHeaderBytes) ||
      length > static_cast<uint64_t>(most)) {
    return Invalid("header length", absl::StrCat(length),
                   absl::StrCat(kLeastHeaderBytes, " to ", most,
                                " in a file of ", file_bytes, " bytes"));
  }
  const int64_t available = static_cast<int64_t>(head.size()) - kLengthBytes;
  if (static_cast<int64_t>(length) > available) {
    return Invalid("header", absl::StrCat(available, " bytes"),
                   absl::StrCat(length, ", its length"));
  }
  return static_cast<int64_t>(length);
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(
    std::span<const uint8_t> head, int64_t file_bytes) {
  QS_ASSIGN_OR_RETURN(const int64_t length, HeaderBytes(head, file_bytes));
  const std::string_view text(
      reinterpret_cast<const char*>(head.data()) + kLengthBytes,
      static_cast<size_t>(length));
  if (text[0] != '{') {
    return Invalid("header", "byte " + absl::StrCat(head[kLengthBytes]),
                   "'{' first");
  }
  QS_ASSIGN_OR_RETURN(
      const Json json,
      ParseJsonObject(text, "safetensors header", kHeaderLimits));
  SafetensorsHeader header;
  header.data_offset = kLengthBytes + length;
  for (const auto& [name, value] : json.get_ref<const Json::object_t&>()) {
    if (name == "__metadata__") {
      QS_ASSIGN_OR_RETURN(header.metadata, ParseMetadata(value));
      continue;
    }
    QS_ASSIGN_OR_RETURN(SafetensorsEntry entry, ParseEntry(name, value));
    header.tensors.push_back(std::move(entry));
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::tie(a.begin, a.end, a.name) <
                     std::tie(b.begin, b.end, b.name);
            });
  QS_RETURN_IF_ERROR(
      CheckCoverage(header.tensors, file_bytes - header.data_offset));
  return header;
}

}  // namespace qs

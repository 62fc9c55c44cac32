// Tested by tests/formats/safetensors_write_test.cc.
#include <algorithm>
#include <exception>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "quant/formats/posix_file.h"
#include "quant/formats/safetensors.h"

namespace qs {
namespace {

// Place of a dtype in a file: the library's order of its dtypes, reversed.
int Rank(DType dtype) {
  constexpr DType kOrder[] = {
      DType::kU64,    DType::kI64,    DType::kF64, DType::kF32, DType::kU32,
      DType::kI32,    DType::kBF16,   DType::kF16, DType::kU16, DType::kI16,
      DType::kF8E4M3, DType::kF8E5M2, DType::kI8,  DType::kU8,  DType::kBool};
  return static_cast<int>(
      std::find(std::begin(kOrder), std::end(kOrder), dtype) -
      std::begin(kOrder));
}

std::string FormText(const SafetensorsItem& item) {
  return absl::StrCat(DTypeName(item.dtype), " [",
                      absl::StrJoin(item.shape, ", "), "]");
}

absl::Status BadItem(const SafetensorsItem& item, const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "safetensors tensor ", QuoteForError(item.name), ": ", text));
}

// Bytes that dtype and shape ask for.
absl::StatusOr<int64_t> ItemBytes(const SafetensorsItem& item) {
  const std::optional<int64_t> count = CheckedNumElements(item.shape);
  const std::optional<int64_t> bytes =
      count ? CheckedMul(*count, DTypeBytes(item.dtype)) : std::nullopt;
  if (bytes) return *bytes;
  return BadItem(item, absl::StrCat("got ", FormText(item),
                                    ", allowed: what 64 bits count"));
}

absl::Status CheckBytes(const SafetensorsItem& item, int64_t got) {
  const absl::StatusOr<int64_t> bytes = ItemBytes(item);
  if (bytes.ok() && got == *bytes) return absl::OkStatus();
  return BadItem(
      item, absl::StrCat("got ", got, " bytes, allowed: ", FormText(item)));
}

absl::Status SortAndCheck(std::vector<SafetensorsItem>& items) {
  std::sort(items.begin(), items.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(
      items.begin(), items.end(),
      [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice != items.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors tensor ", QuoteForError(twice->name),
                     ": got the name twice, allowed: once"));
  }
  for (const SafetensorsItem& item : items) {
    if (item.name == "__metadata__") {
      return BadItem(item, "got the metadata's key, allowed: another name");
    }
    QS_RETURN_IF_ERROR(ItemBytes(item).status());
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const auto& a, const auto& b) {
                     return Rank(a.dtype) < Rank(b.dtype);
                   });
  return absl::OkStatus();
}

// Throws when `text` is not UTF-8.
std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump();
}

std::string HeaderJson(const std::vector<SafetensorsItem>& items,
                       const std::map<std::string, std::string>& metadata) {
  std::string json = "{";
  const char* separator = "";
  if (!metadata.empty()) {
    absl::StrAppend(&json, "\"__metadata__\":{");
    for (const auto& [key, value] : metadata) {
      absl::StrAppend(&json, separator, Quoted(key), ":", Quoted(value));
      separator = ",";
    }
    absl::StrAppend(&json, "}");
  }
  int64_t begin = 0;
  for (const SafetensorsItem& item : items) {
    const int64_t end = begin + *ItemBytes(item);
    absl::StrAppend(&json, separator, Quoted(item.name), ":{\"dtype\":\"",
                    DTypeName(item.dtype), "\",\"shape\":[",
                    absl::StrJoin(item.shape, ","), "],\"data_offsets\":[",
                    begin, ",", end, "]}");
    separator = ",";
    begin = end;
  }
  json += "}";
  json.append((8 - json.size() % 8) % 8, ' ');
  return json;
}

absl::StatusOr<std::string> Header(
    const std::vector<SafetensorsItem>& items,
    const std::map<std::string, std::string>& metadata) {
  std::string json;
  try {
    json = HeaderJson(items, metadata);
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(
        "safetensors header: got ", e.what(), ", allowed: names in UTF-8"));
  }
  if (static_cast<int64_t>(json.size()) > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors header: got ", json.size(),
                     " bytes, allowed: at most ", kMaxHeaderBytes));
  }
  std::string length;
  for (int i = 0; i < 8; ++i) {
    length.push_back(static_cast<char>(json.size() >> (8 * i)));
  }
  return length + json;
}

}  // namespace

absl::Status StreamSafetensors(
    const std::string& path, std::vector<SafetensorsItem> items,
    const std::map<std::string, std::string>& metadata,
    const SafetensorsSource& source) {
  QS_RETURN_IF_ERROR(SortAndCheck(items));
  QS_ASSIGN_OR_RETURN(const std::string header, Header(items, metadata));
  QS_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  QS_RETURN_IF_ERROR(file.Append(header));
  for (const SafetensorsItem& item : items) {
    int64_t bytes = 0;
    const auto append = [&](std::span<const uint8_t> data) {
      bytes += static_cast<int64_t>(data.size());
      return file.Append(data);
    };
    QS_RETURN_IF_ERROR(source(item, append));
    QS_RETURN_IF_ERROR(CheckBytes(item, bytes));
  }
  return file.Commit();
}

absl::Status WriteSafetensors(
    const std::string& path, std::vector<SafetensorsItem> items,
    const std::map<std::string, std::string>& metadata) {
  for (const SafetensorsItem& item : items) {
    QS_RETURN_IF_ERROR(
        CheckBytes(item, static_cast<int64_t>(item.data.size())));
  }
  return StreamSafetensors(
      path, std::move(items), metadata,
      [](const SafetensorsItem& item, const AppendBytes& append) {
        return append(item.data);
      });
}

}  // namespace qs

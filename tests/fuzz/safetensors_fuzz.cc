// What reads files that nobody vouches for: headers, indexes, JSON, and the
// decoders of the packed formats. The first byte of an input chooses. Any
// input may be refused; none may crash, and what is accepted must hold what the
// headers of the readers promise.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/base/checked_math.h"
#include "quant/formats/awq_format.h"
#include "quant/formats/bitsandbytes.h"
#include "quant/formats/checkpoint.h"
#include "quant/formats/checkpoint_index.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/formats/file_opener.h"
#include "quant/formats/gptq_format.h"
#include "quant/formats/hqq_format.h"
#include "quant/formats/json.h"
#include "quant/formats/safetensors.h"

namespace qs {
namespace {

using Bytes = std::span<const uint8_t>;
using Items = std::map<std::string, SafetensorsItem>;
using Index = std::map<std::string, std::string>;

void Require(bool holds) {
  if (!holds) __builtin_trap();
}

std::string_view Text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The tensors fill the data section in order, each as large as its shape says.
void CheckHeader(const SafetensorsHeader& header, int64_t file_bytes) {
  int64_t filled = 0;
  for (const SafetensorsEntry& entry : header.tensors) {
    Require(entry.begin == filled && entry.end >= entry.begin);
    const auto count = CheckedNumElements(entry.shape);
    Require(count.has_value());
    Require(*count * DTypeBytes(entry.dtype) == entry.end - entry.begin);
    filled = entry.end;
  }
  Require(header.data_offset + filled == file_bytes);
}

void CheckDecoded(const absl::StatusOr<DecodedWeight>& decoded) {
  if (!decoded.ok()) return;
  const auto count = CheckedNumElements(decoded->shape);
  Require(count.has_value());
  Require(*count * DTypeBytes(decoded->dtype) == decoded->data.size());
}

// `name` without `end` and with ".weight" instead; empty: another end.
std::string WeightOf(const std::string& name, const std::string& end) {
  if (!name.ends_with(end)) return "";
  return name.substr(0, name.size() - end.size()) + ".weight";
}

void DecodeModule(const Items& items, const std::string& name,
                  const GridSpec& spec) {
  const std::string words = WeightOf(name, ".qweight");
  if (!words.empty()) {
    CheckDecoded(DecodeGptq(spec, GptqVersion::kV1, items, words));
    CheckDecoded(DecodeGptq(spec, GptqVersion::kV2, items, words));
    CheckDecoded(DecodeAwq(spec, items, words));
  }
  const std::string codes = WeightOf(name, ".W_q");
  if (!codes.empty()) CheckDecoded(DecodeHqq(items, codes));
}

// Every name that could be a weight's, in all formats.
void DecodeAll(const Items& items, const GridSpec& spec) {
  for (const auto& [name, item] : items) {
    CheckDecoded(DecodeBitsandbytes(items, name));
    DecodeModule(items, name, spec);
    const size_t packed = name.rfind("_packed");
    if (packed != name.npos) {
      CheckDecoded(
          DecodeCompressedTensors(spec, items, name.substr(0, packed)));
    }
  }
}

// A whole file; two bytes in front choose the scheme.
void FuzzFile(Bytes data) {
  if (data.size() < 2) return;
  const GridSpec spec{.bits = data[0] % 10,
                      .group_size = static_cast<int8_t>(data[1]),
                      .symmetric = data[0] < 128};
  const Bytes file = data.subspan(2);
  const auto size = static_cast<int64_t>(file.size());
  const auto header = ParseSafetensorsHeader(file, size);
  // The same header in front of more data than there is.
  (void)ParseSafetensorsHeader(file, size + (int64_t{1} << 40));
  if (!header.ok()) return;
  CheckHeader(*header, size);
  Items items;
  for (const SafetensorsEntry& entry : header->tensors) {
    items[entry.name] = {
        entry.name, entry.dtype, entry.shape,
        file.subspan(static_cast<size_t>(header->data_offset + entry.begin),
                     static_cast<size_t>(entry.end - entry.begin))};
  }
  Require(items.size() == header->tensors.size());  // no name twice
  if (items.size() <= 64) DecodeAll(items, spec);
}

// Files that exist in memory, by the path that they are asked for.
class MemoryFiles final : public FileOpener {
 public:
  absl::StatusOr<UniqueFd> Open(const std::string& path,
                                int /*flags*/) const override {
    const std::string& bytes = files.at(path);
    UniqueFd fd(memfd_create("shard", MFD_CLOEXEC));
    Require(fd.get() >= 0);
    Require(write(fd.get(), bytes.data(), bytes.size()) ==
            static_cast<ssize_t>(bytes.size()));
    return fd;
  }

  std::map<std::string, std::string> files;
};

// A file of these tensors, each without an element.
std::string EmptyTensorsFile(const std::vector<std::string>& names) {
  nlohmann::json header = nlohmann::json::object();
  for (const std::string& name : names) {
    header[name] = {{"dtype", "U8"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
  }
  const std::string text = header.dump();
  std::string file;
  for (size_t i = 0; i < 8; ++i) {
    file += static_cast<char>(text.size() >> (8 * i));
  }
  return file + text;
}

struct Shards {
  std::vector<SafetensorsFile> files;
  std::vector<std::string> names;
};

// What an index describes.
Shards ShardsOf(const Index& contents) {
  std::map<std::string, std::vector<std::string>> tensors;
  for (const auto& [tensor, shard] : contents) tensors[shard].push_back(tensor);
  const auto files = std::make_shared<MemoryFiles>();
  Shards shards;
  for (const auto& [shard, names] : tensors) {
    files->files[shard] = EmptyTensorsFile(names);
    auto file = SafetensorsFile::Open(shard, files);
    Require(file.ok());
    shards.files.push_back(*std::move(file));
    shards.names.push_back(shard);
  }
  return shards;
}

// An index agrees with shards just when it says of each tensor where it is.
void CheckAgreement(const Index& index, const Index& contents) {
  // No tensor has the metadata's name.
  if (contents.size() > 64 || contents.contains("__metadata__")) return;
  Shards shards = ShardsOf(contents);
  const bool agrees = CheckIndexAgrees(index, shards.files, shards.names).ok();
  Require(agrees == (index == contents));
  if (contents.empty()) return;
  Shards twice = ShardsOf({*contents.begin()});
  shards.files.push_back(std::move(twice.files[0]));
  shards.names.push_back("twice.safetensors");
  Require(!CheckIndexAgrees(index, shards.files, shards.names).ok());
}

// One index, or two with a NUL between them: what is said, and what is so.
void FuzzIndex(Bytes data) {
  const std::string_view text = Text(data);
  const size_t nul = text.find('\0');
  const auto index = ParseSafetensorsIndex(text.substr(0, nul));
  if (!index.ok()) return;
  for (const auto& [tensor, shard] : *index) {
    Require(shard.find('/') == shard.npos && shard[0] != '.');
  }
  CheckAgreement(*index, *index);
  if (nul != text.npos) {
    const auto contents = ParseSafetensorsIndex(text.substr(nul + 1));
    if (contents.ok()) CheckAgreement(*index, *contents);
  }
  const auto again = ParseSafetensorsIndex(SafetensorsIndexJson(*index, 7));
  Require(again.ok() && *again == *index);
}

void FuzzJson(Bytes data) {
  const std::string_view text = Text(data);
  (void)ParseJsonObject(text, "w",
                        {.max_bytes = 64, .max_depth = 3, .max_values = 8});
  const std::string quoted = QuoteForError(text);
  Require(quoted.size() <= 2 + 4 * 123);
  const auto json = ParseJsonObject(text, "w");
  if (!json.ok()) return;
  const auto again = ParseJsonObject(json->dump(), "w");
  Require(again.ok() && *again == *json);
}

// Two documents with a NUL between them.
void FuzzConfig(Bytes data) {
  const std::string_view text = Text(data);
  const size_t nul = text.find('\0');
  if (nul == text.npos) return;
  const auto merged =
      WithQuantizationConfig(text.substr(0, nul), text.substr(nul + 1));
  Require(!merged.ok() || ParseConfigJson(*merged, "w").ok());
}

// A quant_state for a weight of 129 elements, plain or nested.
void FuzzQuantState(Bytes data) {
  if (data.empty()) return;
  static constexpr uint8_t kZeros[1024] = {};
  const auto zeros = [](size_t count) { return Bytes(kZeros).first(count); };
  const bool nested = data[0] % 2 != 0;
  const Bytes state = data.subspan(1);
  Items items;
  const auto add = [&items](const std::string& name, DType dtype,
                            const std::vector<int64_t>& shape, Bytes bytes) {
    items[name] = {name, dtype, shape, bytes};
  };
  add("w", DType::kU8, {65, 1}, zeros(65));
  add("w.absmax", nested ? DType::kU8 : DType::kF32, {3},
      zeros(nested ? 3 : 12));
  add("w.quant_map", DType::kF32, {16}, zeros(64));
  if (nested) {
    add("w.nested_absmax", DType::kF32, {1}, zeros(4));
    add("w.nested_quant_map", DType::kF32, {256}, zeros(1024));
  }
  add("w.quant_state.bitsandbytes__nf4", DType::kU8,
      {static_cast<int64_t>(state.size())}, state);
  CheckDecoded(DecodeBitsandbytes(items, "w"));
}

}  // namespace
}  // namespace qs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::span<const uint8_t> rest(data + 1, size - 1);
  switch (data[0] % 5) {
    case 0:
      qs::FuzzFile(rest);
      break;
    case 1:
      qs::FuzzIndex(rest);
      break;
    case 2:
      qs::FuzzJson(rest);
      break;
    case 3:
      qs::FuzzConfig(rest);
      break;
    default:
      qs::FuzzQuantState(rest);
      break;
  }
  return 0;
}

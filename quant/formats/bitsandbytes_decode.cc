// Tested by tests/formats/bitsandbytes_test.cc,
// tests/formats/bitsandbytes_decode_test.cc and tests/fuzz/safetensors_fuzz.cc.
//
// Written from the file format alone: it is what the kernels' output is
// verified with, and only their codebooks are looked at, to compare.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/nf4_ops.h"
#include "quant/formats/bitsandbytes.h"
#include "quant/formats/json.h"
#include "quant/formats/stored_tensors.h"

namespace qs {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kNumLevels = 16;
constexpr JsonLimits kStateLimits = {.max_bytes = 65536, .max_depth = 2};
constexpr std::string_view kStatePrefix = ".quant_state.bitsandbytes__";

// What the quant_state says.
struct QuantState {
  int64_t block_size = 0;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t num_elements = 0;
  bool nested = false;
  int64_t nested_block_size = 0;
  float nested_offset = 0;

  int64_t num_blocks() const { return CeilDiv(num_elements, block_size); }
};

// Full name of the one quant_state. Refuses names that the library refuses.
absl::StatusOr<std::string> FindStateName(const StoredTensors& tensors,
                                          const std::string& name) {
  std::string state;
  const std::string prefix = name + ".";
  for (auto it = tensors.lower_bound(prefix);
       it != tensors.end() && it->first.starts_with(prefix); ++it) {
    const std::string_view part =
        std::string_view(it->first).substr(name.size());
    if (part == ".absmax" || part == ".quant_map" || part == ".nested_absmax" ||
        part == ".nested_quant_map") {
      continue;
    }
    if (!part.starts_with(kStatePrefix) || !state.empty()) {
      return StoredError(it->first, "this name",
                         "absmax, quant_map, nested_absmax, nested_quant_map "
                         "and one quant_state");
    }
    state = it->first;
  }
  if (state.empty()) {
    return StoredError(absl::StrCat(name, std::string(kStatePrefix), "nf4"),
                       "nothing", "one quant_state");
  }
  return state;
}

absl::StatusOr<int64_t> PositiveField(const Json& json, const std::string& name,
                                      const char* key) {
  constexpr uint64_t kMost = std::numeric_limits<int32_t>::max();
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number_unsigned() ||
      found->get<uint64_t>() == 0 || found->get<uint64_t>() > kMost) {
    return StoredError(
        name,
        absl::StrCat(key, " ",
                     found == json.end() ? "missing" : JsonForError(*found)),
        absl::StrCat("1 to ", kMost));
  }
  return static_cast<int64_t>(found->get<uint64_t>());
}

absl::Status CheckText(const Json& json, const std::string& name,
                       const char* key, const std::string& allowed) {
  const auto found = json.find(key);
  if (found != json.end() && found->is_string() &&
      found->get_ref<const std::string&>() == allowed) {
    return absl::OkStatus();
  }
  return StoredError(
      name,
      absl::StrCat(key, " ",
                   found == json.end() ? "missing" : JsonForError(*found)),
      allowed);
}

absl::StatusOr<DType> ParseTorchName(const Json& json,
                                     const std::string& name) {
  for (const auto& [text, dtype] :
       {std::pair("float32", DType::kF32), std::pair("float16", DType::kF16),
        std::pair("bfloat16", DType::kBF16)}) {
    if (CheckText(json, name, "dtype", text).ok()) return dtype;
  }
  return CheckText(json, name, "dtype", "float32, float16 or bfloat16");
}

absl::Status ParseShape(const Json& json, const std::string& name,
                        QuantState* state) {
  const auto found = json.find("shape");
  bool fits = found != json.end() && found->is_array();
  if (fits) {
    for (const Json& item : *found) {
      fits = fits && item.is_number_unsigned() &&
             item.get<uint64_t>() <= std::numeric_limits<int32_t>::max();
      if (fits) state->shape.push_back(item.get<int64_t>());
    }
  }
  const std::optional<int64_t> count = CheckedNumElements(state->shape);
  // Room for F32 as well.
  if (!fits || !count || !CheckedMul(*count, 4)) {
    return StoredError(name, "a shape that is none",
                       "an array of integers that fit memory");
  }
  state->num_elements = *count;
  return absl::OkStatus();
}

absl::Status ParseNested(const Json& json, const std::string& name,
                         QuantState* state) {
  QS_ASSIGN_OR_RETURN(state->nested_block_size,
                      PositiveField(json, name, "nested_blocksize"));
  QS_RETURN_IF_ERROR(CheckText(json, name, "nested_dtype", "float32"));
  const auto offset = json.find("nested_offset");
  if (offset == json.end() || !offset->is_number() ||
      !std::isfinite(offset->get<float>())) {
    return StoredError(name, "no finite nested_offset", "a number");
  }
  state->nested_offset = offset->get<float>();
  return absl::OkStatus();
}

absl::StatusOr<QuantState> ParseState(const StoredTensors& tensors,
                                      const std::string& name) {
  QS_ASSIGN_OR_RETURN(const std::string full, FindStateName(tensors, name));
  QS_ASSIGN_OR_RETURN(const SafetensorsItem* item, FindStored(tensors, full));
  if (item->dtype != DType::kU8) {
    return StoredError(full, DTypeName(item->dtype), "U8");
  }
  const std::string_view text(reinterpret_cast<const char*>(item->data.data()),
                              item->data.size());
  QS_ASSIGN_OR_RETURN(const Json json,
                      ParseJsonObject(text, full, kStateLimits));
  const std::string kind = full.substr(name.size() + kStatePrefix.size());
  if (kind != "nf4" && kind != "fp4") {
    return StoredError(full, QuoteForError(kind), "nf4 or fp4");
  }
  QS_RETURN_IF_ERROR(CheckText(json, full, "quant_type", kind));
  QuantState state;
  QS_ASSIGN_OR_RETURN(state.block_size, PositiveField(json, full, "blocksize"));
  QS_ASSIGN_OR_RETURN(state.dtype, ParseTorchName(json, full));
  QS_RETURN_IF_ERROR(ParseShape(json, full, &state));
  state.nested = tensors.contains(name + ".nested_absmax");
  if (state.nested) QS_RETURN_IF_ERROR(ParseNested(json, full, &state));
  return state;
}

// absmax of every block, decoded where it is coded itself.
class AbsmaxReader {
 public:
  static absl::StatusOr<AbsmaxReader> Open(const StoredTensors& tensors,
                                           const std::string& name,
                                           const QuantState& state) {
    AbsmaxReader reader(state);
    const int64_t blocks = state.num_blocks();
    QS_ASSIGN_OR_RETURN(
        reader.stored_,
        StoredBytes(tensors, name + ".absmax",
                    state.nested ? DType::kU8 : DType::kF32, {blocks}));
    if (!state.nested) return reader;
    QS_ASSIGN_OR_RETURN(
        reader.scales_,
        StoredBytes(tensors, name + ".nested_absmax", DType::kF32,
                    {CeilDiv(blocks, state.nested_block_size)}));
    QS_ASSIGN_OR_RETURN(
        reader.map_,
        StoredBytes(tensors, name + ".nested_quant_map", DType::kF32, {256}));
    return reader;
  }

  float At(int64_t block) const {
    if (!nested_) return LoadAt<float>(stored_, block);
    const float scaled =
        LoadAt<float>(map_, stored_[static_cast<size_t>(block)]) *
        LoadAt<float>(scales_, block / nested_block_size_);
    return scaled + nested_offset_;
  }

 private:
  explicit AbsmaxReader(const QuantState& state)
      : nested_(state.nested),
        nested_block_size_(state.nested_block_size),
        nested_offset_(state.nested_offset) {}

  bool nested_;
  int64_t nested_block_size_;
  float nested_offset_;
  std::span<const uint8_t> stored_;
  std::span<const uint8_t> scales_;
  std::span<const uint8_t> map_;
};

// The nibble behind an odd number of codes is a code of 0.0, or 0 where the
// last block is all zero.
absl::Status CheckLastNibble(const SafetensorsItem& weight, int64_t n,
                             std::span<const uint8_t> map) {
  if (n % 2 == 0) return absl::OkStatus();
  const int code = weight.data.back() & 15;
  if (code == 0 || LoadAt<float>(map, code) == 0) return absl::OkStatus();
  return StoredError(weight.name,
                     absl::StrCat("code ", code, " behind the last element"),
                     "a code of zero");
}

absl::Status Differs(const std::string& name, const char* what) {
  return absl::InternalError(absl::StrCat("tensor \"", name, "\": the packed ",
                                          what, " does not read back"));
}

}  // namespace

absl::Status VerifyBitsandbytes(const std::vector<OutputTensor>& tensors,
                                const Nf4Spec& spec, DType dtype,
                                const std::vector<int64_t>& shape,
                                std::span<const float> absmax) {
  const std::string& name = tensors.front().name;
  StoredTensors stored;
  for (size_t i = 1; i < tensors.size(); ++i) {
    const OutputTensor& tensor = tensors[i];
    stored[tensor.name] = {
        tensor.name, tensor.dtype, tensor.shape,
        std::span(tensor.data.data(), static_cast<size_t>(tensor.data.size()))};
  }
  const absl::StatusOr<QuantState> state = ParseState(stored, name);
  if (!state.ok() || state->block_size != spec.block_size ||
      state->dtype != dtype || state->shape != shape ||
      state->nested != spec.double_quant) {
    return Differs(name, "quant_state");
  }
  const auto map =
      StoredBytes(stored, name + ".quant_map", DType::kF32, {kNumLevels});
  const size_t map_bytes = kNumLevels * sizeof(float);
  if (!map.ok() ||
      std::memcmp(map->data(), CodebookLevels(spec.codebook), map_bytes) != 0) {
    return Differs(name, "quant_map");
  }
  const auto reader = AbsmaxReader::Open(stored, name, *state);
  if (!reader.ok()) return Differs(name, "absmax");
  for (size_t i = 0; i < absmax.size(); ++i) {
    if (reader->At(static_cast<int64_t>(i)) != absmax[i]) {
      return Differs(name, "absmax");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<DecodedWeight> DecodeBitsandbytes(
    const std::map<std::string, SafetensorsItem>& tensors,
    const std::string& name) {
  QS_ASSIGN_OR_RETURN(QuantState state, ParseState(tensors, name));
  QS_ASSIGN_OR_RETURN(const SafetensorsItem* weight, FindStored(tensors, name));
  const int64_t n = state.num_elements;
  // The library may store the bytes as another dtype.
  if (static_cast<int64_t>(weight->data.size()) != CeilDiv(n, 2)) {
    return StoredError(name, absl::StrCat(weight->data.size(), " bytes"),
                       absl::StrCat(CeilDiv(n, 2), ", by its quant_state"));
  }
  QS_ASSIGN_OR_RETURN(const AbsmaxReader absmax,
                      AbsmaxReader::Open(tensors, name, state));
  QS_ASSIGN_OR_RETURN(const auto map, StoredBytes(tensors, name + ".quant_map",
                                                  DType::kF32, {kNumLevels}));
  QS_RETURN_IF_ERROR(CheckLastNibble(*weight, n, map));
  DecodedWeight decoded{state.dtype, std::move(state.shape), {}};
  QS_ASSIGN_OR_RETURN(decoded.data,
                      Buffer::Allocate(n * DTypeBytes(decoded.dtype)));
  for (int64_t block = 0; block < state.num_blocks(); ++block) {
    const float scale = absmax.At(block);
    const int64_t end = std::min(n, (block + 1) * state.block_size);
    for (int64_t i = block * state.block_size; i < end; ++i) {
      const uint8_t pair = weight->data[static_cast<size_t>(i / 2)];
      const int code = i % 2 == 0 ? pair >> 4 : pair & 15;
      StoreFromFloat(decoded.data.data(), decoded.dtype, i,
                     LoadAt<float>(map, code) * scale);
    }
  }
  return decoded;
}

}  // namespace qs

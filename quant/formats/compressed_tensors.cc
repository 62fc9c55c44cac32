// Tested by tests/formats/compressed_tensors_test.cc and
// tests/fuzz/safetensors_fuzz.cc.
//
// The decoder is written from the file format alone, without the kernels: it is
// what their output is verified with.
#include "quant/formats/compressed_tensors.h"

#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "quant/formats/stored_tensors.h"

namespace qs {
namespace {

int64_t Words(int64_t count, int bits) { return CeilDiv(count * bits, 32); }

int64_t NumGroups(const GridSpec& grid, int64_t cols) {
  return grid.group_size < 0 ? 1 : CeilDiv(cols, grid.group_size);
}

struct PackedTensors {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t groups = 0;
  DType dtype = DType::kF32;
  std::span<const uint8_t> words;
  std::span<const uint8_t> scales;
  std::span<const uint8_t> zero_point_words;  // empty when symmetric
};

}  // namespace

absl::Status CheckCompressedTensorsGrid(const GridSpec& grid) {
  if (grid.bits < 1 || grid.bits > 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits: got ", grid.bits, ", allowed: 1 to 8"));
  }
  if (grid.group_size == 0 || grid.group_size < -1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "group_size: got ", grid.group_size, ", allowed: -1, 1 or more"));
  }
  return absl::OkStatus();
}

namespace {

absl::Status ReadShape(const StoredTensors& tensors, const std::string& name,
                       PackedTensors* packed) {
  QS_ASSIGN_OR_RETURN(const auto shape,
                      StoredBytes(tensors, name + "_shape", DType::kI64, {2}));
  packed->rows = LoadAt<int64_t>(shape, 0);
  packed->cols = LoadAt<int64_t>(shape, 1);
  const std::optional<int64_t> count =
      CheckedNumElements(std::vector<int64_t>{packed->rows, packed->cols});
  // Room for the bits, whose count is the largest number below.
  if (!count || *count == 0 || !CheckedMul(*count, 8)) {
    return StoredError(name + "_shape",
                       absl::StrCat(packed->rows, ", ", packed->cols),
                       "[out, in] of a tensor that fits memory");
  }
  return absl::OkStatus();
}

absl::StatusOr<PackedTensors> ReadPacked(const GridSpec& grid,
                                         const StoredTensors& tensors,
                                         const std::string& name) {
  PackedTensors packed;
  QS_RETURN_IF_ERROR(ReadShape(tensors, name, &packed));
  packed.groups = NumGroups(grid, packed.cols);
  QS_ASSIGN_OR_RETURN(
      packed.words, StoredBytes(tensors, name + "_packed", DType::kI32,
                                {packed.rows, Words(packed.cols, grid.bits)}));
  const std::string scale_name = name + "_scale";
  QS_ASSIGN_OR_RETURN(const SafetensorsItem* scale,
                      FindStored(tensors, scale_name));
  if (!IsFloatWeight(scale->dtype)) {
    return StoredError(scale_name, DTypeName(scale->dtype), "F32, F16, BF16");
  }
  packed.dtype = scale->dtype;
  QS_ASSIGN_OR_RETURN(packed.scales,
                      StoredBytes(tensors, scale_name, packed.dtype,
                                  {packed.rows, packed.groups}));
  const std::string zero_name = name + "_zero_point";
  if (!grid.symmetric) {
    QS_ASSIGN_OR_RETURN(
        packed.zero_point_words,
        StoredBytes(tensors, zero_name, DType::kI32,
                    {Words(packed.rows, grid.bits), packed.groups}));
  } else if (tensors.contains(zero_name)) {
    return StoredError(zero_name, "a tensor", "none, the scheme is symmetric");
  }
  return packed;
}

// Value `i` of a bit stream whose words stand `stride` words apart, the first
// at `first`; unsigned as stored, minus 2^(bits-1).
int SignedCode(std::span<const uint8_t> words, int64_t first, int64_t stride,
               int bits, int64_t i) {
  int code = 0;
  for (int b = 0; b < bits; ++b) {
    const int64_t at = i * bits + b;
    const auto word = LoadAt<uint32_t>(words, first + at / 32 * stride);
    code |= static_cast<int>(word >> (at % 32) & 1u) << b;
  }
  return code - (1 << (bits - 1));
}

// The bits behind the last value of a stream of `count` values.
bool HasStrayBits(std::span<const uint8_t> words, int64_t first, int64_t stride,
                  int bits, int64_t count) {
  const int64_t used = count * bits;
  if (used % 32 == 0) return false;
  return LoadAt<uint32_t>(words, first + used / 32 * stride) >> (used % 32) !=
         0;
}

// They carry nothing, so a value there is damage that decoding cannot show.
absl::Status CheckStrayBits(const GridSpec& grid, const PackedTensors& p,
                            const std::string& name) {
  for (int64_t row = 0; row < p.rows; ++row) {
    if (HasStrayBits(p.words, row * Words(p.cols, grid.bits), 1, grid.bits,
                     p.cols)) {
      return StoredError(name + "_packed",
                         absl::StrCat("bits behind the codes of row ", row),
                         "zeros there");
    }
  }
  if (grid.symmetric) return absl::OkStatus();
  for (int64_t group = 0; group < p.groups; ++group) {
    if (HasStrayBits(p.zero_point_words, group, p.groups, grid.bits, p.rows)) {
      return StoredError(
          name + "_zero_point",
          absl::StrCat("bits behind the zero points of group ", group),
          "zeros there");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DecodedWeight> DecodeCompressedTensors(
    const GridSpec& grid, const std::map<std::string, SafetensorsItem>& tensors,
    const std::string& name) {
  QS_RETURN_IF_ERROR(CheckCompressedTensorsGrid(grid));
  QS_ASSIGN_OR_RETURN(const PackedTensors p, ReadPacked(grid, tensors, name));
  QS_RETURN_IF_ERROR(CheckStrayBits(grid, p, name));
  DecodedWeight decoded{p.dtype, {p.rows, p.cols}, {}};
  QS_ASSIGN_OR_RETURN(decoded.data,
                      Buffer::Allocate(p.rows * p.cols * DTypeBytes(p.dtype)));
  const int64_t row_words = Words(p.cols, grid.bits);
  const int64_t group_size = grid.group_size < 0 ? p.cols : grid.group_size;
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t col = 0; col < p.cols; ++col) {
      const int64_t group = col / group_size;
      const int code = SignedCode(p.words, row * row_words, 1, grid.bits, col);
      const int zero_point =
          grid.symmetric
              ? 0
              : SignedCode(p.zero_point_words, group, p.groups, grid.bits, row);
      const float scale =
          LoadStoredFloat(p.scales, p.dtype, row * p.groups + group);
      StoreFromFloat(decoded.data.data(), p.dtype, row * p.cols + col,
                     static_cast<float>(code - zero_point) * scale);
    }
  }
  return decoded;
}

absl::StatusOr<std::vector<OutputTensor>> CompressedTensors(
    const GridSpec& grid, const std::string& name, DType dtype, int64_t rows,
    int64_t cols, AffinePieces pieces) {
  if (!absl::EndsWith(name, ".weight")) {
    return StoredError(name, "this name", "one that ends in .weight");
  }
  const int64_t groups = NumGroups(grid, cols);
  const int64_t shape[2] = {rows, cols};
  QS_ASSIGN_OR_RETURN(Buffer stored_shape, CopyToBuffer(shape, sizeof(shape)));
  std::vector<OutputTensor> tensors;
  tensors.push_back({name + "_packed",
                     DType::kI32,
                     {rows, Words(cols, grid.bits)},
                     std::move(pieces.words)});
  tensors.push_back(
      {name + "_scale", dtype, {rows, groups}, std::move(pieces.scales)});
  if (!grid.symmetric) {
    tensors.push_back({name + "_zero_point",
                       DType::kI32,
                       {Words(rows, grid.bits), groups},
                       std::move(pieces.zero_point_words)});
  }
  tensors.push_back(
      {name + "_shape", DType::kI64, {2}, std::move(stored_shape)});
  return tensors;
}

int64_t CompressedTensorsBytes(const GridSpec& grid, DType dtype, int64_t rows,
                               int64_t cols) {
  const int64_t groups = NumGroups(grid, cols);
  const int64_t word = DTypeBytes(DType::kI32);
  const int64_t zeros =
      grid.symmetric ? 0 : Words(rows, grid.bits) * groups * word;
  return rows * Words(cols, grid.bits) * word +
         rows * groups * DTypeBytes(dtype) + zeros +
         2 * DTypeBytes(DType::kI64);
}

namespace {

using Json = nlohmann::ordered_json;

Json GroupJson(const CompressedTensorsGroup& of) {
  const GridSpec& grid = of.grid;
  const bool channel = grid.group_size < 0;
  Json weights;
  weights["actorder"] = nullptr;
  weights["dynamic"] = false;
  weights["group_size"] = channel ? Json(nullptr) : Json(grid.group_size);
  weights["num_bits"] = grid.bits;
  weights["strategy"] = channel ? "channel" : "group";
  weights["symmetric"] = grid.symmetric;
  weights["type"] = "int";
  Json group;
  group["input_activations"] = nullptr;
  group["output_activations"] = nullptr;
  group["targets"] = of.targets;
  group["weights"] = std::move(weights);
  return group;
}

}  // namespace

std::string CompressedTensorsConfigJson(
    const std::vector<CompressedTensorsGroup>& groups,
    const std::vector<std::string>& ignore) {
  Json config;
  for (size_t i = 0; i < groups.size(); ++i) {
    config["config_groups"][absl::StrCat("group_", i)] = GroupJson(groups[i]);
  }
  config["format"] = "pack-quantized";
  config["global_compression_ratio"] = nullptr;
  config["ignore"] = ignore;
  config["kv_cache_scheme"] = nullptr;
  config["quant_method"] = "compressed-tensors";
  config["quantization_status"] = "compressed";
  return config.dump(-1, ' ', true, Json::error_handler_t::replace);
}

}  // namespace qs

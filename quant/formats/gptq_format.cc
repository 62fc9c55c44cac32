// Tested by tests/formats/gptq_format_test.cc and
// tests/fuzz/safetensors_fuzz.cc.
//
// The reader is written from the file format alone, without the kernels: it is
// what their output is verified with.
#include "quant/formats/gptq_format.h"

#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/grid_pieces.h"
#include "quant/formats/json.h"

namespace qs {
namespace {

constexpr int64_t kWordBits = 32;

absl::Status CheckGrid(const GridSpec& grid) {
  if (grid.bits != 2 && grid.bits != 3 && grid.bits != 4 && grid.bits != 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits: got ", grid.bits, ", allowed: 2, 3, 4, 8"));
  }
  if (grid.group_size == 0 || grid.group_size < -1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "group_size: got ", grid.group_size, ", allowed: -1, 1 or more"));
  }
  return absl::OkStatus();
}

// Value `i` of a bit stream whose words stand `stride` apart.
uint32_t StreamValue(std::span<const uint8_t> words, int64_t first,
                     int64_t stride, int bits, int64_t i) {
  const int64_t word = first + i * bits / kWordBits * stride;
  const int64_t shift = i * bits % kWordBits;
  uint32_t value = LoadAt<uint32_t>(words, word) >> shift;
  if (shift + bits > kWordBits) {
    value |= LoadAt<uint32_t>(words, word + stride) << (kWordBits - shift);
  }
  return value & ((uint32_t{1} << bits) - 1);
}

// The tensors of one weight, their shapes checked.
struct Packed {
  std::string module;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t groups = 0;
  DType scale_dtype = DType::kF16;
  std::span<const uint8_t> qweight, qzeros, scales, g_idx;
};

// rows and cols, from the shapes of qweight and g_idx.
absl::Status ReadSizes(const StoredTensors& tensors, int bits, Packed* packed) {
  const std::string name = packed->module + ".qweight";
  QS_ASSIGN_OR_RETURN(const SafetensorsItem* words, FindStored(tensors, name));
  const std::string index_name = packed->module + ".g_idx";
  QS_ASSIGN_OR_RETURN(const SafetensorsItem* index,
                      FindStored(tensors, index_name));
  if (words->shape.size() != 2 || index->shape.size() != 1) {
    return StoredError(name, "other dimensions",
                       "[in * bits / 32, out], with a .g_idx [in]");
  }
  packed->rows = words->shape[1];
  packed->cols = index->shape[0];
  const std::optional<int64_t> elements =
      CheckedMul(packed->rows, packed->cols);
  const std::optional<int64_t> bits_of_all =
      elements ? CheckedMul(*elements, kWordBits) : std::nullopt;
  const int64_t whole = bits == 3 ? kWordBits : kWordBits / bits;
  if (!bits_of_all || *elements < 1 || packed->rows % whole != 0 ||
      packed->cols % whole != 0) {
    return StoredError(
        name, absl::StrCat(packed->rows, " rows of ", packed->cols, " columns"),
        absl::StrCat("multiples of ", whole, " in both"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Packed> ReadPacked(const GridSpec& grid,
                                  const StoredTensors& tensors,
                                  const std::string& name) {
  Packed p;
  QS_ASSIGN_OR_RETURN(p.module, grid::ModuleOf(name));
  QS_RETURN_IF_ERROR(ReadSizes(tensors, grid.bits, &p));
  p.groups = grid::NumGroups(grid, p.cols);
  QS_ASSIGN_OR_RETURN(p.qweight,
                      StoredBytes(tensors, p.module + ".qweight", DType::kI32,
                                  {p.cols * grid.bits / kWordBits, p.rows}));
  QS_ASSIGN_OR_RETURN(p.qzeros,
                      StoredBytes(tensors, p.module + ".qzeros", DType::kI32,
                                  {p.groups, p.rows * grid.bits / kWordBits}));
  const std::string scale_name = p.module + ".scales";
  QS_ASSIGN_OR_RETURN(p.scale_dtype, grid::ScaleDType(tensors, scale_name));
  QS_ASSIGN_OR_RETURN(p.scales, StoredBytes(tensors, scale_name, p.scale_dtype,
                                            {p.groups, p.rows}));
  QS_RETURN_IF_ERROR(grid::CheckScales(p.scales, p.scale_dtype, scale_name));
  QS_ASSIGN_OR_RETURN(p.g_idx, StoredBytes(tensors, p.module + ".g_idx",
                                           DType::kI32, {p.cols}));
  return p;
}

absl::Status ReadZeros(const Packed& p, int bits, GptqVersion version,
                       uint8_t* zeros) {
  const bool v1 = version == GptqVersion::kV1;
  const uint32_t last = (uint32_t{1} << bits) - 1;
  const int64_t words = p.rows * bits / kWordBits;
  for (int64_t g = 0; g < p.groups; ++g) {
    for (int64_t r = 0; r < p.rows; ++r) {
      const uint32_t field = StreamValue(p.qzeros, g * words, 1, bits, r);
      if (v1 && field == last) {
        return StoredError(
            p.module + ".qzeros",
            absl::StrCat(last, " in group ", g, ", row ", r),
            absl::StrCat("at most ", last - 1,
                         ": v1 stores zero points minus 1, and readers "
                         "disagree about a zero point of 0"));
      }
      zeros[r * p.groups + g] = static_cast<uint8_t>(field + (v1 ? 1 : 0));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckGroupIndex(const Packed& p) {
  for (int64_t col = 0; col < p.cols; ++col) {
    const auto group = LoadAt<int32_t>(p.g_idx, col);
    if (group < 0 || group >= p.groups) {
      return StoredError(p.module + ".g_idx",
                         absl::StrCat(group, " for column ", col),
                         absl::StrCat("0 to ", p.groups - 1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Buffer> ReadCodes(const Packed& p, int bits) {
  QS_ASSIGN_OR_RETURN(Buffer by_column, Buffer::Allocate(p.rows * p.cols));
  for (int64_t col = 0; col < p.cols; ++col) {
    uint8_t* codes = by_column.data() + col * p.rows;
    for (int64_t row = 0; row < p.rows; ++row) {
      codes[row] =
          static_cast<uint8_t>(StreamValue(p.qweight, row, p.rows, bits, col));
    }
  }
  QS_ASSIGN_OR_RETURN(Buffer codes, Buffer::Allocate(p.rows * p.cols));
  grid::Transpose(by_column.data(), p.cols, p.rows, p.rows, codes.data(),
                  p.cols);
  return codes;
}

}  // namespace

int64_t GptqFileLayout::groups() const {
  return grid::NumGroups(grid, shape.cols);
}

absl::Status CheckGptqLayout(const GptqFileLayout& layout) {
  QS_RETURN_IF_ERROR(CheckGrid(layout.grid));
  QS_RETURN_IF_ERROR(grid::ModuleOf(layout.shape.name).status());
  const int bits = layout.grid.bits;
  const int64_t whole = bits == 3 ? kWordBits : kWordBits / bits;
  if (layout.shape.rows % whole == 0 && layout.shape.cols % whole == 0) {
    return absl::OkStatus();
  }
  return StoredError(
      layout.shape.name,
      absl::StrCat("shape [", layout.shape.rows, ", ", layout.shape.cols, "]"),
      absl::StrCat("multiples of ", whole, " in both for ", bits,
                   "-bit GPTQ files"));
}

int64_t GptqOutputBytes(const GptqFileLayout& layout) {
  const int64_t rows = layout.shape.rows;
  const int64_t cols = layout.shape.cols;
  const int64_t word = DTypeBytes(DType::kI32);
  const int bits = layout.grid.bits;
  return cols * bits / kWordBits * rows * word +
         layout.groups() * (rows * bits / kWordBits) * word +
         layout.groups() * rows * DTypeBytes(DType::kF16) + cols * word;
}

absl::StatusOr<GptqWeight> ReadGptq(const GridSpec& grid, GptqVersion version,
                                    const StoredTensors& tensors,
                                    const std::string& name) {
  QS_RETURN_IF_ERROR(CheckGrid(grid));
  QS_ASSIGN_OR_RETURN(const Packed p, ReadPacked(grid, tensors, name));
  QS_RETURN_IF_ERROR(CheckGroupIndex(p));
  GptqWeight weight;
  weight.rows = p.rows;
  weight.cols = p.cols;
  weight.groups = p.groups;
  weight.scale_dtype = p.scale_dtype;
  QS_ASSIGN_OR_RETURN(weight.zero_points, Buffer::Allocate(p.rows * p.groups));
  QS_RETURN_IF_ERROR(
      ReadZeros(p, grid.bits, version, weight.zero_points.data()));
  QS_ASSIGN_OR_RETURN(
      weight.scales,
      grid::TransposedScales(p.scales, p.scale_dtype, p.rows, p.groups));
  QS_ASSIGN_OR_RETURN(weight.codes, ReadCodes(p, grid.bits));
  QS_ASSIGN_OR_RETURN(
      weight.g_idx,
      CopyToBuffer(p.g_idx.data(), static_cast<int64_t>(p.g_idx.size())));
  return weight;
}

absl::StatusOr<DecodedWeight> DecodeGptq(const GridSpec& grid,
                                         GptqVersion version,
                                         const StoredTensors& tensors,
                                         const std::string& name, DType dtype) {
  QS_ASSIGN_OR_RETURN(const GptqWeight w,
                      ReadGptq(grid, version, tensors, name));
  DecodedWeight decoded{dtype, {w.rows, w.cols}, {}};
  QS_ASSIGN_OR_RETURN(decoded.data,
                      Buffer::Allocate(w.rows * w.cols * DTypeBytes(dtype)));
  const auto* g_idx = w.g_idx.As<int32_t>();
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t col = 0; col < w.cols; ++col) {
      const int64_t group = row * w.groups + g_idx[col];
      const int code = w.codes.data()[row * w.cols + col];
      const int zero = w.zero_points.data()[group];
      const float scale = LoadAsFloat(w.scales.data(), w.scale_dtype, group);
      StoreFromFloat(decoded.data.data(), dtype, row * w.cols + col,
                     static_cast<float>(code - zero) * scale);
    }
  }
  return decoded;
}

GptqConfig GptqConfigOf(const GptqSpec& spec) {
  GptqConfig config;
  config.desc_act = spec.order == ColumnOrder::kActOrder;
  config.static_groups = spec.order == ColumnOrder::kActOrderStatic;
  config.damping = spec.damping;
  return config;
}

std::string RegexEscape(std::string_view text) {
  constexpr std::string_view kSpecials = "\\^$.|?*+()[]{}";
  std::string out;
  for (const char c : text) {
    if (kSpecials.find(c) != kSpecials.npos) out += '\\';
    out += c;
  }
  return out;
}

std::string GptqConfigJson(const GridSpec& grid, GptqVersion version,
                           const GptqConfig& config) {
  using Json = nlohmann::ordered_json;
  Json json;
  json["bits"] = grid.bits;
  json["checkpoint_format"] = version == GptqVersion::kV1 ? "gptq" : "gptq_v2";
  json["damp_percent"] = config.damping;
  json["desc_act"] = config.desc_act;
  if (!config.skip_modules.empty()) {
    Json& dynamic = json["dynamic"] = Json::object();
    for (const std::string& name : config.skip_modules) {
      dynamic["-:^" + RegexEscape(name) + "$"] = Json::object();
    }
    for (const std::string& expression : config.skip_expressions) {
      dynamic["-:" + expression] = Json::object();
    }
  }
  json["group_size"] = grid.group_size;
  json["lm_head"] = false;
  if (!config.quantized_modules.empty()) {
    json["modules_in_block_to_quantize"] = {config.quantized_modules};
  }
  json["pack_dtype"] = "int32";
  json["quant_method"] = "gptq";
  json["static_groups"] = config.static_groups;
  json["sym"] = grid.symmetric;
  json["true_sequential"] = false;
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

}  // namespace qs

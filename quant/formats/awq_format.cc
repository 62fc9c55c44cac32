// Tested by tests/formats/awq_format_test.cc and
// tests/fuzz/safetensors_fuzz.cc.
//
// The reader is written from the file format alone: it is what the writer's
// output is verified with.
#include "quant/formats/awq_format.h"

#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/grid_pieces.h"
#include "quant/formats/json.h"

namespace qs {
namespace {

constexpr int64_t kPerWord = 8;
// The nibble of each row of a word's eight.
constexpr std::array<int, 8> kNibble = {0, 4, 1, 5, 2, 6, 3, 7};

absl::Status CheckGrid(const GridSpec& grid) {
  if (grid.bits != 4) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits: got ", grid.bits, ", allowed: 4"));
  }
  if (grid.group_size == 0 || grid.group_size < -1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "group_size: got ", grid.group_size, ", allowed: -1, 1 or more"));
  }
  return absl::OkStatus();
}

struct Packed {
  std::string module;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t groups = 0;
  DType scale_dtype = DType::kF16;
  std::span<const uint8_t> qweight, qzeros, scales;
};

absl::Status ReadSizes(const GridSpec& grid, const StoredTensors& tensors,
                       Packed* packed) {
  const std::string name = packed->module + ".qweight";
  QS_ASSIGN_OR_RETURN(const SafetensorsItem* words, FindStored(tensors, name));
  if (words->shape.size() != 2) {
    return StoredError(name, "other dimensions", "[in, out / 8]");
  }
  const std::optional<int64_t> rows = CheckedMul(words->shape[1], kPerWord);
  packed->cols = words->shape[0];
  const std::optional<int64_t> elements =
      rows ? CheckedMul(*rows, packed->cols) : std::nullopt;
  if (!elements || *elements < 1) {
    return StoredError(
        name, absl::StrCat("[", words->shape[0], ", ", words->shape[1], "]"),
        "[in, out / 8] of a tensor that fits memory");
  }
  packed->rows = *rows;
  if (grid.group_size > 0 && packed->cols % grid.group_size != 0) {
    return StoredError(
        name, absl::StrCat(packed->cols, " columns"),
        absl::StrCat("a multiple of group_size ", grid.group_size));
  }
  return absl::OkStatus();
}

absl::StatusOr<Packed> ReadPacked(const GridSpec& grid,
                                  const StoredTensors& tensors,
                                  const std::string& name) {
  Packed p;
  QS_ASSIGN_OR_RETURN(p.module, grid::ModuleOf(name));
  QS_RETURN_IF_ERROR(ReadSizes(grid, tensors, &p));
  p.groups = grid::NumGroups(grid, p.cols);
  QS_ASSIGN_OR_RETURN(p.qweight,
                      StoredBytes(tensors, p.module + ".qweight", DType::kI32,
                                  {p.cols, p.rows / kPerWord}));
  QS_ASSIGN_OR_RETURN(p.qzeros,
                      StoredBytes(tensors, p.module + ".qzeros", DType::kI32,
                                  {p.groups, p.rows / kPerWord}));
  const std::string scale_name = p.module + ".scales";
  QS_ASSIGN_OR_RETURN(p.scale_dtype, grid::ScaleDType(tensors, scale_name));
  QS_ASSIGN_OR_RETURN(p.scales, StoredBytes(tensors, scale_name, p.scale_dtype,
                                            {p.groups, p.rows}));
  QS_RETURN_IF_ERROR(grid::CheckScales(p.scales, p.scale_dtype, scale_name));
  return p;
}

// Words [lines, rows / 8] to values [rows, lines].
absl::StatusOr<Buffer> Unpack(std::span<const uint8_t> words, int64_t lines,
                              int64_t rows) {
  QS_ASSIGN_OR_RETURN(Buffer by_line, Buffer::Allocate(lines * rows));
  for (int64_t i = 0; i < lines * rows / kPerWord; ++i) {
    const auto word = LoadAt<uint32_t>(words, i);
    for (size_t j = 0; j < kNibble.size(); ++j) {
      by_line.data()[i * kPerWord + static_cast<int64_t>(j)] =
          static_cast<uint8_t>(word >> (4 * kNibble[j]) & 15);
    }
  }
  QS_ASSIGN_OR_RETURN(Buffer values, Buffer::Allocate(lines * rows));
  grid::Transpose(by_line.data(), lines, rows, rows, values.data(), lines);
  return values;
}

}  // namespace

int64_t AwqLayout::groups() const { return grid::NumGroups(grid, shape.cols); }

absl::Status CheckAwqLayout(const AwqLayout& layout) {
  QS_RETURN_IF_ERROR(CheckGrid(layout.grid));
  QS_RETURN_IF_ERROR(grid::ModuleOf(layout.shape.name).status());
  const int64_t size = layout.grid.group_size;
  if (layout.shape.rows % kPerWord == 0 &&
      (size < 0 || layout.shape.cols % size == 0)) {
    return absl::OkStatus();
  }
  return StoredError(
      layout.shape.name,
      absl::StrCat("shape [", layout.shape.rows, ", ", layout.shape.cols, "]"),
      absl::StrCat("rows in multiples of 8 and columns in multiples of "
                   "group_size ",
                   size, " for AWQ files"));
}

int64_t AwqOutputBytes(const AwqLayout& layout) {
  const int64_t row_bytes =
      layout.shape.rows / kPerWord * DTypeBytes(DType::kI32);
  return (layout.shape.cols + layout.groups()) * row_bytes +
         layout.groups() * layout.shape.rows * DTypeBytes(DType::kF16);
}

absl::StatusOr<AwqWeight> ReadAwq(const GridSpec& grid,
                                  const StoredTensors& tensors,
                                  const std::string& name) {
  QS_RETURN_IF_ERROR(CheckGrid(grid));
  QS_ASSIGN_OR_RETURN(const Packed p, ReadPacked(grid, tensors, name));
  AwqWeight weight;
  weight.rows = p.rows;
  weight.cols = p.cols;
  weight.groups = p.groups;
  weight.scale_dtype = p.scale_dtype;
  QS_ASSIGN_OR_RETURN(weight.codes, Unpack(p.qweight, p.cols, p.rows));
  QS_ASSIGN_OR_RETURN(weight.zero_points, Unpack(p.qzeros, p.groups, p.rows));
  QS_ASSIGN_OR_RETURN(
      weight.scales,
      grid::TransposedScales(p.scales, p.scale_dtype, p.rows, p.groups));
  return weight;
}

absl::StatusOr<DecodedWeight> DecodeAwq(const GridSpec& grid,
                                        const StoredTensors& tensors,
                                        const std::string& name, DType dtype) {
  QS_ASSIGN_OR_RETURN(const AwqWeight w, ReadAwq(grid, tensors, name));
  DecodedWeight decoded{dtype, {w.rows, w.cols}, {}};
  QS_ASSIGN_OR_RETURN(decoded.data,
                      Buffer::Allocate(w.rows * w.cols * DTypeBytes(dtype)));
  const int64_t size = grid.group_size < 0 ? w.cols : grid.group_size;
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t col = 0; col < w.cols; ++col) {
      const int64_t group = row * w.groups + col / size;
      const int code = w.codes.data()[row * w.cols + col];
      const int zero = w.zero_points.data()[group];
      const float scale = LoadAsFloat(w.scales.data(), w.scale_dtype, group);
      StoreFromFloat(decoded.data.data(), dtype, row * w.cols + col,
                     static_cast<float>(code - zero) * scale);
    }
  }
  return decoded;
}

std::string AwqConfigJson(const GridSpec& grid,
                          const std::vector<std::string>& skip_modules) {
  using Json = nlohmann::ordered_json;
  Json json;
  json["bits"] = grid.bits;
  json["group_size"] = grid.group_size;
  json["modules_to_not_convert"] = skip_modules;
  json["quant_method"] = "awq";
  json["version"] = "gemm";
  json["zero_point"] = true;
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

}  // namespace qs

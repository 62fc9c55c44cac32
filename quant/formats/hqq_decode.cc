// Tested by tests/formats/hqq_format_test.cc and
// tests/fuzz/safetensors_fuzz.cc.
//
// Written from the file format alone, without the packer: it is what its output
// is verified with.
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/grid_pieces.h"
#include "quant/formats/hqq_format.h"
#include "quant/formats/hqq_names.h"
#include "quant/formats/json.h"
#include "quant/formats/stored_tensors.h"

namespace qs {
namespace {

class Reader {
 public:
  Reader(const StoredTensors& tensors, std::string module)
      : tensors_(tensors), module_(std::move(module)) {}

  std::string Name(const char* key) const {
    return absl::StrCat(module_, ".", key);
  }
  absl::StatusOr<std::span<const uint8_t>> Bytes(
      const char* key, DType dtype, const std::vector<int64_t>& shape) const {
    return StoredBytes(tensors_, Name(key), dtype, shape);
  }
  absl::StatusOr<int64_t> Int(const char* key) const {
    QS_ASSIGN_OR_RETURN(const auto bytes, Bytes(key, DType::kI32, {}));
    return LoadAt<int32_t>(bytes, 0);
  }
  // INVALID_ARGUMENT unless the flag is `wanted`.
  absl::Status Expect(const char* key, int wanted) const {
    QS_ASSIGN_OR_RETURN(const auto bytes, Bytes(key, DType::kU8, {}));
    if (bytes[0] == wanted) return absl::OkStatus();
    return StoredError(Name(key), absl::StrCat(int{bytes[0]}),
                       absl::StrCat(wanted));
  }
  absl::Status ExpectText(const char* key, std::string_view wanted) const {
    QS_ASSIGN_OR_RETURN(const std::string text, Text(key));
    if (text == wanted) return absl::OkStatus();
    return StoredError(Name(key), QuoteForError(text), QuoteForError(wanted));
  }
  absl::StatusOr<std::string> Text(const char* key) const {
    QS_ASSIGN_OR_RETURN(const SafetensorsItem* item,
                        FindStored(tensors_, Name(key)));
    const auto length = static_cast<int64_t>(item->data.size());
    QS_ASSIGN_OR_RETURN(const auto bytes, Bytes(key, DType::kU8, {length}));
    return std::string(reinterpret_cast<const char*>(bytes.data()),
                       bytes.size());
  }

 private:
  const StoredTensors& tensors_;
  const std::string module_;
};

absl::Status ReadDType(const Reader& read, HqqLayout* layout) {
  QS_ASSIGN_OR_RETURN(const std::string text, read.Text("compute_dtype"));
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (text != hqq::TorchDType(dtype)) continue;
    layout->dtype = dtype;
    return absl::OkStatus();
  }
  return StoredError(read.Name("compute_dtype"), QuoteForError(text),
                     "torch.float32, torch.float16, torch.bfloat16");
}

absl::StatusOr<HqqLayout> ReadLayout(const Reader& read,
                                     const std::string& name) {
  HqqLayout layout;
  layout.name = name;
  QS_ASSIGN_OR_RETURN(const int64_t bits, read.Int("nbits"));
  layout.bits = static_cast<int>(bits);
  QS_ASSIGN_OR_RETURN(layout.group_size, read.Int("group_size"));
  QS_ASSIGN_OR_RETURN(const int64_t axis, read.Int("axis"));
  layout.axis = static_cast<int>(axis);
  QS_ASSIGN_OR_RETURN(const auto shape, read.Bytes("shape", DType::kI64, {2}));
  layout.rows = LoadAt<int64_t>(shape, 0);
  layout.cols = LoadAt<int64_t>(shape, 1);
  QS_RETURN_IF_ERROR(ReadDType(read, &layout));
  QS_RETURN_IF_ERROR(CheckHqqLayout(layout));
  QS_RETURN_IF_ERROR(read.ExpectText("packing", hqq::PackingName(layout.bits)));
  QS_RETURN_IF_ERROR(
      read.ExpectText("unpack_view_dtype", hqq::UnpackDType(layout.bits)));
  for (const char* key : {"view_as_float", "quant_scale", "quant_zero"}) {
    QS_RETURN_IF_ERROR(read.Expect(key, 0));
  }
  for (const char* key :
       {"encoded_state_dict", "stores_quant_config", "channel_wise"}) {
    QS_RETURN_IF_ERROR(read.Expect(key, 1));
  }
  return layout;
}

absl::StatusOr<Buffer> ReadSide(const Reader& read, const char* key,
                                const HqqLayout& layout) {
  QS_ASSIGN_OR_RETURN(const auto bytes,
                      read.Bytes(key, layout.dtype, hqq::SideShape(layout)));
  for (int64_t i = 0; i < layout.groups(); ++i) {
    const float value = LoadStoredFloat(bytes, layout.dtype, i);
    if (!std::isfinite(value)) {
      return StoredError(read.Name(key), absl::StrCat(value, " at index ", i),
                         "finite numbers");
    }
  }
  return CopyToBuffer(bytes.data(), static_cast<int64_t>(bytes.size()));
}

// The two highest bits of a word of ten 3-bit codes, and the codes behind the
// last row, carry nothing: a value there is damage that decoding cannot show.
absl::Status CheckStrayBits(const Reader& read, const HqqLayout& layout,
                            std::span<const uint8_t> packed) {
  if (layout.bits != 3) return absl::OkStatus();
  const std::vector<int64_t> shape = hqq::PackedShape(layout);
  for (int64_t row = 0; row < shape[0]; ++row) {
    uint32_t stray = 0xc0000000u;
    for (int64_t j = 0; j < hqq::kThreeBitRows; ++j) {
      if (row + j * shape[0] >= layout.code_rows()) stray |= 7u << (27 - 3 * j);
    }
    for (int64_t col = 0; col < shape[1]; ++col) {
      const auto word = LoadAt<uint32_t>(packed, row * shape[1] + col);
      if ((word & stray) == 0) continue;
      return StoredError(read.Name("W_q"),
                         absl::StrCat("bits beside the codes in row ", row),
                         "zeros there");
    }
  }
  return absl::OkStatus();
}

// Code (row, col) of the code matrix: row % S of the packed rows holds it, S
// packed rows, the part row / S highest first.
absl::StatusOr<Buffer> ReadCodes(const Reader& read, const HqqLayout& layout) {
  const std::vector<int64_t> shape = hqq::PackedShape(layout);
  const DType dtype = hqq::PackedDType(layout.bits);
  QS_ASSIGN_OR_RETURN(const auto packed, read.Bytes("W_q", dtype, shape));
  QS_RETURN_IF_ERROR(CheckStrayBits(read, layout, packed));
  QS_ASSIGN_OR_RETURN(Buffer codes,
                      Buffer::Allocate(layout.rows * layout.cols));
  const int64_t parts = layout.bits == 3 ? hqq::kThreeBitRows : 8 / layout.bits;
  const uint32_t mask = (uint32_t{1} << layout.bits) - 1;
  for (int64_t row = 0; row < layout.code_rows(); ++row) {
    const int64_t shift = (parts - 1 - row / shape[0]) * layout.bits;
    for (int64_t col = 0; col < layout.code_cols(); ++col) {
      const int64_t at = row % shape[0] * layout.code_cols() + col;
      const uint32_t word = dtype == DType::kI32
                                ? LoadAt<uint32_t>(packed, at)
                                : packed[static_cast<size_t>(at)];
      codes.data()[row * layout.code_cols() + col] =
          static_cast<uint8_t>(word >> shift & mask);
    }
  }
  return codes;
}

}  // namespace

absl::StatusOr<HqqWeight> ReadHqq(const StoredTensors& tensors,
                                  const std::string& name) {
  QS_ASSIGN_OR_RETURN(std::string module, grid::ModuleOf(name));
  const Reader read(tensors, std::move(module));
  HqqWeight weight;
  QS_ASSIGN_OR_RETURN(weight.layout, ReadLayout(read, name));
  QS_ASSIGN_OR_RETURN(weight.codes, ReadCodes(read, weight.layout));
  QS_ASSIGN_OR_RETURN(weight.scales, ReadSide(read, "scale", weight.layout));
  QS_ASSIGN_OR_RETURN(weight.zeros, ReadSide(read, "zero", weight.layout));
  return weight;
}

absl::StatusOr<DecodedWeight> DecodeHqq(const StoredTensors& tensors,
                                        const std::string& name) {
  QS_ASSIGN_OR_RETURN(const HqqWeight w, ReadHqq(tensors, name));
  const HqqLayout& layout = w.layout;
  DecodedWeight decoded{layout.dtype, {layout.rows, layout.cols}, {}};
  const int64_t count = layout.rows * layout.cols;
  QS_ASSIGN_OR_RETURN(decoded.data,
                      Buffer::Allocate(count * DTypeBytes(layout.dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t group =
        layout.axis == 1 ? i / layout.group_size : i % layout.groups();
    const float zero = LoadAsFloat(w.zeros.data(), layout.dtype, group);
    const float scale = LoadAsFloat(w.scales.data(), layout.dtype, group);
    // The difference is rounded to the compute dtype, then the product.
    StoreFromFloat(decoded.data.data(), layout.dtype, i,
                   static_cast<float>(w.codes.data()[i]) - zero);
    StoreFromFloat(decoded.data.data(), layout.dtype, i,
                   LoadAsFloat(decoded.data.data(), layout.dtype, i) * scale);
  }
  return decoded;
}

}  // namespace qs

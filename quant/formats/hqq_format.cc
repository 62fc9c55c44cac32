// Tested by tests/formats/hqq_format_test.cc.
#include "quant/formats/hqq_format.h"

#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/grid_pieces.h"
#include "quant/formats/hqq_names.h"
#include "quant/formats/json.h"

namespace qs {
namespace {

// One tensor of a few bytes.
absl::StatusOr<OutputTensor> Small(std::string name, DType dtype,
                                   std::vector<int64_t> shape, const void* data,
                                   int64_t bytes) {
  OutputTensor tensor{std::move(name), dtype, std::move(shape), {}};
  QS_ASSIGN_OR_RETURN(tensor.data, CopyToBuffer(data, bytes));
  return tensor;
}

// Adds metadata as hqq encodes it: bool U8, int I32, text U8 [length].
class MetadataWriter {
 public:
  MetadataWriter(std::string module, std::vector<OutputTensor>* tensors)
      : module_(std::move(module)), tensors_(tensors) {}

  absl::Status Flag(const char* key, bool value) {
    const uint8_t byte = value ? 1 : 0;
    return Add(key, DType::kU8, {}, &byte, 1);
  }
  absl::Status Int(const char* key, int64_t value) {
    const auto word = static_cast<int32_t>(value);
    return Add(key, DType::kI32, {}, &word, sizeof(word));
  }
  absl::Status Text(const char* key, std::string_view text) {
    const auto length = static_cast<int64_t>(text.size());
    return Add(key, DType::kU8, {length}, text.data(), length);
  }
  absl::Status Add(const char* key, DType dtype, std::vector<int64_t> shape,
                   const void* data, int64_t bytes) {
    QS_ASSIGN_OR_RETURN(OutputTensor tensor,
                        Small(absl::StrCat(module_, ".", key), dtype,
                              std::move(shape), data, bytes));
    tensors_->push_back(std::move(tensor));
    return absl::OkStatus();
  }

 private:
  const std::string module_;
  std::vector<OutputTensor>* const tensors_;
};

// In the order of hqq's state_dict.
absl::Status AddMetadata(const HqqLayout& layout, HqqPieces pieces,
                         const std::string& module,
                         std::vector<OutputTensor>* tensors) {
  MetadataWriter write(module, tensors);
  QS_RETURN_IF_ERROR(write.Int("nbits", layout.bits));
  QS_RETURN_IF_ERROR(write.Int("group_size", layout.group_size));
  const int64_t shape[2] = {layout.rows, layout.cols};
  QS_RETURN_IF_ERROR(
      write.Add("shape", DType::kI64, {2}, shape, sizeof(shape)));
  const std::vector<int64_t> side = hqq::SideShape(layout);
  tensors->push_back(
      {module + ".scale", layout.dtype, side, std::move(pieces.scales)});
  tensors->push_back(
      {module + ".zero", layout.dtype, side, std::move(pieces.zeros)});
  QS_RETURN_IF_ERROR(write.Int("axis", layout.axis));
  QS_RETURN_IF_ERROR(write.Text("packing", hqq::PackingName(layout.bits)));
  QS_RETURN_IF_ERROR(
      write.Text("unpack_view_dtype", hqq::UnpackDType(layout.bits)));
  QS_RETURN_IF_ERROR(write.Flag("view_as_float", false));
  QS_RETURN_IF_ERROR(write.Flag("quant_scale", false));
  QS_RETURN_IF_ERROR(write.Flag("quant_zero", false));
  QS_RETURN_IF_ERROR(
      write.Text("compute_dtype", hqq::TorchDType(layout.dtype)));
  QS_RETURN_IF_ERROR(write.Flag("offload_meta", false));
  QS_RETURN_IF_ERROR(write.Flag("encoded_state_dict", true));
  QS_RETURN_IF_ERROR(write.Flag("stores_quant_config", true));
  QS_RETURN_IF_ERROR(write.Flag("channel_wise", true));
  QS_RETURN_IF_ERROR(write.Flag("optimize", true));
  return write.Flag("round_zero", layout.bits == 4);
}

// Bytes of the tensors beside W_q, scale and zero: six I32 or I64 values,
// eight flags and three texts.
int64_t MetadataBytes(const HqqLayout& layout) {
  constexpr int64_t kNumbers = 3 * 4 + 2 * 8;
  constexpr int64_t kFlags = 9;
  return kNumbers + kFlags +
         static_cast<int64_t>(hqq::PackingName(layout.bits).size() +
                              hqq::UnpackDType(layout.bits).size() +
                              hqq::TorchDType(layout.dtype).size());
}

}  // namespace

HqqLayout HqqLayoutOf(const HqqSpec& spec, std::string name, DType dtype,
                      int64_t rows, int64_t cols) {
  return {std::move(name), dtype,           rows,     cols,
          spec.bits,       spec.group_size, spec.axis};
}

absl::Status CheckHqqLayout(const HqqLayout& layout) {
  QS_RETURN_IF_ERROR(grid::ModuleOf(layout.name).status());
  const int bits = layout.bits;
  if (bits != 1 && bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    return StoredError(layout.name, absl::StrCat(bits, " bits"),
                       "1, 2, 3, 4, 8");
  }
  if (!IsFloatWeight(layout.dtype) || layout.axis < 0 || layout.axis > 1) {
    return StoredError(
        layout.name,
        absl::StrCat(DTypeName(layout.dtype), ", axis ", layout.axis),
        "F32, F16, BF16, axis 0 or 1");
  }
  const std::optional<int64_t> count =
      layout.rows > 0 && layout.cols > 0 ? CheckedMul(layout.rows, layout.cols)
                                         : std::nullopt;
  if (!count || !CheckedMul(*count, 8) || layout.group_size < 1 ||
      layout.group_size > *count || *count % layout.group_size != 0) {
    return StoredError(layout.name,
                       absl::StrCat("shape [", layout.rows, ", ", layout.cols,
                                    "] with group_size ", layout.group_size),
                       "a group size that divides the elements");
  }
  const int64_t per = bits == 3 ? 1 : 8 / bits;
  if (layout.code_rows() % per != 0) {
    return StoredError(
        layout.name,
        absl::StrCat(layout.code_rows(),
                     layout.axis == 1 ? " groups" : " codes",
                     layout.axis == 1 ? "" : " a group"),
        absl::StrCat("a multiple of ", per, " for ", bits, " bits in hqq"));
  }
  return absl::OkStatus();
}

int64_t HqqPackedBytes(const HqqLayout& layout) {
  if (layout.bits == 3) {
    return CeilDiv(layout.code_rows(), hqq::kThreeBitRows) *
           layout.code_cols() * DTypeBytes(DType::kI32);
  }
  return layout.rows * layout.cols * layout.bits / 8;
}

int64_t HqqOutputBytes(const HqqLayout& layout) {
  return HqqPackedBytes(layout) +
         2 * layout.groups() * DTypeBytes(layout.dtype) + MetadataBytes(layout);
}

absl::StatusOr<std::vector<OutputTensor>> HqqTensors(const HqqLayout& layout,
                                                     HqqPieces pieces) {
  QS_RETURN_IF_ERROR(CheckHqqLayout(layout));
  QS_ASSIGN_OR_RETURN(const std::string module, grid::ModuleOf(layout.name));
  const int64_t side = layout.groups() * DTypeBytes(layout.dtype);
  if (pieces.packed.size() != HqqPackedBytes(layout) ||
      pieces.scales.size() != side || pieces.zeros.size() != side) {
    return absl::InternalError(absl::StrCat(
        "tensor \"", layout.name, "\": got pieces of other sizes than its"));
  }
  std::vector<OutputTensor> tensors;
  tensors.push_back({module + ".W_q", hqq::PackedDType(layout.bits),
                     hqq::PackedShape(layout), std::move(pieces.packed)});
  QS_RETURN_IF_ERROR(AddMetadata(layout, std::move(pieces), module, &tensors));
  return tensors;
}

std::string HqqConfigJson(const HqqSpec& spec,
                          const std::vector<std::string>& skip_modules) {
  using Json = nlohmann::ordered_json;
  Json weights;
  weights["axis"] = spec.axis;
  weights["channel_wise"] = true;
  weights["group_size"] = spec.group_size;
  weights["nbits"] = spec.bits;
  weights["optimize"] = true;
  weights["round_zero"] = spec.bits == 4;
  weights["view_as_float"] = false;
  Json json;
  Json& config = json["quant_config"];
  config["offload_meta"] = false;
  config["scale_quant_params"] = nullptr;
  config["weight_quant_params"] = std::move(weights);
  config["zero_quant_params"] = nullptr;
  json["quant_method"] = "hqq";
  json["skip_modules"] = skip_modules;
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

}  // namespace qs

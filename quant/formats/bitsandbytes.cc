// Tested by tests/formats/bitsandbytes_test.cc.
#include "quant/formats/bitsandbytes.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/nf4_ops.h"
#include "quant/formats/json.h"
#include "quant/formats/stored_tensors.h"

namespace qs {
namespace {

constexpr int64_t kNumLevels = 16;
constexpr int64_t kNumNestedLevels = 256;

const char* QuantType(const Nf4Spec& spec) {
  return spec.codebook == Codebook::kNf4 ? "nf4" : "fp4";
}

// As torch names it.
const char* TorchName(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    default:
      return "float32";
  }
}

template <typename T>
int64_t NumElements(const Buffer& buffer) {
  return buffer.size() / static_cast<int64_t>(sizeof(T));
}

absl::StatusOr<OutputTensor> FloatTensor(const std::string& name,
                                         const float* values, int64_t count) {
  OutputTensor tensor{name, DType::kF32, {count}, {}};
  QS_ASSIGN_OR_RETURN(tensor.data,
                      CopyToBuffer(values, count * DTypeBytes(DType::kF32)));
  return tensor;
}

}  // namespace

std::string QuantStateJson(const Nf4Spec& spec, DType dtype,
                           const std::vector<int64_t>& shape,
                           float nested_offset) {
  std::string json = absl::StrCat(
      "{\"quant_type\": \"", QuantType(spec),
      "\", \"blocksize\": ", spec.block_size, ", \"dtype\": \"",
      TorchName(dtype), "\", \"shape\": [", absl::StrJoin(shape, ", "), "]");
  if (spec.double_quant) {
    absl::StrAppend(&json, ", \"nested_blocksize\": ", kNestedBlockSize,
                    ", \"nested_dtype\": \"float32\", \"nested_offset\": ",
                    PythonFloatRepr(static_cast<double>(nested_offset)));
  }
  return json + "}";
}

absl::StatusOr<std::vector<OutputTensor>> BitsandbytesTensors(
    const Nf4Spec& spec, const std::string& name, DType dtype,
    const std::vector<int64_t>& shape, Nf4Pieces pieces) {
  std::vector<OutputTensor> tensors;
  const int64_t packed_bytes = pieces.packed.size();
  tensors.push_back(
      {name, DType::kU8, {packed_bytes, 1}, std::move(pieces.packed)});
  const bool nested = spec.double_quant;
  const int64_t num_blocks =
      nested ? pieces.absmax.size() : NumElements<float>(pieces.absmax);
  tensors.push_back({name + ".absmax",
                     nested ? DType::kU8 : DType::kF32,
                     {num_blocks},
                     std::move(pieces.absmax)});
  QS_ASSIGN_OR_RETURN(OutputTensor map,
                      FloatTensor(name + ".quant_map",
                                  CodebookLevels(spec.codebook), kNumLevels));
  tensors.push_back(std::move(map));
  if (nested) {
    const int64_t count = NumElements<float>(pieces.nested_absmax);
    tensors.push_back({name + ".nested_absmax",
                       DType::kF32,
                       {count},
                       std::move(pieces.nested_absmax)});
    QS_ASSIGN_OR_RETURN(OutputTensor nested_map,
                        FloatTensor(name + ".nested_quant_map", NestedLevels(),
                                    kNumNestedLevels));
    tensors.push_back(std::move(nested_map));
  }
  const std::string json =
      QuantStateJson(spec, dtype, shape, pieces.nested_offset);
  const auto length = static_cast<int64_t>(json.size());
  QS_ASSIGN_OR_RETURN(Buffer state, CopyToBuffer(json.data(), length));
  tensors.push_back(
      {absl::StrCat(name, ".quant_state.bitsandbytes__", QuantType(spec)),
       DType::kU8,
       {length},
       std::move(state)});
  return tensors;
}

std::string BitsandbytesConfigJson(
    const Nf4Spec& spec, DType compute_dtype,
    const std::vector<std::string>& skip_modules) {
  nlohmann::ordered_json json;
  json["_load_in_4bit"] = true;
  json["_load_in_8bit"] = false;
  json["bnb_4bit_compute_dtype"] = TorchName(compute_dtype);
  json["bnb_4bit_quant_storage"] = "uint8";
  json["bnb_4bit_quant_type"] = QuantType(spec);
  json["bnb_4bit_use_double_quant"] = spec.double_quant;
  json["llm_int8_enable_fp32_cpu_offload"] = false;
  json["llm_int8_has_fp16_weight"] = false;
  json["llm_int8_skip_modules"] = skip_modules;
  json["llm_int8_threshold"] = 6.0;
  json["load_in_4bit"] = true;
  json["load_in_8bit"] = false;
  json["quant_method"] = "bitsandbytes";
  return json.dump(-1, ' ', true,
                   nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace qs

// Tested by tests/formats/dequantize_test.cc.
#include "quant/formats/dequantize.h"

#include <cstring>
#include <utility>

#include "kernels/base/status_macros.h"
#include "quant/formats/awq_format.h"
#include "quant/formats/bitsandbytes.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/formats/gptq_format.h"
#include "quant/formats/hqq_format.h"
#include "quant/formats/stored_tensors.h"

namespace qs {
namespace {

absl::StatusOr<DecodedWeight> Decode(const QuantSpec& spec,
                                     const StoredTensors& stored,
                                     const std::string& name, DType dtype) {
  const GridSpec grid = SpecGrid(spec);
  switch (spec.format) {
    case OutputFormat::kBitsandbytes:
      return DecodeBitsandbytes(stored, name);
    case OutputFormat::kCompressedTensors:
      return DecodeCompressedTensors(grid, stored, name);
    case OutputFormat::kGptq:
      return DecodeGptq(grid, GptqVersion::kV1, stored, name, dtype);
    case OutputFormat::kGptqV2:
      return DecodeGptq(grid, GptqVersion::kV2, stored, name, dtype);
    case OutputFormat::kAwqGemm:
      return DecodeAwq(grid, stored, name, dtype);
    case OutputFormat::kHqq:
      return DecodeHqq(stored, name);
  }
  return absl::InternalError("format: unknown");
}

}  // namespace

absl::StatusOr<OutputTensor> Dequantize(
    const QuantSpec& spec, const std::string& name, DType dtype,
    const std::vector<int64_t>& shape,
    const std::vector<OutputTensor>& tensors) {
  if (tensors.size() == 1 && tensors[0].name == name &&
      tensors[0].dtype == dtype) {
    QS_ASSIGN_OR_RETURN(Buffer same, Buffer::Allocate(tensors[0].data.size()));
    std::memcpy(same.data(), tensors[0].data.data(),
                static_cast<size_t>(same.size()));
    return OutputTensor{name, dtype, shape, std::move(same)};
  }
  StoredTensors stored;
  for (const OutputTensor& tensor : tensors) {
    stored[tensor.name] = {tensor.name, tensor.dtype, tensor.shape,
                           tensor.data.bytes()};
  }
  QS_ASSIGN_OR_RETURN(DecodedWeight decoded, Decode(spec, stored, name, dtype));
  if (decoded.dtype != dtype) {
    return absl::InternalError("tensor " + name +
                               ": decoded to another dtype than its own");
  }
  return OutputTensor{name, dtype, shape, std::move(decoded.data)};
}

}  // namespace qs

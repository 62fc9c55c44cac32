// Tested by tests/quant/awq_group_test.cc.
#include "quant/awq_checks.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"

namespace qs {

absl::Status CheckFinite(const TensorInfo& info,
                         std::span<const TensorView> pieces) {
  int64_t first = 0;
  for (const TensorView& piece : pieces) {
    for (int64_t i = 0; i < piece.num_elements(); ++i) {
      const float value = LoadAsFloat(piece.data, piece.dtype, i);
      if (std::isfinite(value)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor \"", info.name, "\": ", std::isnan(value) ? "NaN" : "Inf",
          " at index ", first + i));
    }
    first += piece.num_elements();
  }
  return absl::OkStatus();
}

absl::Status CheckAwqTensors(const QuantSpec& spec, const GroupInfo& info) {
  for (const GroupTensor& tensor : info.tensors) {
    if (tensor.role == GroupRole::kQuantize) {
      QS_RETURN_IF_ERROR(OutputBytes(spec, tensor.info).status());
      continue;
    }
    if (!IsFloatWeight(tensor.info.dtype)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor \"", tensor.info.name, "\": got dtype ",
          DTypeName(tensor.info.dtype), ", allowed F32, F16, BF16"));
    }
    if (CheckedNumElements(tensor.info.shape).value_or(0) < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor \"", tensor.info.name,
                       "\": got no elements, allowed 1 or more"));
    }
  }
  return absl::OkStatus();
}

}  // namespace qs

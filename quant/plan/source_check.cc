// Tested by tests/quant/plan_rules_test.cc.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quant/formats/json.h"
#include "quant/plan/draft.h"

namespace qs {
namespace {

struct Sign {
  const char* ending;
  const char* method;
};

// Tensors that stand only beside packed weights.
constexpr Sign kEndings[] = {
    {".weight_scale_inv", "FP8 blocks"},
    {".weight_scale", "FP8 or compressed-tensors"},
    {".weight_packed", "compressed-tensors"},
    {".qweight", "GPTQ or AWQ"},
    {".SCB", "bitsandbytes LLM.int8"},
    {".weight.absmax", "bitsandbytes 4-bit"},
    {".W_q", "HQQ"},
};

absl::Status QuantizedBy(std::string_view what, std::string_view method) {
  return absl::FailedPreconditionError(absl::StrCat(
      "source is quantized already: ", std::string(what), " (",
      std::string(method), "); allowed are F32, F16 and BF16 weights"));
}

bool IsFloat8(DType dtype) {
  return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2;
}

bool IsByte(DType dtype) { return dtype == DType::kU8 || dtype == DType::kI8; }

absl::Status CheckTensor(const Draft& draft, const PlanTensor& tensor) {
  const auto what = [&tensor] {
    return absl::StrCat("tensor ", QuoteForError(tensor.name));
  };
  const absl::string_view name(tensor.name);
  for (const Sign& sign : kEndings) {
    if (absl::EndsWith(name, sign.ending)) {
      return QuantizedBy(what(), sign.method);
    }
  }
  if (absl::EndsWith(name, "_blocks")) {
    const std::string scales(name.substr(0, name.size() - 7));
    if (draft.by_name.contains(scales + "_scales")) {
      return QuantizedBy(what() + " with its _scales", "MXFP4");
    }
  }
  if (tensor.shape.size() < 2) return absl::OkStatus();
  if (IsFloat8(tensor.dtype) ||
      (IsByte(tensor.dtype) && absl::EndsWith(name, ".weight"))) {
    return QuantizedBy(what(), DTypeName(tensor.dtype));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSourceIsFloat(const Draft& draft) {
  if (draft.config.quantized_by) {
    return QuantizedBy("config.json has a quantization_config",
                       *draft.config.quantized_by);
  }
  for (const PlanTensor& tensor : draft.request.tensors) {
    const absl::Status status = CheckTensor(draft, tensor);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace qs

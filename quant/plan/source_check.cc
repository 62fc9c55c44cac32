// Tested by tests/quant/plan_rules_test.cc.
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
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

// What shows that a tensor is quantized, and by what; nullopt: nothing does.
struct Evidence {
  std::string what;
  std::string method;
};

bool IsFloat8(DType dtype) {
  return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2;
}

bool IsByte(DType dtype) { return dtype == DType::kU8 || dtype == DType::kI8; }

std::optional<Evidence> EvidenceOf(const Draft& draft,
                                   const PlanTensor& tensor) {
  const std::string what = absl::StrCat("tensor ", QuoteForError(tensor.name));
  const absl::string_view name(tensor.name);
  for (const Sign& sign : kEndings) {
    if (absl::EndsWith(name, sign.ending)) return Evidence{what, sign.method};
  }
  if (absl::EndsWith(name, "_blocks")) {
    const std::string scales(name.substr(0, name.size() - 7));
    if (draft.by_name.contains(scales + "_scales")) {
      return Evidence{what + " with its _scales", "MXFP4"};
    }
  }
  if (tensor.shape.size() < 2) return std::nullopt;
  if (IsFloat8(tensor.dtype) ||
      (IsByte(tensor.dtype) && absl::EndsWith(name, ".weight"))) {
    return Evidence{what, DTypeName(tensor.dtype)};
  }
  return std::nullopt;
}

// By the globs, or by the override that holds for it.
bool LeavesOut(const PlanRequest& request, const std::string& name) {
  if (!request.include.empty() && !MatchesAny(request.include, name)) {
    return true;
  }
  if (MatchesAny(request.exclude, name)) return true;
  for (const PlanOverride& rule : request.overrides) {
    if (GlobMatch(rule.tensors, name)) return !rule.spec;
  }
  return false;
}

absl::Status QuantizedAlready(const Evidence& evidence,
                              std::string_view allowed) {
  return absl::FailedPreconditionError(
      absl::StrCat("source is quantized already: ", evidence.what, " (",
                   evidence.method, "); allowed are ", std::string(allowed)));
}

}  // namespace

absl::Status CheckSourceIsFloat(Draft* draft) {
  if (draft->config.quantized_by) {
    return QuantizedAlready(
        {"config.json has a quantization_config", *draft->config.quantized_by},
        "F32, F16 and BF16 weights");
  }
  for (const PlanTensor& tensor : draft->request.tensors) {
    QS_RETURN_IF_ERROR(draft->Wanted());
    const std::optional<Evidence> evidence = EvidenceOf(*draft, tensor);
    if (!evidence) continue;
    if (!LeavesOut(draft->request, tensor.name)) {
      return QuantizedAlready(
          *evidence,
          "F32, F16 and BF16 weights, and others where they are left out");
    }
    draft->findings.Add(
        Severity::kWarning, "CARRIED_QUANTIZED", tensor.name,
        absl::StrCat("quantized already (", evidence->method,
                     ") and left out: carried as it is, and read by what reads "
                     "it in the source"));
  }
  return absl::OkStatus();
}

}  // namespace qs

// Tested by tests/kernels/gptq_reference_test.cc.
#include "kernels/gptq_check.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace qs {
namespace {

absl::Status Refuse(const std::string& field, const std::string& got,
                    const std::string& allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": got ", got, ", allowed ", allowed));
}

absl::Status CheckFloat(const std::string& field, DType dtype) {
  return IsFloatWeight(dtype)
             ? absl::OkStatus()
             : Refuse(field, DTypeName(dtype), "F32, F16, BF16");
}

absl::Status CheckView(const std::string& field, const TensorView& view) {
  QS_RETURN_IF_ERROR(CheckFloat(field + ".dtype", view.dtype));
  if (view.rows >= 0 && view.cols >= 1) return absl::OkStatus();
  return Refuse(field, absl::StrCat("[", view.rows, ", ", view.cols, "]"),
                "at least 0 rows and 1 column");
}

absl::Status CheckDamping(double damping) {
  return damping >= 0 && damping < 1
             ? absl::OkStatus()
             : Refuse("damping", absl::StrCat(damping), "0 up to below 1");
}

// A permutation of [0, size).
absl::Status CheckOrder(const int32_t* order, int64_t size) {
  if (order == nullptr) return absl::OkStatus();
  std::vector<bool> seen(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    const int32_t column = order[i];
    if (column < 0 || column >= size || seen[static_cast<size_t>(column)]) {
      return Refuse("order", absl::StrCat(column, " at position ", i),
                    absl::StrCat("each of 0..", size - 1, " once"));
    }
    seen[static_cast<size_t>(column)] = true;
  }
  return absl::OkStatus();
}

absl::Status CheckGrid(const GptqGrid& grid, int64_t cols, bool zero_points) {
  if (grid.bits < 2 || grid.bits > 8) {
    return Refuse("bits", absl::StrCat(grid.bits), "2..8");
  }
  if (grid.group_size < 1 || grid.group_size > cols) {
    return Refuse("group_size", absl::StrCat(grid.group_size),
                  absl::StrCat("1..", cols, " (the columns)"));
  }
  if (!grid.symmetric && !zero_points) {
    return absl::InvalidArgumentError(
        "zero_points: null, required for an asymmetric grid");
  }
  QS_RETURN_IF_ERROR(CheckFloat("scale_dtype", grid.scale_dtype));
  return CheckFloat("decoded_dtype", grid.decoded_dtype);
}

}  // namespace

absl::Status CheckGptqFactor(const GptqFactorArgs& args) {
  if (args.size < 1)
    return Refuse("size", absl::StrCat(args.size), "1 or more");
  if (args.facts == nullptr) return absl::InvalidArgumentError("facts: null");
  QS_RETURN_IF_ERROR(CheckDamping(args.damping));
  return CheckOrder(args.order, args.size);
}

absl::Status CheckGptqSolve(const GptqSolveArgs& args) {
  QS_RETURN_IF_ERROR(CheckView("weight", args.weight));
  QS_RETURN_IF_ERROR(
      CheckGrid(args.grid, args.weight.cols, args.zero_points != nullptr));
  QS_RETURN_IF_ERROR(CheckOrder(args.order, args.weight.cols));
  if (args.first_non_finite == nullptr) {
    return absl::InvalidArgumentError("first_non_finite: null");
  }
  if (!args.static_groups && (args.range == GptqRange::kCurvature ||
                              args.range == GptqRange::kGiven)) {
    return absl::InvalidArgumentError(
        "range: curvature and given ranges need static groups");
  }
  return absl::OkStatus();
}

absl::Status CheckGptqRefine(const GptqRefineArgs& args) {
  QS_RETURN_IF_ERROR(CheckView("weight", args.weight));
  QS_RETURN_IF_ERROR(CheckDamping(args.damping));
  if (args.sweeps < 0) {
    return Refuse("sweeps", absl::StrCat(args.sweeps), "0 or more");
  }
  return CheckGrid(args.grid, args.weight.cols, args.zero_points != nullptr);
}

absl::Status CheckGptqDecode(const GptqDecodeArgs& args) {
  QS_RETURN_IF_ERROR(CheckView("weight", args.weight));
  return CheckGrid(args.grid, args.weight.cols, true);
}

absl::Status CheckGptqError(const GptqErrorArgs& args) {
  QS_RETURN_IF_ERROR(CheckView("weight", args.weight));
  QS_RETURN_IF_ERROR(CheckView("decoded", args.decoded));
  if (args.weight.rows == args.decoded.rows &&
      args.weight.cols == args.decoded.cols) {
    return absl::OkStatus();
  }
  return Refuse(
      "decoded",
      absl::StrCat("[", args.decoded.rows, ", ", args.decoded.cols, "]"),
      absl::StrCat("the weight's [", args.weight.rows, ", ", args.weight.cols,
                   "]"));
}

absl::Status CheckGramAccumulate(const GramAccumulateArgs& args) {
  QS_RETURN_IF_ERROR(CheckView("activations", args.activations));
  return args.first_non_finite != nullptr
             ? absl::OkStatus()
             : absl::InvalidArgumentError("first_non_finite: null");
}

absl::Status CheckGramFinish(const GramFinishArgs& args) {
  return args.inputs >= 1
             ? absl::OkStatus()
             : Refuse("inputs", absl::StrCat(args.inputs), "1 or more");
}

absl::Status HessianError(const float* hessian, int64_t size, int64_t index) {
  return HessianValueError(hessian[index], size, index);
}

absl::Status HessianValueError(float value, int64_t size, int64_t index) {
  const std::string place =
      absl::StrCat("[", index / size, ", ", index % size, "]");
  if (!std::isfinite(value)) {
    return absl::InvalidArgumentError(
        absl::StrCat("hessian: got ", std::isnan(value) ? "NaN" : "Inf", " at ",
                     place, ", allowed finite numbers"));
  }
  return Refuse("hessian", absl::StrCat(value, " at ", place),
                "a diagonal of 0 or more");
}

}  // namespace qs

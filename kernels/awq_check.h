// Argument checks of the AWQ family, the same for every implementation.
#ifndef QS_KERNELS_AWQ_CHECK_H_
#define QS_KERNELS_AWQ_CHECK_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/affine_check.h"
#include "kernels/awq_ops.h"
#include "kernels/base/status_macros.h"

namespace qs {

inline absl::Status CheckAwqGrid(const TensorView& weight,
                                 const AwqGridSpec& grid) {
  if (!IsFloatWeight(grid.scale_dtype)) {
    return absl::InvalidArgumentError(absl::StrCat("scale_dtype: got ",
                                                   DTypeName(grid.scale_dtype),
                                                   ", allowed F32, F16, BF16"));
  }
  return CheckAffineGroups(weight, grid.bits, grid.group_size);
}

inline absl::Status CheckAwqWeights(std::span<const TensorView> weights,
                                    const AwqGridSpec& grid) {
  if (weights.empty()) {
    return absl::InvalidArgumentError("weights: got none, allowed 1 or more");
  }
  for (const TensorView& weight : weights) {
    QS_RETURN_IF_ERROR(CheckAwqGrid(weight, grid));
    if (weight.cols != weights.front().cols) {
      return absl::InvalidArgumentError(
          absl::StrCat("weights: got ", weight.cols, " columns beside ",
                       weights.front().cols, ", allowed the same in all"));
    }
  }
  return absl::OkStatus();
}

inline absl::Status CheckAwqScaleLosses(const AwqScaleLossArgs& args) {
  const int given = (args.second_moment != nullptr) + (args.factor != nullptr) +
                    (args.curvature != nullptr);
  if (given != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("second_moment, factor, curvature: got ", given,
                     ", allowed exactly one"));
  }
  if (args.row_stride < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "row_stride: got ", args.row_stride, ", allowed 1 or more"));
  }
  return CheckAwqWeights(args.weights, args.grid);
}

}  // namespace qs

#endif  // QS_KERNELS_AWQ_CHECK_H_

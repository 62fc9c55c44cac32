// Argument checks of the HQQ family, the same for every implementation.
#ifndef QS_KERNELS_HQQ_CHECK_H_
#define QS_KERNELS_HQQ_CHECK_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/hqq_ops.h"

namespace qs {

inline absl::Status CheckHqqGroups(const TensorView& weight, int64_t group_size,
                                   int axis) {
  if (!IsFloatWeight(weight.dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "dtype: got ", DTypeName(weight.dtype), ", allowed F32, F16, BF16"));
  }
  if (group_size < 1 || weight.num_elements() % group_size != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("group_size: got ", group_size, ", allowed divisors of ",
                     weight.num_elements(), " (the elements)"));
  }
  if (axis != 0 && axis != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("axis: got ", axis, ", allowed 0, 1"));
  }
  return absl::OkStatus();
}

inline absl::Status CheckHqqOutputs(const HqqEncodeArgs& args) {
  if (args.first_non_finite == nullptr) {
    return absl::InvalidArgumentError("first_non_finite: null");
  }
  if ((args.zeros == nullptr) == (args.zero_points == nullptr)) {
    return absl::InvalidArgumentError(
        "zeros, zero_points: exactly one of them must be given");
  }
  const bool integer = args.zero_points != nullptr;
  if (!IsFloatWeight(args.stored) ||
      (integer && args.stored != args.weight.dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat("stored: got ", DTypeName(args.stored), ", allowed ",
                     integer ? DTypeName(args.weight.dtype) + " (the weight's)"
                             : std::string("F32, F16, BF16")));
  }
  if (integer && args.bits == 1) {
    return absl::InvalidArgumentError(
        "bits: got 1, allowed 8, 4, 3, 2 with zero_points");
  }
  if (integer && args.axis != 1) {
    return absl::InvalidArgumentError(
        "axis: got 0, allowed 1 with zero_points");
  }
  return absl::OkStatus();
}

inline absl::Status CheckHqqEncode(const HqqEncodeArgs& args) {
  QS_RETURN_IF_ERROR(CheckHqqGroups(args.weight, args.group_size, args.axis));
  const int b = args.bits;
  if (b != 8 && b != 4 && b != 3 && b != 2 && b != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits: got ", b, ", allowed 8, 4, 3, 2, 1"));
  }
  if (args.iterations < 0 || args.iterations > 1000) {
    return absl::InvalidArgumentError(
        absl::StrCat("iterations: got ", args.iterations, ", allowed 0..1000"));
  }
  return CheckHqqOutputs(args);
}

}  // namespace qs

#endif  // QS_KERNELS_HQQ_CHECK_H_

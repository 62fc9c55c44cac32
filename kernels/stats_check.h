// Argument checks of the statistics family, the same for every implementation.
#ifndef QS_KERNELS_STATS_CHECK_H_
#define QS_KERNELS_STATS_CHECK_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/stats_ops.h"

namespace qs {

inline absl::Status CheckStatsWeight(const TensorView& weight,
                                     int64_t group_size,
                                     const ErrorSums* sums) {
  if (sums == nullptr) return absl::InvalidArgumentError("sums: null");
  if (!IsFloatWeight(weight.dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "dtype: got ", DTypeName(weight.dtype), ", allowed F32, F16, BF16"));
  }
  if (group_size >= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("group_size: got ", group_size, ", allowed 1 or more"));
}

inline absl::Status CheckErrorSums(const ErrorSumsArgs& args) {
  if (args.decoded.dtype != args.weight.dtype ||
      args.decoded.rows != args.weight.rows ||
      args.decoded.cols != args.weight.cols) {
    return absl::InvalidArgumentError(
        absl::StrCat("decoded: got ", DTypeName(args.decoded.dtype), " [",
                     args.decoded.rows, ", ", args.decoded.cols,
                     "], allowed the weight's ", DTypeName(args.weight.dtype),
                     " [", args.weight.rows, ", ", args.weight.cols, "]"));
  }
  if (args.rtn != nullptr && (args.rtn_bits < 2 || args.rtn_bits > 8)) {
    return absl::InvalidArgumentError(
        absl::StrCat("rtn_bits: got ", args.rtn_bits, ", allowed 2..8"));
  }
  return CheckStatsWeight(args.weight, args.group_size, args.sums);
}

}  // namespace qs

#endif  // QS_KERNELS_STATS_CHECK_H_

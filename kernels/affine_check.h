// Argument checks of the affine family, the same for every implementation.
#ifndef QS_KERNELS_AFFINE_CHECK_H_
#define QS_KERNELS_AFFINE_CHECK_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/affine_ops.h"
#include "kernels/base/checked_math.h"

namespace qs {

inline absl::Status CheckAffineBits(int bits, int lowest) {
  if (bits >= lowest && bits <= 8) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("bits: got ", bits, ", allowed ", lowest, "..8"));
}

inline absl::Status CheckAffineGroups(const TensorView& weight, int bits,
                                      int64_t group_size) {
  if (!IsFloatWeight(weight.dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "dtype: got ", DTypeName(weight.dtype), ", allowed F32, F16, BF16"));
  }
  if (group_size < 1 || weight.cols % group_size != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("group_size: got ", group_size, ", allowed divisors of ",
                     weight.cols, " (the columns)"));
  }
  return CheckAffineBits(bits, 2);
}

inline absl::Status CheckAffineEncode(const AffineEncodeArgs& args) {
  if (args.first_non_finite == nullptr) {
    return absl::InvalidArgumentError("first_non_finite: null");
  }
  if (!args.symmetric && args.zero_points == nullptr) {
    return absl::InvalidArgumentError(
        "zero_points: null, required for an asymmetric grid");
  }
  return CheckAffineGroups(args.weight, args.bits, args.group_size);
}

inline absl::Status CheckPackShape(int64_t rows, int64_t cols, int bits) {
  if (rows < 0 || cols < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shape: got [", rows, ", ", cols, "], allowed 0 or more each"));
  }
  return CheckAffineBits(bits, 1);
}

inline absl::Status CheckPackAwq(int64_t rows, int64_t cols, int64_t stride) {
  if (rows >= 0 && cols >= 0 && rows % 8 == 0 && stride >= rows / 8) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "shape: got [", rows, ", ", cols, "] with a stride of ", stride,
      ", allowed 0 or more each, rows in multiples of 8, a stride of rows / 8 "
      "or more"));
}

inline absl::Status CheckPackParts(int64_t count, int64_t part, int bits) {
  const int64_t parts = PackedParts(bits);
  if (parts == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits: got ", bits, ", allowed 1, 2, 3, 4, 8"));
  }
  if (count >= 0 && part >= 0 && CeilDiv(count, parts) <= part) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("count: got ", count, " codes in parts of ", part,
                   ", allowed 0 or more, of at most ", parts, " parts"));
}

}  // namespace qs

#endif  // QS_KERNELS_AFFINE_CHECK_H_

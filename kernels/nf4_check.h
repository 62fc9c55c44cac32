// Argument checks of the NF4 family, the same for every implementation.
#ifndef QS_KERNELS_NF4_CHECK_H_
#define QS_KERNELS_NF4_CHECK_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/nf4_ops.h"

namespace qs {

inline absl::Status CheckNf4Block(DType dtype, int64_t block_size) {
  if (!IsFloatWeight(dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "dtype: got ", DTypeName(dtype), ", allowed F32, F16, BF16"));
  }
  if (block_size < 32 || block_size > 4096 ||
      (block_size & (block_size - 1)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "block_size: got ", block_size, ", allowed 32, 64, ..., 4096"));
  }
  return absl::OkStatus();
}

inline absl::Status CheckNf4Encode(const Nf4EncodeArgs& args) {
  if (args.first_non_finite == nullptr) {
    return absl::InvalidArgumentError("first_non_finite: null");
  }
  return CheckNf4Block(args.weight.dtype, args.block_size);
}

inline absl::Status CheckNestedRefine(const NestedRefineArgs& args) {
  if (args.first_block < 0 || args.first_block >= kNestedBlockSize) {
    return absl::InvalidArgumentError(absl::StrCat(
        "first_block: got ", args.first_block, ", allowed 0 to 255"));
  }
  return CheckNf4Block(args.weight.dtype, args.block_size);
}

}  // namespace qs

#endif  // QS_KERNELS_NF4_CHECK_H_

// AffineOps on the launchers: the CUDA device's, or the emulation's in tests.
// Tested by tests/kernels/affine_cuda_test.cc.
#include "kernels/cuda/affine_cuda.h"

#include "kernels/affine_check.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_status.h"

namespace qs {
namespace {

using cuda::FromCuda;
using cuda::Native;

class AffineCuda final : public AffineOps {
 public:
  absl::Status Encode(const AffineEncodeArgs& args, Stream& s) override {
    QS_RETURN_IF_ERROR(CheckAffineEncode(args));
    return FromCuda(cuda::LaunchAffineEncode(args, Native(s)), "Encode");
  }
  absl::Status Decode(const AffineDecodeArgs& args, Stream& s) override {
    QS_RETURN_IF_ERROR(
        CheckAffineGroups(args.weight, args.bits, args.group_size));
    return FromCuda(cuda::LaunchAffineDecode(args, Native(s)), "Decode");
  }
  absl::Status PackRows(const PackRowsArgs& args, Stream& s) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    return FromCuda(cuda::LaunchPackRows(args, Native(s)), "PackRows");
  }
  absl::Status UnpackRows(const UnpackRowsArgs& args, Stream& s) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    return FromCuda(cuda::LaunchUnpackRows(args, Native(s)), "UnpackRows");
  }
  absl::Status PackColumns(const PackColumnsArgs& args, Stream& s) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    return FromCuda(cuda::LaunchPackColumns(args, Native(s)), "PackColumns");
  }
  absl::Status UnpackColumns(const UnpackColumnsArgs& args,
                             Stream& s) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    return FromCuda(cuda::LaunchUnpackColumns(args, Native(s)),
                    "UnpackColumns");
  }
  absl::Status PackAwq(const PackAwqArgs& args, Stream& s) override {
    QS_RETURN_IF_ERROR(CheckPackAwq(args.rows, args.cols, args.stride));
    return FromCuda(cuda::LaunchPackAwq(args, Native(s)), "PackAwq");
  }
  absl::Status UnpackAwq(const UnpackAwqArgs& args, Stream& s) override {
    QS_RETURN_IF_ERROR(CheckPackAwq(args.rows, args.cols, args.stride));
    return FromCuda(cuda::LaunchUnpackAwq(args, Native(s)), "UnpackAwq");
  }
  absl::Status PackParts(const PackPartsArgs& args, Stream& s) override {
    QS_RETURN_IF_ERROR(CheckPackParts(args.count, args.part, args.bits));
    return FromCuda(cuda::LaunchPackParts(args, Native(s)), "PackParts");
  }
  absl::Status UnpackParts(const UnpackPartsArgs& args, Stream& s) override {
    QS_RETURN_IF_ERROR(CheckPackParts(args.count, args.part, args.bits));
    return FromCuda(cuda::LaunchUnpackParts(args, Native(s)), "UnpackParts");
  }
};

}  // namespace

std::unique_ptr<AffineOps> NewAffineCuda() {
  return std::make_unique<AffineCuda>();
}

}  // namespace qs

// Nf4Ops on the launchers: the CUDA device's, or the emulation's in tests.
// Tested by tests/kernels/nf4_cuda_test.cc.
#include "kernels/cuda/nf4_cuda.h"

#include "absl/status/status.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/nf4_check.h"

namespace qs {
namespace {

using cuda::FromCuda;
using cuda::Native;

class Nf4Cuda final : public Nf4Ops {
 public:
  absl::Status Encode(const Nf4EncodeArgs& args, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckNf4Encode(args));
    return FromCuda(cuda::LaunchNf4Encode(args, Native(stream)), "Encode");
  }
  absl::Status Decode(const Nf4DecodeArgs& args, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckNf4Block(args.weight.dtype, args.block_size));
    return FromCuda(cuda::LaunchNf4Decode(args, Native(stream)), "Decode");
  }
  absl::Status NestedEncode(const NestedEncodeArgs& args,
                            Stream& stream) override {
    return FromCuda(cuda::LaunchNestedEncode(args, Native(stream)),
                    "NestedEncode");
  }
  absl::Status NestedDecode(const NestedDecodeArgs& args,
                            Stream& stream) override {
    return FromCuda(cuda::LaunchNestedDecode(args, Native(stream)),
                    "NestedDecode");
  }
  absl::Status NestedRefine(const NestedRefineArgs& args,
                            Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckNestedRefine(args));
    return FromCuda(cuda::LaunchNestedRefine(args, Native(stream)),
                    "NestedRefine");
  }
};

}  // namespace

std::unique_ptr<Nf4Ops> NewNf4Cuda() { return std::make_unique<Nf4Cuda>(); }

}  // namespace qs

// HqqOps on the launchers: the CUDA device's, or the emulation's in tests.
// Tested by tests/kernels/hqq_cuda_test.cc.
#include "kernels/cuda/hqq_cuda.h"

#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/hqq_check.h"

namespace qs {
namespace {

class HqqCuda final : public HqqOps {
 public:
  explicit HqqCuda(cuda::Scratch& scratch) : scratch_(scratch) {}

  absl::Status Encode(const HqqEncodeArgs& args, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckHqqEncode(args));
    QS_ASSIGN_OR_RETURN(void* workspace,
                        scratch_.Take(cuda::HqqEncodeWorkspaceBytes(args)));
    QS_RETURN_IF_ERROR(cuda::FromCuda(
        cuda::LaunchHqqEncode(args, workspace, cuda::Native(stream)),
        "Encode"));
    if (args.facts == nullptr) return absl::OkStatus();
    cuda::HqqDeviceFacts facts;
    QS_RETURN_IF_ERROR(
        scratch_.CopyOut(&facts, workspace, sizeof(facts), stream));
    *args.facts = {facts.iterations,
                   args.weight.num_elements() / args.group_size,
                   facts.group_iterations, facts.error};
    return absl::OkStatus();
  }

  absl::Status Decode(const HqqDecodeArgs& args, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckHqqGroups(args.weight, args.group_size, args.axis));
    return cuda::FromCuda(cuda::LaunchHqqDecode(args, cuda::Native(stream)),
                          "Decode");
  }

 private:
  cuda::Scratch& scratch_;
};

}  // namespace

std::unique_ptr<HqqOps> NewHqqCuda(cuda::Scratch& scratch) {
  return std::make_unique<HqqCuda>(scratch);
}

}  // namespace qs

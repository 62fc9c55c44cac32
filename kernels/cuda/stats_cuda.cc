// StatsOps on the launchers: the CUDA device's, or the emulation's in tests.
// Tested by tests/kernels/stats_cuda_test.cc.
#include "kernels/cuda/stats_cuda.h"

#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/stats_check.h"

namespace qs {
namespace {

class StatsCuda final : public StatsOps {
 public:
  explicit StatsCuda(cuda::Scratch& scratch) : scratch_(scratch) {}

  absl::Status Errors(const ErrorSumsArgs& args, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckErrorSums(args));
    QS_ASSIGN_OR_RETURN(void* workspace,
                        scratch_.Take(cuda::ErrorSumsWorkspaceBytes(args)));
    return cuda::FromCuda(
        cuda::LaunchErrorSums(args, workspace, cuda::Native(stream)), "Errors");
  }

 private:
  cuda::Scratch& scratch_;
};

}  // namespace

std::unique_ptr<StatsOps> NewStatsCuda(cuda::Scratch& scratch) {
  return std::make_unique<StatsCuda>(scratch);
}

}  // namespace qs

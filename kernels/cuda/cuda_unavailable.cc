// Gpus() of a build without nvcc.
// Tested by tests/kernels/cuda_provider_test.cc.
#include "kernels/gpus.h"

namespace qs {
namespace {

class NoGpus final : public GpuProvider {
 public:
  absl::StatusOr<std::vector<GpuInfo>> List() const override { return Error(); }
  absl::StatusOr<std::unique_ptr<Backend>> Open(int, std::unique_ptr<Backend>,
                                                int) const override {
    return Error();
  }
  std::string VerifiedOn() const override { return ""; }

 private:
  static absl::Status Error() {
    return absl::UnimplementedError("built without CUDA");
  }
};

}  // namespace

const GpuProvider& Gpus() {
  static const NoGpus gpus;
  return gpus;
}

}  // namespace qs

// Gpus() of the tests of tests/gpu/ where there is none: one emulated device.
#include <memory>
#include <utility>
#include <vector>

#include "kernels/cuda/blas_emulated.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/gpus.h"
#include "tests/testing/fake_device.h"

namespace qs {
namespace {

class EmulatedGpus final : public GpuProvider {
 public:
  absl::StatusOr<std::vector<GpuInfo>> List() const override {
    return std::vector<GpuInfo>{{0, "host emulation", "9.0", kBytes}};
  }
  absl::StatusOr<std::unique_ptr<Backend>> Open(int,
                                                std::unique_ptr<Backend> host,
                                                int lanes) const override {
    return cuda::NewCudaBackend(std::make_shared<cuda::FakeDevice>(),
                                cuda::NewEmulatedBlas, std::move(host), kBytes,
                                lanes);
  }
  std::string VerifiedOn() const override { return "no device"; }

 private:
  static constexpr int64_t kBytes = int64_t{1} << 32;
};

}  // namespace

const GpuProvider& Gpus() {
  static const EmulatedGpus gpus;
  return gpus;
}

}  // namespace qs

// Gpus() of the tests of tests/gpu/ where there is none: one emulated device,
// beside one that is too old.
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
    return std::vector<GpuInfo>{{0, "old", "7.5", kBytes},
                                {1, "host emulation", "9.0", kBytes}};
  }
  absl::StatusOr<std::unique_ptr<Backend>> Open(int index,
                                                std::unique_ptr<Backend> host,
                                                int lanes) const override {
    cuda::DeviceFacts facts = cuda::EmulatedFacts(index);
    if (index == 0) facts.compute_major = 7;
    auto device = std::make_shared<cuda::FakeDevice>(
        cuda::Faults(), /*lazy=*/false, std::move(facts));
    return cuda::NewCudaBackend(std::move(device), cuda::NewEmulatedBlas,
                                std::move(host), kBytes, lanes);
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

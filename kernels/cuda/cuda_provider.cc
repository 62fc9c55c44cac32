// Gpus() of a build with nvcc.
// Tested by tests/kernels/cuda_provider_test.cc.
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cuda_sources.h"  // generated
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/runtime_device.h"
#include "kernels/cuda/verified_on.h"
#include "kernels/gpus.h"

namespace qs {
namespace {

// The rest stays for the libraries that are loaded later and the driver.
constexpr double kMemoryShare = 0.9;

// With the device current. QS_CUBLAS_DIR names the folder to look into first.
absl::StatusOr<std::unique_ptr<cuda::Blas>> LoadBlas(cuda::Device& device) {
  absl::StatusOr<std::unique_ptr<cuda::Blas>> blas =
      absl::UnavailableError("cuBLAS was not loaded");
  const char* const directory = std::getenv("QS_CUBLAS_DIR");
  QS_RETURN_IF_ERROR(device.Launch([&] {
    blas = cuda::LoadLibraries(cuda::RuntimeMajor(),
                               directory == nullptr ? "" : directory);
    return absl::OkStatus();
  }));
  return blas;
}

class CudaGpus final : public GpuProvider {
 public:
  absl::StatusOr<std::vector<GpuInfo>> List() const override {
    QS_ASSIGN_OR_RETURN(const std::vector<cuda::DeviceFacts> devices,
                        cuda::ListRuntimeDevices());
    std::vector<GpuInfo> gpus;
    for (const cuda::DeviceFacts& facts : devices) {
      gpus.push_back({.index = facts.index,
                      .name = facts.name,
                      .compute_capability = absl::StrCat(
                          facts.compute_major, ".", facts.compute_minor),
                      .memory_bytes = facts.memory_bytes});
    }
    return gpus;
  }

  absl::StatusOr<std::unique_ptr<Backend>> Open(int index,
                                                std::unique_ptr<Backend> host,
                                                int lanes) const override {
    QS_ASSIGN_OR_RETURN(const std::vector<cuda::DeviceFacts> devices,
                        cuda::ListRuntimeDevices());
    if (index < 0 || index >= static_cast<int>(devices.size())) {
      return absl::NotFoundError(absl::StrCat("gpu:", index, ": got ", index,
                                              ", allowed 0 to ",
                                              devices.size() - 1));
    }
    const cuda::DeviceFacts& facts = devices[static_cast<size_t>(index)];
    QS_ASSIGN_OR_RETURN(std::shared_ptr<cuda::Device> device,
                        cuda::OpenRuntimeDevice(facts));
    QS_ASSIGN_OR_RETURN(const int64_t free, cuda::FreeMemoryBytes(facts));
    const auto cap =
        static_cast<int64_t>(static_cast<double>(free) * kMemoryShare);
    const auto new_blas = [device] { return LoadBlas(*device); };
    return cuda::NewCudaBackend(device, new_blas, std::move(host), cap, lanes);
  }

  std::string VerifiedOn() const override {
    return cuda::VerifiedOnText(cuda::kVerifiedOn, cuda::kVerifiedSources,
                                cuda::kSources);
  }
};

}  // namespace

const GpuProvider& Gpus() {
  static const CudaGpus gpus;
  return gpus;
}

}  // namespace qs

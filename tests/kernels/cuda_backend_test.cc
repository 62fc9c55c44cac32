// A backend on the emulated device beside the CPU's.
#include "kernels/cuda/cuda_backend.h"

#include <memory>

#include "kernels/cuda/blas_emulated.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/fake_device.h"
#include "tests/testing/generators.h"
#include "tests/testing/nf4_cases.h"

namespace qs::cuda {
namespace {

constexpr int64_t kCap = int64_t{1} << 30;

TEST_CASE("a GPU's backend: names, results, memory", "[backend]") {
  auto device = std::make_shared<FakeDevice>();
  const absl::StatusOr<std::unique_ptr<Backend>> backend =
      NewCudaBackend(device, NewEmulatedBlas(), NewCpuBackend(1), kCap);
  REQUIRE(backend.ok());
  CHECK((*backend)->name() == "gpu:0");
  CHECK((*backend)->description().find("host emulation, compute capability "
                                       "9.0; host: ") == 0);
  CHECK((*backend)->memory().cap == kCap);
  CHECK((*backend)->memory().high_water == 0);

  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 3000, Kind::kGauss, 3);
  const Nf4Case c = {weight,           64, Codebook::kNf4, Nf4Rule::kCuda,
                     Nf4Search::kNone, 3};
  CHECK(RunNf4((*backend)->nf4(), c) == RunNf4(NewCpuBackend(1)->nf4(), c));
  CHECK((*backend)->health().ok());
  CHECK((*backend)->memory().high_water > 0);
  CHECK((*backend)->memory().host_calls == 0);

  device->SetFaults({.lost_after_launches = 0});
  CHECK(RunNf4((*backend)->nf4(), c) == RunNf4(NewCpuBackend(1)->nf4(), c));
  CHECK(absl::IsInternal((*backend)->health()));
  CHECK((*backend)->memory().host_calls > 0);
}

TEST_CASE("no backend on a device that is lost", "[backend]") {
  auto device = std::make_shared<FakeDevice>(Faults{.lost_after_launches = 0});
  CHECK(absl::IsInternal(device->Launch([] { return absl::OkStatus(); })));
  CHECK(absl::IsInternal(
      NewCudaBackend(device, NewEmulatedBlas(), NewCpuBackend(1), kCap)
          .status()));
}

}  // namespace
}  // namespace qs::cuda

// GPTQ's factor by our kernels alone on the GPUs of this machine: what serves
// where cuSOLVER is missing, and is not called where it is there. The emulation
// runs both in gptq_factor_cuda_test.cc.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/runtime_device.h"
#include "tests/gpu/device_testing.h"
#include "tests/testing/gptq_problems.h"

namespace qs {
namespace {

std::vector<std::unique_ptr<Backend>> OpenWithoutSolver() {
  const auto devices = cuda::ListRuntimeDevices();
  INFO(devices.status().ToString());
  REQUIRE(devices.ok());
  std::vector<std::unique_ptr<Backend>> backends;
  for (const cuda::DeviceFacts& facts : *devices) {
    if (facts.compute_major < 8) continue;  // as OpenAllGpus
    auto device = cuda::OpenRuntimeDevice(facts);
    REQUIRE(device.ok());
    const auto free = cuda::FreeMemoryBytes(facts);
    REQUIRE(free.ok());
    absl::StatusOr<std::unique_ptr<cuda::Blas>> blas =
        absl::UnknownError("not asked for");
    REQUIRE((*device)
                ->Launch([&] {
                  const char* const directory = std::getenv("QS_CUBLAS_DIR");
                  blas = cuda::LoadCublas(
                      cuda::CublasPaths(cuda::RuntimeMajor(),
                                        directory == nullptr ? "" : directory));
                  return blas.status();
                })
                .ok());
    auto backend = cuda::NewCudaBackend(*device, std::move(blas),
                                        NewReferenceBackend(), *free / 2);
    INFO(backend.status().ToString());
    REQUIRE(backend.ok());
    backends.push_back(*std::move(backend));
  }
  return backends;
}

TEST_CASE("GPTQ: the factor without cuSOLVER", "[gpu]") {
  const auto host = NewHostBackend();
  for (const auto& gpu : OpenWithoutSolver()) {
    // A panel has 64 columns.
    for (const int64_t cols : {1, 64, 200, 512}) {
      GptqCase c = MakeGptqCase({.rows = 1, .cols = cols, .seed = 5});
      c.order = "desc_act";
      for (const bool in_f64 : {false, true}) {
        c.in_f64 = in_f64;
        GptqResult want, got, again;
        FactorCase(*host, c, &want);
        FactorCase(*gpu, c, &got);
        FactorCase(*gpu, c, &again, /*in_place=*/true);
        INFO(gpu->name() << " " << cols << " columns, in F64: " << in_f64);
        CHECK(got.factor == again.factor);
        CHECK(got.facts.in_f64 == want.facts.in_f64);
        // As in gptq_factor_cuda_test.cc.
        const double tolerance = got.facts.in_f64 ? 0x1p-22 : 0x1p-13;
        double most = 0;
        for (size_t i = 0; i < want.factor.size(); ++i) {
          const auto column = static_cast<int64_t>(i) % cols;
          const double size =
              want.factor[static_cast<size_t>(column * (cols + 1))];
          most = std::max(
              most, std::abs(double{got.factor[i]} - want.factor[i]) / size);
        }
        CHECK(most <= tolerance);
      }
    }
    RequireOnDevice(*gpu);
  }
}

}  // namespace
}  // namespace qs

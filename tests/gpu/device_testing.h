// The GPUs of this machine, for tests on them.
#ifndef QS_TESTS_GPU_DEVICE_TESTING_H_
#define QS_TESTS_GPU_DEVICE_TESTING_H_

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/gpus.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"

namespace qs {

// A backend for each that is not too old, all of whose families are the
// device's own.
inline std::vector<std::unique_ptr<Backend>> OpenAllGpus() {
  const absl::StatusOr<std::vector<GpuInfo>> list = Gpus().List();
  INFO(list.status().ToString());
  REQUIRE(list.ok());
  std::vector<std::unique_ptr<Backend>> backends;
  for (const GpuInfo& gpu : *list) {
    auto backend = Gpus().Open(gpu.index, NewReferenceBackend(),
                               /*lanes=*/1);
    if (absl::IsFailedPrecondition(backend.status())) {
      WARN("left out: " << backend.status().message());
      continue;
    }
    INFO(backend.status().ToString());
    REQUIRE(backend.ok());
    WARN((*backend)->description());
    // Without cuBLAS second moments, GPTQ and AWQ would be the host's, and
    // proved of nothing.
    const std::string products = "second moments, GPTQ and AWQ on the host";
    REQUIRE((*backend)->description().find(products) == std::string::npos);
    backends.push_back(*std::move(backend));
  }
  REQUIRE(!backends.empty());
  return backends;
}

// With all cores, for what the reference takes too long for.
inline std::unique_ptr<Backend> NewHostBackend() {
  const unsigned cores = std::thread::hardware_concurrency();
  return NewCpuBackend(std::max(1, static_cast<int>(cores)));
}

// A prime number of normal weights over and over: no two tiles are the same.
inline TestTensor LargeTensor(DType dtype, int64_t count, uint64_t seed) {
  constexpr int64_t kPeriod = 1000003;
  const TestTensor period =
      TestTensor::Make(dtype, kPeriod, Kind::kGauss, seed);
  TestTensor tensor(dtype, count);
  const int64_t bytes = DTypeBytes(dtype);
  for (int64_t i = 0; i < count; i += kPeriod) {
    std::memcpy(static_cast<uint8_t*>(tensor.data()) + i * bytes, period.data(),
                static_cast<size_t>(std::min(kPeriod, count - i) * bytes));
  }
  return tensor;
}

// The device did everything itself, and is alive.
inline void RequireOnDevice(const Backend& backend) {
  INFO(backend.health().ToString());
  REQUIRE(backend.health().ok());
  REQUIRE(backend.memory().host_calls == 0);
}

inline void RequireOnDevices(
    const std::vector<std::unique_ptr<Backend>>& gpus) {
  for (const auto& gpu : gpus) RequireOnDevice(*gpu);
}

// Each GPU's run(backend) is that of `definition`, which runs once.
template <class Run>
void RequireSame(const std::vector<std::unique_ptr<Backend>>& gpus,
                 Backend& definition, const Run& run) {
  const auto want = run(definition);
  for (const auto& gpu : gpus) {
    INFO(gpu->name());
    const bool same = run(*gpu) == want;
    REQUIRE(same);
  }
}

}  // namespace qs

#endif  // QS_TESTS_GPU_DEVICE_TESTING_H_

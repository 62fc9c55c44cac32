// A server in the test's process whose GPUs are emulated devices.
#ifndef QS_TESTS_SERVICE_GPU_SERVER_H_
#define QS_TESTS_SERVICE_GPU_SERVER_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/blas_emulated.h"
#include "kernels/cuda/cuda_backend.h"
#include "service/server/workers.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/fake_device.h"

namespace qs::testing {

using cuda::Faults;

// Two devices.
class FakeGpus final : public GpuProvider {
 public:
  explicit FakeGpus(const Faults& first = {}, const Faults& second = {},
                    int64_t memory_cap = int64_t{1} << 30,
                    cuda::BlasSource new_blas = cuda::NewEmulatedBlas)
      : memory_cap_(memory_cap),
        new_blas_(std::move(new_blas)),
        devices_{std::make_shared<cuda::FakeDevice>(first, /*lazy=*/true),
                 std::make_shared<cuda::FakeDevice>(second, /*lazy=*/false,
                                                    cuda::EmulatedFacts(1))} {}

  absl::StatusOr<std::vector<GpuInfo>> List() const override {
    return std::vector<GpuInfo>{{0, "fake", "9.0", int64_t{1} << 30},
                                {1, "fake", "9.0", int64_t{1} << 30}};
  }
  absl::StatusOr<std::unique_ptr<Backend>> Open(int index,
                                                std::unique_ptr<Backend> host,
                                                int lanes) const override {
    if (index > 1) return absl::NotFoundError("got 2, allowed 0 to 1");
    return cuda::NewCudaBackend(devices_[static_cast<size_t>(index)], new_blas_,
                                std::move(host), memory_cap_, lanes);
  }
  std::string VerifiedOn() const override { return "fake, 2026-01-31"; }

  cuda::FakeDevice& device(size_t i) { return *devices_[i]; }

 private:
  const int64_t memory_cap_;
  const cuda::BlasSource new_blas_;
  const std::vector<std::shared_ptr<cuda::FakeDevice>> devices_;
};

class GpuServer {
 public:
  GpuServer(const std::string& workers, const GpuProvider& gpus,
            ServerOptions options = TestServerOptions()) {
    REQUIRE(SetLogLevel("off").ok());
    options.workers = *ParseWorkers(workers);
    auto started = Server::Start(options, &gpus);
    INFO(started.status().ToString());
    REQUIRE(started.ok());
    server_ = *std::move(started);
  }

  Server& server() { return *server_; }
  std::shared_ptr<grpc::Channel> NewChannel() const {
    return Connect(server_->port());
  }
  v1::Capabilities Capabilities() const {
    grpc::ClientContext context;
    v1::Capabilities got;
    REQUIRE(v1::QuantizeService::NewStub(NewChannel())
                ->GetCapabilities(&context, {}, &got)
                .ok());
    return got;
  }
  bool Serves(const std::string& service) const {
    HealthStatus health;
    REQUIRE(CheckHealth(NewChannel(), service, &health).ok());
    return health.status() == HealthStatus::SERVING;
  }

 private:
  std::unique_ptr<Server> server_;
};

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_GPU_SERVER_H_

// What a server says of GPUs that it does not have.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "service/server/server.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

// Whose list and GPUs are these errors.
class NoGpus final : public GpuProvider {
 public:
  NoGpus(absl::Status list, absl::Status open)
      : list_(std::move(list)), open_(std::move(open)) {}
  absl::StatusOr<std::vector<GpuInfo>> List() const override {
    if (!list_.ok()) return list_;
    return std::vector<GpuInfo>{{0, "fake", "7.5", int64_t{1} << 30}};
  }
  absl::StatusOr<std::unique_ptr<Backend>> Open(int, std::unique_ptr<Backend>,
                                                int) const override {
    return open_;
  }
  std::string VerifiedOn() const override { return ""; }

 private:
  const absl::Status list_;
  const absl::Status open_;
};

TEST_CASE("why there is no GPU is in GetCapabilities", "[gpu]") {
  for (const char* why :
       {"no NVIDIA driver", "no GPU: out of memory",
        "the driver serves CUDA 12.4, this build needs 13.0 (driver 580 or "
        "later for CUDA 13)"}) {
    const absl::Status status = absl::UnavailableError(why);
    const NoGpus gpus(status, status);
    ServerOptions options = TestServerOptions();
    options.workers = *ParseWorkers("1");
    const auto server = Server::Start(options, &gpus);
    REQUIRE(server.ok());
    grpc::ClientContext context;
    v1::Capabilities got;
    REQUIRE(v1::QuantizeService::NewStub(Connect((*server)->port()))
                ->GetCapabilities(&context, {}, &got)
                .ok());
    CHECK(got.cuda() == why);
    REQUIRE(got.devices_size() == 1);
    CHECK(got.devices(0).name() == "cpu:0");
  }
}

TEST_CASE("a GPU that is named and cannot be used is an error at the start",
          "[gpu]") {
  for (const absl::Status& why :
       {absl::UnavailableError("no NVIDIA driver"),
        absl::ResourceExhaustedError("gpu:0: cudaStreamCreate: no memory"),
        absl::FailedPreconditionError("fake: compute capability: got 7.5, "
                                      "allowed 8.0 and up")}) {
    const NoGpus gpus(absl::OkStatus(), why);
    ServerOptions options = TestServerOptions();
    options.workers = *ParseWorkers("gpu:0,cpu:1");
    const absl::Status status = Server::Start(options, &gpus).status();
    CHECK(status == absl::FailedPreconditionError("workers: got gpu:0: " +
                                                  std::string(why.message())));
  }
}

}  // namespace
}  // namespace qs::testing

// The real quantd after its GPU was lost: the work that it has is done, and
// whether it then serves on or ends, and with which exit code.
#include <csignal>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/service/quantd_process.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

constexpr absl::Duration kEndLimit = absl::Seconds(30);
constexpr int kDevicesLost = 3;

// Whose gpu:0 is lost at the second operation.
class LosingQuantd {
 public:
  explicit LosingQuantd(const std::vector<std::string>& flags) {
    setenv("QS_FAILPOINTS", "device=EIO@2", 1);
    process_.emplace(flags);
    unsetenv("QS_FAILPOINTS");
  }
  QuantdProcess& process() { return *process_; }

  // Two tensors, each as the CPU makes it.
  void RequireQuantizes() {
    const std::vector<TestWeight> weights = {
        TestWeight(1, "a.weight", 8, 128, 1),
        TestWeight(2, "b.weight", 20, 512, 2)};
    Requests requests = {Config("NF4", false, v1::BEST)};
    for (const TestWeight& weight : weights) {
      weight.AppendTo(&requests, 1 << 20);
    }
    const Answers answers = Exchange(process_->NewChannel(), requests);
    INFO(answers.status << " " << answers.problem);
    REQUIRE(answers.status.ok());
    REQUIRE(answers.problem.empty());
    for (const TestWeight& weight : weights) {
      RequireSameAsDirect(answers, PresetSpec("NF4", Profile::kBest), weight,
                          true);
    }
  }
  bool Serves(const std::string& service) const {
    HealthStatus health;
    REQUIRE(CheckHealth(process_->NewChannel(), service, &health).ok());
    return health.status() == HealthStatus::SERVING;
  }
  bool Lost() const {
    return process_->Log().find("device_lost") != std::string::npos;
  }

 private:
  std::optional<QuantdProcess> process_;
};

TEST_CASE("why there is no GPU is in the log and in GetCapabilities",
          "[lost_device]") {
  for (const std::string why : {"no NVIDIA driver", "no GPU: out of memory"}) {
    setenv("QS_NO_GPU", why.c_str(), 1);
    QuantdProcess quantd({"--workers", "1"});
    unsetenv("QS_NO_GPU");
    grpc::ClientContext context;
    v1::Capabilities got;
    REQUIRE(v1::QuantizeService::NewStub(quantd.NewChannel())
                ->GetCapabilities(&context, {}, &got)
                .ok());
    CHECK(got.cuda() == why);
    REQUIRE(Eventually([&] {
      return quantd.Log().find("\"gpus\":\"" + why + "\"") != std::string::npos;
    }));
  }
}

TEST_CASE("the last GPU lost with --exit-when-lost: exit code 3",
          "[lost_device]") {
  LosingQuantd quantd({"--workers", "gpu:0", "--exit-when-lost"});
  CHECK(quantd.Serves("readiness"));
  quantd.RequireQuantizes();  // the stream in which it is lost ends well
  CHECK(quantd.process().WaitForExit(kEndLimit) == kDevicesLost);
  CHECK(quantd.Lost());
  // What it had been, with its libraries.
  CHECK(quantd.process().Log().find("\"gpu_worker\"") != std::string::npos);
}

TEST_CASE("the last GPU lost without it: serves on, and is not ready",
          "[lost_device]") {
  LosingQuantd quantd({"--workers", "gpu:0"});
  CHECK(quantd.Serves("readiness"));
  quantd.RequireQuantizes();
  REQUIRE(Eventually([&] { return quantd.Lost(); }));
  REQUIRE(Eventually([&] { return !quantd.Serves("readiness"); }));
  CHECK(quantd.Serves("liveness"));
  quantd.RequireQuantizes();  // whoever comes anyway is served
  CHECK_FALSE(quantd.process().WaitForEnd(absl::Milliseconds(200)));
  quantd.process().Signal(SIGTERM);
  CHECK(quantd.process().WaitForExit(kEndLimit) == kDevicesLost);
}

TEST_CASE("a GPU lost beside a CPU worker: ready, whatever the flag",
          "[lost_device]") {
  LosingQuantd quantd({"--workers", "gpu:0,cpu:1", "--exit-when-lost"});
  for (int i = 0; i < 200 && !quantd.Lost(); ++i) quantd.RequireQuantizes();
  REQUIRE(quantd.Lost());
  quantd.RequireQuantizes();
  CHECK(quantd.Serves("readiness"));
  CHECK_FALSE(quantd.process().WaitForEnd(absl::Milliseconds(200)));
  quantd.process().Signal(SIGTERM);
  CHECK(quantd.process().WaitForExit(kEndLimit) == 0);
}

}  // namespace
}  // namespace qs::testing

// GPU workers behind a real connection, on the emulated device: results, what
// GetCapabilities says of them, and devices that fail in the middle.
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "quant/device_estimate.h"
#include "tests/service/gpu_server.h"
#include "tests/service/jobs/cancel_loop.h"
#include "tests/service/scrape.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/tolerance.h"

namespace qs::testing {
namespace {

// NF4 of three tensors, each as the CPU makes it.
void RequireQuantizes(const GpuServer& server) {
  const std::vector<TestWeight> weights = {
      TestWeight(1, "a.weight", 8, 128, 1),
      TestWeight(2, "b.weight", 20, 512, 2),
      TestWeight(3, "c.weight", 3, 64, 3)};
  Requests requests = {Config("NF4", false, v1::BEST)};
  for (const TestWeight& weight : weights) weight.AppendTo(&requests, 1 << 20);
  const Answers answers = Exchange(server.NewChannel(), requests);
  INFO(answers.status << " " << answers.problem);
  REQUIRE(answers.status.ok());
  REQUIRE(answers.problem.empty());
  for (const TestWeight& weight : weights) {
    RequireSameAsDirect(answers, PresetSpec("NF4", Profile::kBest), weight,
                        true, kErrorSumTolerance);
  }
}

TEST_CASE("a GPU worker gives the CPU's bytes", "[gpu]") {
  FakeGpus gpus;
  GpuServer server("gpu:0,gpu:1", gpus);
  const auto both_launched = [&gpus] {
    return gpus.device(0).launches() > 0 && gpus.device(1).launches() > 0;
  };
  for (int i = 0; i < 50 && !both_launched(); ++i) RequireQuantizes(server);
  CHECK(both_launched());
  const v1::Capabilities got = server.Capabilities();
  REQUIRE(got.devices_size() == 2);
  for (int i : {0, 1}) {
    const v1::DeviceInfo& device = got.devices(i);
    CHECK(device.name() == "gpu:" + std::to_string(i));
    CHECK(device.description().find("host emulation") == 0);
    CHECK(device.lost().empty());
    CHECK(device.memory_cap_bytes() == int64_t{1} << 30);
    CHECK(device.memory_high_water_bytes() > 0);
    CHECK(device.memory_estimate_bytes() >= kLeastDeviceBytes);
    CHECK(device.host_calls() == 0);
  }
  CHECK(got.cuda() ==
        "gpu:0 fake, compute capability 9.0, 1024 MiB; gpu:1 fake, compute "
        "capability 9.0, 1024 MiB");
  CHECK(got.verified_on() == "fake, 2026-01-31");
}

TEST_CASE("a GPU is the one that its worker names", "[gpu]") {
  FakeGpus gpus;
  GpuServer server("gpu:1", gpus);
  RequireQuantizes(server);
  REQUIRE(server.Capabilities().devices_size() == 1);
  CHECK(server.Capabilities().devices(0).name() == "gpu:1");
  CHECK(gpus.device(0).launches() == 0);
  CHECK(gpus.device(1).launches() > 0);
}

TEST_CASE("seconds of GPUs are counted by method and phase", "[gpu]") {
  const std::string series =
      "quantd_gpu_kernel_seconds_total{method=\"nf4\",phase=\"encode\"}";
  ServerOptions options = TestServerOptions();
  options.metrics_listen = "127.0.0.1:0";
  const FakeGpus gpus;
  GpuServer on_cpu("cpu:1", gpus, options);
  const Scrape before(on_cpu.server().metrics_port());
  RequireQuantizes(on_cpu);
  REQUIRE(Scrape(on_cpu.server().metrics_port())[series] == before[series]);
  GpuServer on_gpu("gpu:0", gpus, options);
  RequireQuantizes(on_gpu);
  const Scrape after(on_gpu.server().metrics_port());
  REQUIRE(after[series] > before[series]);
  REQUIRE(after[series] < before[series] + 60);
  REQUIRE_FALSE(after.Has(
      "quantd_gpu_kernel_seconds_total{method=\"nf4\",phase=\"wait\"}"));
}

TEST_CASE("which library a GPU lacks is told", "[gpu]") {
  const struct {
    const char* says;
    cuda::BlasSource new_blas;
  } lacks[] = {
      {"second moments, GPTQ and AWQ on the host: cuBLAS not found: libx",
       []() -> absl::StatusOr<std::unique_ptr<cuda::Blas>> {
         return absl::UnavailableError("cuBLAS not found: libx");
       }},
      {"GPTQ's factor by kernels of quantd: cuSOLVER not found: liby",
       []() -> absl::StatusOr<std::unique_ptr<cuda::Blas>> {
         auto blas = cuda::NewEmulatedBlasAlone();
         blas->SetCholesky(absl::UnavailableError("cuSOLVER not found: liby"));
         return blas;
       }}};
  for (const auto& lack : lacks) {
    FakeGpus gpus({}, {}, int64_t{1} << 30, lack.new_blas);
    GpuServer server("gpu:0", gpus);
    RequireQuantizes(server);
    const v1::Capabilities got = server.Capabilities();
    REQUIRE(got.devices_size() == 1);
    INFO(got.devices(0).description());
    CHECK(got.devices(0).description().find(lack.says) != std::string::npos);
    CHECK(got.devices(0).lost().empty());
  }
}

TEST_CASE("lanes of one GPU overlap, and it stays one worker", "[gpu]") {
  // The first copy of all waits for a kernel of another thread.
  std::mutex mutex;
  std::optional<std::thread::id> first;
  absl::Notification other_launched;
  std::atomic<bool> came = false;
  Faults hooks;
  hooks.on_copy = [&] {
    {
      std::lock_guard<std::mutex> lock(mutex);
      if (first) return;
      first = std::this_thread::get_id();
    }
    came = other_launched.WaitForNotificationWithTimeout(absl::Seconds(30));
  };
  hooks.on_launch = [&] {
    std::lock_guard<std::mutex> lock(mutex);
    if (first == std::this_thread::get_id() ||
        other_launched.HasBeenNotified()) {
      return;
    }
    other_launched.Notify();
  };
  FakeGpus gpus(hooks);
  ServerOptions options = TestServerOptions();
  options.gpu_lanes = 2;
  GpuServer server("gpu:0", gpus, options);
  RequireQuantizes(server);
  CHECK(came);
  const v1::Capabilities got = server.Capabilities();
  REQUIRE(got.devices_size() == 1);
  CHECK(got.devices(0).name() == "gpu:0");
  CHECK(got.devices(0).lanes() == 2);
  CHECK(got.devices(0).host_calls() == 0);
  CHECK(gpus.device(0).streams() == 2);
  CHECK(server.server().context().pool().busy_seconds().size() == 1);
}

TEST_CASE("one lane: one task at a time", "[gpu]") {
  std::atomic<int> inside = 0;
  std::atomic<int> most = 0;
  Faults hooks;
  hooks.on_copy = [&] {
    if (++inside > most) most = inside.load();
    absl::SleepFor(absl::Milliseconds(1));
    --inside;
  };
  FakeGpus gpus(hooks);
  ServerOptions options = TestServerOptions();
  options.gpu_lanes = 1;
  GpuServer server("gpu:0", gpus, options);
  RequireQuantizes(server);
  CHECK(most == 1);
  CHECK(server.Capabilities().devices(0).lanes() == 1);
}

TEST_CASE("the only device is lost in a stream: the stream ends well",
          "[gpu]") {
  for (const Faults& faults :
       {Faults{.lost_after_launches = 0}, Faults{.lost_after_launches = 1},
        Faults{.lost_after_launches = 3},
        Faults{.lost_after_launches = 1, .lost_late = true},
        Faults{.lost_after_copies = 2, .lost_late = true}}) {
    INFO("after " << faults.lost_after_launches << " launches, "
                  << faults.lost_after_copies << " copies, late "
                  << faults.lost_late);
    FakeGpus gpus(faults);
    GpuServer server("gpu:0", gpus);
    REQUIRE(server.Serves("readiness"));
    RequireQuantizes(server);
    REQUIRE(Eventually([&] { return server.server().lost(); }));
    CHECK_FALSE(server.Serves("readiness"));
    CHECK(server.Serves("liveness"));
    const v1::Capabilities got = server.Capabilities();
    CHECK(got.devices(0).lost().find("gpu:0 is lost") == 0);
    CHECK(got.devices(0).host_calls() > 0);
    RequireQuantizes(server);  // whoever comes anyway is served
  }
}

TEST_CASE("one of two devices is lost: the other goes on", "[gpu]") {
  FakeGpus gpus({.lost_after_copies = 0});
  GpuServer server("gpu:0,cpu:1", gpus);
  for (int i = 0; i < 50 && server.Capabilities().devices(0).lost().empty();
       ++i) {
    RequireQuantizes(server);
  }
  const v1::Capabilities got = server.Capabilities();
  CHECK_FALSE(got.devices(0).lost().empty());
  CHECK(got.devices(1).name() == "cpu:0");
  CHECK(got.devices(1).lost().empty());
  CHECK_FALSE(server.server().lost());
  CHECK(server.Serves("readiness"));
  RequireQuantizes(server);
}

TEST_CASE("one of two GPUs is lost: the other goes on", "[gpu]") {
  FakeGpus gpus({}, {.lost_after_launches = 1});
  GpuServer server("gpu:0,gpu:1", gpus);
  const auto lost = [&server] {
    return server.Capabilities().devices(1).lost();
  };
  for (int i = 0; i < 50 && lost().empty(); ++i) RequireQuantizes(server);
  CHECK(lost().find("gpu:1 is lost") == 0);
  REQUIRE(Eventually(
      [&] { return server.server().context().pool().running() == 0; }));
  CHECK_FALSE(server.server().lost());
  CHECK(server.Serves("readiness"));
  const int64_t before = gpus.device(0).launches();
  const int64_t host_calls = server.Capabilities().devices(1).host_calls();
  for (int i = 0; i < 3; ++i) RequireQuantizes(server);
  const v1::Capabilities got = server.Capabilities();
  CHECK(got.devices(0).lost().empty());
  CHECK(got.devices(0).host_calls() == 0);
  CHECK(got.devices(1).host_calls() == host_calls);
  CHECK(gpus.device(0).launches() > before);
  CHECK(server.Serves("readiness"));
}

TEST_CASE("a device without memory is worked around", "[gpu]") {
  FakeGpus gpus({.memory_bytes = 100});
  GpuServer server("gpu:0", gpus);
  RequireQuantizes(server);
  const v1::Capabilities got = server.Capabilities();
  CHECK(got.devices(0).lost().empty());
  CHECK(got.devices(0).host_calls() > 0);
  CHECK(server.Serves("readiness"));
  CHECK(gpus.device(0).launches() == 0);
}

TEST_CASE("work that a device is too small for goes to a CPU worker", "[gpu]") {
  FakeGpus gpus({}, {}, /*memory_cap=*/kLeastDeviceBytes - 1);
  GpuServer mixed("gpu:0,cpu:1", gpus);
  RequireQuantizes(mixed);
  CHECK(gpus.device(0).copies() == 0);
  CHECK(mixed.Capabilities().devices(0).host_calls() == 0);
  // Without one the GPU's worker does it, and takes for a small tensor what
  // there is.
  GpuServer alone("gpu:0", gpus);
  RequireQuantizes(alone);
  const v1::Capabilities got = alone.Capabilities();
  CHECK(got.devices(0).lost().empty());
  CHECK(got.devices(0).memory_estimate_bytes() >= kLeastDeviceBytes);
  CHECK(got.devices(0).memory_high_water_bytes() < kLeastDeviceBytes);
}

TEST_CASE("lanes of a device that has room for one task's memory", "[gpu]") {
  FakeGpus gpus({}, {}, /*memory_cap=*/kLeastDeviceBytes + (1 << 20));
  GpuServer server("gpu:0", gpus);
  for (int i = 0; i < 3; ++i) RequireQuantizes(server);
  const v1::Capabilities got = server.Capabilities();
  CHECK(got.devices(0).lanes() == 2);
  CHECK(got.devices(0).host_calls() == 0);
  CHECK(got.devices(0).memory_high_water_bytes() <=
        got.devices(0).memory_cap_bytes());
}

TEST_CASE("a client that leaves a slow device frees it at the next tile",
          "[gpu]") {
  FakeGpus gpus;
  ServerOptions options = TestServerOptions();
  options.gpu_lanes = 1;
  GpuServer server("gpu:0", gpus, options);
  const auto requests_of = [](int64_t rows) {
    Requests requests = {Config("NF4", false, v1::REFERENCE)};
    TestWeight(1, "a.weight", rows, 1024, 4).AppendTo(&requests, 1 << 20);
    return requests;
  };
  // A tile of 1 MiB is one slice of several copies.
  REQUIRE(Exchange(server.NewChannel(), requests_of(512)).status.ok());
  const int64_t slice = gpus.device(0).copies();
  REQUIRE(slice > 1);

  gpus.device(0).SetFaults({.copy_time = absl::Milliseconds(100)});
  const Requests requests = requests_of(2048);  // as many tiles as may wait
  QuantizeContext& context = server.server().context();
  int64_t left_at = 0;
  {
    QuantizeCall call(server.NewChannel());
    for (const auto& request : requests) REQUIRE(call.Write(request));
    REQUIRE(Eventually([&] { return context.pool().running() > 0; }));
    left_at = gpus.device(0).copies();
    call.context.TryCancel();
  }
  REQUIRE(Eventually([&] {
    return context.live_streams() == 0 && context.pool().running() == 0;
  }));
  // The lane ends the slice that it is in; a second one of the four where the
  // server hears of it late.
  const int64_t after = gpus.device(0).copies() - left_at;
  CAPTURE(slice);
  CHECK(after <= 2 * slice);
}

// F21. Memory that a lane keeps for its next task counts: it does not grow.
TEST_CASE("jobs that are cancelled give the device's memory back", "[gpu]") {
  int64_t kept = 0;  // by one lane
  for (const int lanes : {1, 2}) {
    INFO(lanes << " lanes");
    FakeGpus gpus;
    JobFolders folders;
    ServerOptions options = JobServerTestOptions(folders);
    options.gpu_lanes = lanes;
    GpuServer server("gpu:0", gpus, options);
    JobClient jobs(server.NewChannel());
    v1::CreateJobRequest request = JobRequest(folders, "out");
    request.mutable_job()->mutable_source()->add_include(
        "*.0.self_attn.q_proj.*");
    const absl::Time began = absl::Now();
    RequireDone(jobs, request);
    const absl::Duration whole = absl::Now() - began;
    std::filesystem::remove_all(folders.Out("out"));
    if (lanes == 1) kept = gpus.device(0).memory_in_use();
    REQUIRE(CancelLoop(jobs, folders, request, whole, 8) > 0);
    REQUIRE(Eventually(
        [&] { return server.server().context().pool().running() == 0; }));
    CHECK(gpus.device(0).memory_in_use() <= lanes * kept);
    RequireDone(jobs, request);
  }
}

TEST_CASE("a device that is not there is an error at the start", "[gpu]") {
  const FakeGpus gpus;
  ServerOptions options = TestServerOptions();
  options.workers = *ParseWorkers("gpu:2,cpu:1");
  const absl::Status missing = Server::Start(options, &gpus).status();
  CHECK(missing.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(missing.message() == "workers: got gpu:2: got 2, allowed 0 to 1");
  CHECK(Server::Start(options).status().message() ==
        "workers: got gpu:2: this program has no GPU support");
}

}  // namespace
}  // namespace qs::testing

// Streams and jobs of every method on an emulated GPU: the bytes of a server
// whose workers are CPUs.
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/device_estimate.h"
#include "tests/service/gpu_server.h"
#include "tests/service/group_messages.h"
#include "tests/service/jobs/job_client.h"
#include "tests/testing/captured.h"

namespace qs::testing {
namespace {

struct Method {
  const char* preset;
  bool calibrated;
};
constexpr Method kMethods[] = {{"NF4", false},
                               {"W4A16", false},
                               {"W4A16-hqq", false},
                               {"W4A16-gptq", true},
                               {"W4A16-awq", true}};

// Two tensors that read one input.
Requests RequestsOf(const Method& method, v1::Profile profile) {
  const std::vector<TestWeight> weights = {
      TestWeight(11, "q.weight", 96, 128, 1),
      TestWeight(12, "k.weight", 40, 128, 2)};
  Requests requests = {Config(method.preset, false, profile)};
  if (!method.calibrated) {
    for (const TestWeight& weight : weights) {
      weight.AppendTo(&requests, 1 << 20);
    }
    return requests;
  }
  const TestSite site("block/in", 128, 300, 5);
  requests.push_back(Group(1, site, weights));
  AppendSite(&requests, 2, 1, site, v1::SiteBegin::ACTIVATIONS);
  for (const TestWeight& weight : weights) AppendTensor(&requests, 1, weight);
  return requests;
}

Answers RequireAnswers(const GpuServer& server, const Requests& requests) {
  Answers answers = Exchange(server.NewChannel(), requests);
  INFO(answers.status << " " << answers.problem);
  REQUIRE(answers.status.ok());
  REQUIRE(answers.problem.empty());
  return answers;
}

// That the device did all of it.
void RequireOnDevice(const GpuServer& server, const cuda::FakeDevice& device,
                     int64_t launches_before) {
  REQUIRE(device.launches() > launches_before);
  REQUIRE(server.Capabilities().devices(0).host_calls() == 0);
  REQUIRE(server.Capabilities().devices(0).lost().empty());
}

TEST_CASE("streams of every method: a GPU's bytes are the CPU's",
          "[gpu_methods]") {
  FakeGpus gpus;
  GpuServer on_cpu("cpu:1", gpus);
  GpuServer on_gpu("gpu:0", gpus);
  for (const Method& method : kMethods) {
    for (const v1::Profile profile : {v1::REFERENCE, v1::BEST}) {
      INFO(method.preset << ", profile " << v1::Profile_Name(profile));
      const Requests requests = RequestsOf(method, profile);
      const int64_t before = gpus.device(0).launches();
      const Answers want = RequireAnswers(on_cpu, requests);
      REQUIRE(gpus.device(0).launches() == before);
      const Answers got = RequireAnswers(on_gpu, requests);
      RequireOnDevice(on_gpu, gpus.device(0), before);
      REQUIRE(got.reports.size() == 2);
      for (const int64_t handle : {11, 12}) {
        INFO("handle " << handle);
        const auto& parts = want.parts.at(handle);
        REQUIRE(got.parts.at(handle).size() == parts.size());
        for (const auto& [name, part] : parts) {
          INFO(name);
          const Answers::Part& other = got.parts.at(handle).at(name);
          REQUIRE(other.complete);
          REQUIRE(other.dtype == part.dtype);
          REQUIRE(other.shape == part.shape);
          REQUIRE(other.bytes == part.bytes);
        }
        CHECK(got.ReportOf(handle)->algorithm() ==
              want.ReportOf(handle)->algorithm());
      }
    }
  }
}

// What a tensor of one tile takes, in a stream.
int64_t LaunchesOf(const char* preset, int64_t rows) {
  FakeGpus gpus;
  const GpuServer server("gpu:0", gpus);
  Requests requests = {Config(preset, /*skip_error_report=*/false)};
  TestWeight(1, "a.weight", rows, 256, 1).AppendTo(&requests, 1 << 20);
  RequireAnswers(server, requests);
  RequireOnDevice(server, gpus.device(0), 0);
  return gpus.device(0).launches();
}

TEST_CASE("streams give a GPU a whole tile at once", "[gpu_methods]") {
  for (const char* preset : {"NF4", "W4A16"}) {
    INFO(preset);
    CHECK(LaunchesOf(preset, 600) == LaunchesOf(preset, 8));
  }
}

// Lines of the log that tell of it.
std::vector<nlohmann::json> AboveEstimate(const std::vector<std::string>& log) {
  std::vector<nlohmann::json> told;
  for (const std::string& line : log) {
    const auto json = nlohmann::json::parse(line);
    if (json["event"] == "gpu_memory_above_estimate") told.push_back(json);
  }
  return told;
}

TEST_CASE("streams keep to the estimates of their memory", "[gpu_methods]") {
  FakeGpus gpus;
  ServerOptions options = TestServerOptions();
  options.gpu_lanes = 1;
  GpuServer server("gpu:0", gpus, options);
  const auto log = Captured([&] {
    REQUIRE(SetLogLevel("warning").ok());
    for (const Method& method : kMethods) {
      RequireAnswers(server, RequestsOf(method, v1::REFERENCE));
    }
    REQUIRE(Eventually(
        [&] { return server.server().context().pool().running() == 0; }));
    REQUIRE(SetLogLevel("off").ok());
  });
  CHECK(AboveEstimate(log).empty());
  CHECK(server.Capabilities().devices(0).memory_high_water_bytes() > 0);
}

// Above the least that a lane has, so that what tasks take counts. Its second
// moments take most; what measures the tensor's output error keeps the matrix.
TEST_CASE("... where one task takes most and another keeps something",
          "[gpu_methods]") {
  constexpr int64_t kInputs = 2048;
  constexpr int64_t kMatrix = kInputs * kInputs * int64_t{sizeof(float)};
  FakeGpus gpus;
  ServerOptions options = TestServerOptions();
  options.gpu_lanes = 1;
  GpuServer server("gpu:0", gpus, options);
  const std::vector<TestWeight> weights = {
      TestWeight(11, "q.weight", 8, kInputs, 1)};
  const TestSite site("block/in", kInputs, 24, 5);
  Requests requests = {Config("W4A16", false, v1::REFERENCE),
                       Group(1, site, weights)};
  AppendSite(&requests, 2, 1, site, v1::SiteBegin::ACTIVATIONS);
  AppendTensor(&requests, 1, weights[0]);
  const auto log = Captured([&] {
    REQUIRE(SetLogLevel("warning").ok());
    CHECK(RequireAnswers(server, requests).ReportOf(11)->has_output_error());
    REQUIRE(Eventually(
        [&] { return server.server().context().pool().running() == 0; }));
    REQUIRE(SetLogLevel("off").ok());
  });
  CHECK(AboveEstimate(log).empty());
  const v1::DeviceInfo device = server.Capabilities().devices(0);
  CHECK(device.host_calls() == 0);
  CHECK(device.memory_high_water_bytes() > kLeastDeviceBytes + kMatrix);
  CHECK(device.memory_high_water_bytes() <= device.memory_estimate_bytes());
  CHECK(device.memory_estimate_bytes() <= 2 * device.memory_high_water_bytes());
}

TEST_CASE("a task that needs more of a GPU than it said is told of, once",
          "[gpu_methods]") {
  FakeGpus gpus;
  ServerOptions options = TestServerOptions();
  options.gpu_lanes = 1;
  GpuServer server("gpu:0", gpus, options);
  WorkerPool& pool = server.server().context().pool();
  const TestWeight weight(1, "a.weight", 8, 128, 1);
  const auto lane = pool.NewLane();
  const auto log = Captured([&] {
    REQUIRE(SetLogLevel("warning").ok());
    for (int i = 0; i < 3; ++i) {
      pool.Submit(lane,
                  [&](Backend& gpu) {
                    Quantize(PresetSpec("NF4", Profile::kBest), weight.info,
                             weight.bytes, gpu, {});
                  },
                  {.taken = 900, .kept = 100});
    }
    REQUIRE(
        Eventually([&] { return pool.queued() == 0 && pool.running() == 0; }));
    // The last task's worker may still be telling.
    pool.Submit(lane, [](Backend&) {});
    REQUIRE(
        Eventually([&] { return pool.queued() == 0 && pool.running() == 0; }));
    REQUIRE(SetLogLevel("off").ok());
  });
  const std::vector<nlohmann::json> told = AboveEstimate(log);
  REQUIRE(told.size() == 1);
  CHECK(told[0]["level"] == "warning");
  CHECK(told[0]["worker"] == "gpu:0");
  CHECK(told[0]["needed_bytes"] == kLeastDeviceBytes);
  CHECK(told[0]["estimate_bytes"] == 1000);
}

// The weights that a job has written, by name of the file.
std::map<std::string, std::string> WeightsOf(const JobFolders& folders,
                                             const std::string& out) {
  std::map<std::string, std::string> files = ReadTree(folders.Out(out));
  std::erase_if(files, [](const auto& file) {
    return std::filesystem::path(file.first).extension() != ".safetensors";
  });
  REQUIRE_FALSE(files.empty());
  return files;
}

TEST_CASE("jobs of every method: a GPU's checkpoint is the CPU's",
          "[gpu_methods]") {
  FakeGpus gpus;
  JobFolders cpu_folders, gpu_folders;
  GpuServer on_cpu("cpu:1", gpus, JobServerTestOptions(cpu_folders));
  GpuServer on_gpu("gpu:0", gpus, JobServerTestOptions(gpu_folders));
  JobClient cpu_jobs(on_cpu.NewChannel());
  JobClient gpu_jobs(on_gpu.NewChannel());
  const auto request_of = [](const JobFolders& folders, const Method& method) {
    v1::CreateJobRequest request =
        JobRequest(folders, method.preset, method.preset);
    v1::Job* const job = request.mutable_job();
    job->mutable_source()->add_include("*.1.self_attn.o_proj.*");
    job->mutable_quantization()->set_profile(v1::REFERENCE);
    if (method.calibrated) {
      job->mutable_calibration()->set_uri(DataUri(kCalibration));
    }
    return request;
  };
  for (const Method& method : kMethods) {
    INFO(method.preset);
    const int64_t before = gpus.device(0).launches();
    const v1::Job want = RequireDone(cpu_jobs, request_of(cpu_folders, method));
    const v1::Job got = RequireDone(gpu_jobs, request_of(gpu_folders, method));
    RequireOnDevice(on_gpu, gpus.device(0), before);
    CHECK(got.summary().digest() == want.summary().digest());
    CHECK(WeightsOf(gpu_folders, method.preset) ==
          WeightsOf(cpu_folders, method.preset));
  }
}

}  // namespace
}  // namespace qs::testing

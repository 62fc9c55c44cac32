// many_tensors_bench: one job of as many tensors as DeepSeek-V3 has, all of
// them small, so that what is left is the cost of having many. By RPC to a
// server of the same process. One JSON line:
//   {"name":"many_tensors", "tensors" (in the files), "quantized", "shards",
//    "plan_seconds"  CreateJob with validate_only, headers and all,
//    "job_seconds"   from CreateJob's answer to the last event,
//    "ms_a_tensor"   of job_seconds; the arithmetic and 163 synced files are in
//                    it,
//    "peak_mb"       of the process, client included, "workers"}
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "quant/formats/checkpoint.h"
#include "quant/formats/safetensors.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "service/server/log.h"
#include "service/server/server.h"
#include "tests/quant/plan_cases.h"

namespace qs {
namespace {

namespace fs = std::filesystem;
namespace v1 = quant::v1;
using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxSide = 64;
constexpr size_t kShards = 163;  // as the published model

void Require(bool ok, const std::string& what) {
  if (ok) return;
  std::fprintf(stderr, "many_tensors_bench: %s\n", what.c_str());
  std::exit(1);
}

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

// The model's names, with every side cut to kMaxSide. Returns how many.
size_t MakeCheckpoint(const std::string& folder) {
  const PlanRequest model = ReadPlanCase("deepseek_v3").request;
  std::vector<uint8_t> values(kMaxSide * kMaxSide * 4);
  for (size_t i = 0; i < values.size(); ++i) {
    // bf16 of 0.5 to 1: finite in F32 and F16 too.
    values[i] = i % 2 == 0 ? static_cast<uint8_t>(i * 37) : 0x3f;
  }
  std::map<std::string, std::string> weight_map;
  const size_t count = model.tensors.size();
  int64_t total = 0;
  for (size_t s = 0; s < kShards; ++s) {
    const std::string file =
        absl::StrFormat("model-%05d-of-%05d.safetensors", s + 1, kShards);
    std::vector<SafetensorsItem> items;
    for (size_t t = count * s / kShards; t < count * (s + 1) / kShards; ++t) {
      const PlanTensor& tensor = model.tensors[t];
      std::vector<int64_t> shape = tensor.shape;
      size_t bytes = static_cast<size_t>(DTypeBytes(tensor.dtype));
      for (int64_t& side : shape) {
        side = std::min(side, kMaxSide);
        bytes *= static_cast<size_t>(side);
      }
      items.push_back(
          {tensor.name, tensor.dtype, shape, {values.data(), bytes}});
      weight_map[tensor.name] = file;
      total += static_cast<int64_t>(bytes);
    }
    const absl::Status written =
        WriteSafetensors(folder + "/" + file, std::move(items));
    Require(written.ok(), written.ToString());
  }
  std::ofstream(folder + "/model.safetensors.index.json")
      << SafetensorsIndexJson(weight_map, total);
  std::ofstream(folder + "/config.json") << model.config_json;
  return count;
}

v1::CreateJobRequest RequestFor(const std::string& folder) {
  v1::CreateJobRequest request;
  v1::Job* job = request.mutable_job();
  job->mutable_source()->set_uri("file://" + folder + "/in");
  job->mutable_quantization()->set_preset("NF4");
  job->mutable_quantization()->set_profile(v1::REFERENCE);
  job->mutable_destination()->set_uri("file://" + folder + "/out/result");
  return request;
}

v1::Job Create(v1::JobService::Stub& stub,
               const v1::CreateJobRequest& request) {
  grpc::ClientContext context;
  v1::Job job;
  const grpc::Status status = stub.CreateJob(&context, request, &job);
  Require(status.ok(), status.error_message());
  return job;
}

v1::Job WaitFor(v1::JobService::Stub& stub, const std::string& name) {
  v1::WatchJobRequest request;
  request.set_name(name);
  grpc::ClientContext context;
  const auto reader = stub.WatchJob(&context, request);
  v1::JobEvent event;
  v1::Job last;
  while (reader->Read(&event)) {
    if (event.change().has_job()) last = event.change().job();
    if (event.has_snapshot()) last = event.snapshot();
  }
  Require(reader->Finish().ok(), "WatchJob");
  Require(last.state() == v1::Job::SUCCEEDED, last.ShortDebugString());
  return last;
}

double PeakMegabytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

void Run(const std::string& folder) {
  fs::create_directories(folder + "/in");
  fs::create_directories(folder + "/out");
  const size_t tensors = MakeCheckpoint(folder + "/in");

  ServerOptions options;
  options.listen = "127.0.0.1:0";
  options.data_dir = folder + "/data";
  options.read_roots = {folder + "/in"};
  options.write_roots = {folder + "/out"};
  auto server = Server::Start(options);
  Require(server.ok(), server.status().ToString());
  const int workers = (*server)->context().pool().threads();
  const auto stub = v1::JobService::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", (*server)->port()),
                          grpc::InsecureChannelCredentials()));

  v1::CreateJobRequest request = RequestFor(folder);
  request.set_validate_only(true);
  auto began = Clock::now();
  const v1::Job planned = Create(*stub, request);
  const double plan_seconds = Seconds(began);

  request.set_validate_only(false);
  const v1::Job made = Create(*stub, request);
  began = Clock::now();
  const v1::Job done = WaitFor(*stub, made.name());
  const double job_seconds = Seconds(began);
  const auto quantized = static_cast<double>(done.summary().tensors());
  std::printf(
      "{\"name\":\"many_tensors\",\"tensors\":%zu,\"quantized\":%.0f,"
      "\"shards\":%lld,\"plan_seconds\":%.3f,\"job_seconds\":%.2f,"
      "\"ms_a_tensor\":%.3f,\"peak_mb\":%.0f,\"workers\":%d}\n",
      tensors, quantized, static_cast<long long>(planned.plan().shards()),
      plan_seconds, job_seconds, job_seconds * 1e3 / quantized, PeakMegabytes(),
      workers);
}

}  // namespace
}  // namespace qs

int main() {
  std::string folder =
      (qs::fs::temp_directory_path() / "many_tensors.XXXXXX").string();
  qs::Require(mkdtemp(folder.data()) != nullptr, "no temporary folder");
  qs::Require(qs::SetLogLevel("error").ok(), "log level");
  qs::Server::PrepareProcess(false);
  qs::Run(folder);
  qs::fs::remove_all(folder);
}

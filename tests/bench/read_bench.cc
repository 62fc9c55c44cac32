// read_bench [--bytes N] [--runs N] [--dir DIR] [--quantd PATH]: a result in
// the store, as files and as tensors, and an uploaded tensor of about its size
// are read from a quantd process, in turns. Prints one JSON line:
//   {"name", "bytes" (of the result's files), "tensor_seconds" (ReadTensor,
//    median), "files_seconds" and "packed_seconds" (ReadResult), each with its
//    "..._gb_s" and "..._server_cpu_seconds"; "files_ratio", "packed_ratio" (of
//    the seconds a byte to ReadTensor's), "peak_memory_bytes" (of the server),
//    "runs"}
// The result is made of one tensor of twice the bytes (W8A16).
#include <grpcpp/grpcpp.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "quant/formats/safetensors.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "quant/v1/tensors.grpc.pb.h"
#include "service/server/server.h"
#include "tests/bench/stream_load.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Clock = std::chrono::steady_clock;

constexpr int64_t kChunkBytes = int64_t{1} << 20;
constexpr int64_t kCols = 4096;

struct Settings {
  int64_t bytes = int64_t{1} << 30;
  int runs = 3;
  std::string dir;
  std::string quantd;
};

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "read_bench: %s\n", what.c_str());
  std::exit(1);
}

void Require(const grpc::Status& status) {
  if (!status.ok()) Fail(status.error_message());
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void WriteSource(const Settings& settings) {
  std::vector<uint8_t> piece(static_cast<size_t>(kChunkBytes));
  for (size_t i = 0; i < piece.size(); ++i) {
    // bf16 of 0.5 to 1.
    piece[i] = i % 2 == 0 ? static_cast<uint8_t>(i * 37 + (i >> 9)) : 0x3f;
  }
  const SafetensorsItem item{"model.layers.0.mlp.up_proj.weight",
                             DType::kBF16,
                             {settings.bytes / kCols, kCols},
                             {}};
  const absl::Status status = StreamSafetensors(
      settings.dir + "/source.safetensors", {item}, {},
      [&](const SafetensorsItem&, const AppendBytes& append) -> absl::Status {
        for (int64_t at = 0; at < 2 * settings.bytes; at += kChunkBytes) {
          const absl::Status appended = append(piece);
          if (!appended.ok()) return appended;
        }
        return absl::OkStatus();
      });
  if (!status.ok()) Fail(status.ToString());
}

// The name of a job whose result is in the store.
std::string MakeResult(v1::JobService::Stub& stub, const Settings& settings) {
  v1::CreateJobRequest request;
  request.mutable_job()->mutable_source()->set_uri(
      absl::StrCat("file://", settings.dir, "/source.safetensors"));
  v1::QuantizationConfig* const config =
      request.mutable_job()->mutable_quantization();
  config->set_preset("W8A16");
  config->set_profile(v1::REFERENCE);
  grpc::ClientContext context;
  v1::Job job;
  Require(stub.CreateJob(&context, request, &job));
  v1::WatchJobRequest watch;
  watch.set_name(job.name());
  grpc::ClientContext watching;
  const auto reader = stub.WatchJob(&watching, watch);
  v1::JobEvent event;
  v1::Job::State last = job.state();
  while (reader->Read(&event)) {
    if (event.has_snapshot()) last = event.snapshot().state();
    if (event.change().has_job()) last = event.change().job().state();
  }
  Require(reader->Finish());
  if (last != v1::Job::SUCCEEDED) Fail("the job failed");
  return job.name();
}

std::string UploadTensor(v1::TensorService::Stub& stub, int64_t bytes) {
  v1::CreateUploadRequest create;
  create.set_tensor_name("a.weight");
  create.set_dtype(v1::U8);
  create.add_shape(bytes);
  grpc::ClientContext creating;
  v1::Upload upload;
  Require(stub.CreateUpload(&creating, create, &upload));
  grpc::ClientContext context;
  const auto stream = stub.WriteTensor(&context);
  v1::WriteTensorRequest request;
  request.set_upload(upload.name());
  for (int64_t at = 0; at < bytes; at += kChunkBytes) {
    request.set_offset(at);
    request.set_data(
        std::string(static_cast<size_t>(std::min(kChunkBytes, bytes - at)),
                    static_cast<char>(at >> 20)));
    request.set_finish(at + kChunkBytes >= bytes);
    if (!stream->Write(request)) break;
  }
  stream->WritesDone();
  v1::WriteTensorResponse response;
  while (stream->Read(&response)) continue;
  Require(stream->Finish());
  return response.tensor().name();
}

int64_t ReadTensor(v1::TensorService::Stub& stub, const std::string& name) {
  v1::ReadTensorRequest request;
  request.set_name(name);
  grpc::ClientContext context;
  const auto reader = stub.ReadTensor(&context, request);
  v1::ReadTensorResponse response;
  int64_t bytes = 0;
  while (reader->Read(&response)) {
    bytes += static_cast<int64_t>(response.data().size());
  }
  Require(reader->Finish());
  return bytes;
}

int64_t ReadResult(v1::JobService::Stub& stub, const std::string& name,
                   v1::ReadResultRequest::View view) {
  v1::ReadResultRequest request;
  request.set_name(name);
  request.set_view(view);
  grpc::ClientContext context;
  const auto reader = stub.ReadResult(&context, request);
  v1::ReadResultResponse response;
  int64_t bytes = 0;
  while (reader->Read(&response)) {
    bytes += static_cast<int64_t>(response.chunk().data().size() +
                                  response.frame().data().size());
  }
  Require(reader->Finish());
  return bytes;
}

// One way to read, run after run.
struct Way {
  explicit Way(std::string name_in) : name(std::move(name_in)) {}

  template <typename Read>
  void Run(const ServerProcess& server, const Read& read) {
    const double cpu_before = server.cpu_seconds();
    const auto start = Clock::now();
    bytes = read();
    seconds.push_back(
        std::chrono::duration<double>(Clock::now() - start).count());
    cpu.push_back(server.cpu_seconds() - cpu_before);
  }
  double SecondsAByte() const {
    return Median(seconds) / static_cast<double>(bytes);
  }
  std::string Json() const {
    char text[200];
    std::snprintf(text, sizeof text,
                  "\"%s_seconds\": %.3f, \"%s_gb_s\": %.3f, "
                  "\"%s_server_cpu_seconds\": %.3f, ",
                  name.c_str(), Median(seconds), name.c_str(),
                  1e-9 / SecondsAByte(), name.c_str(), Median(cpu));
    return text;
  }

  const std::string name;
  int64_t bytes = 0;
  std::vector<double> seconds;
  std::vector<double> cpu;
};

int Run(const Settings& settings) {
  WriteSource(settings);
  const std::string port_file = settings.dir + "/port";
  const ServerProcess server(
      {settings.quantd, "--listen", "127.0.0.1:0", "--port-file", port_file,
       "--data-dir", settings.dir + "/data", "--read-root", settings.dir,
       "--log-level", "off"},
      port_file);
  const auto channel =
      grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials());
  const auto jobs = v1::JobService::NewStub(channel);
  const auto tensors = v1::TensorService::NewStub(channel);
  const std::string job = MakeResult(*jobs, settings);
  Way tensor("tensor"), files("files"), packed("packed");
  const std::string uploaded = UploadTensor(*tensors, settings.bytes);
  for (int i = 0; i < settings.runs; ++i) {
    tensor.Run(server, [&] { return ReadTensor(*tensors, uploaded); });
    files.Run(server, [&] {
      return ReadResult(*jobs, job, v1::ReadResultRequest::FILES);
    });
    packed.Run(server, [&] {
      return ReadResult(*jobs, job, v1::ReadResultRequest::PACKED);
    });
  }
  std::printf(
      "{\"name\": \"read\", \"bytes\": %lld, %s%s%s\"files_ratio\": %.3f, "
      "\"packed_ratio\": %.3f, \"peak_memory_bytes\": %lld, \"runs\": %d}\n",
      static_cast<long long>(files.bytes), tensor.Json().c_str(),
      files.Json().c_str(), packed.Json().c_str(),
      files.SecondsAByte() / tensor.SecondsAByte(),
      packed.SecondsAByte() / tensor.SecondsAByte(),
      static_cast<long long>(server.peak_memory()), settings.runs);
  return 0;
}

Settings Parse(int argc, char** argv) {
  Settings settings;
  settings.quantd =
      std::filesystem::path(argv[0]).parent_path().string() + "/quantd";
  settings.dir = std::filesystem::temp_directory_path().string();
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--bytes") settings.bytes = std::atoll(argv[i + 1]);
    if (flag == "--runs") settings.runs = std::atoi(argv[i + 1]);
    if (flag == "--dir") settings.dir = argv[i + 1];
    if (flag == "--quantd") settings.quantd = argv[i + 1];
  }
  if (settings.bytes % kChunkBytes != 0) Fail("--bytes: allowed whole MiB");
  return settings;
}

}  // namespace
}  // namespace qs

int main(int argc, char** argv) {
  qs::Server::PrepareProcess(/*tcp_read_chunks=*/false);
  qs::Settings settings = qs::Parse(argc, argv);
  std::string folder = settings.dir + "/read_bench-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) qs::Fail("no folder " + folder);
  settings.dir = folder;
  const int code = qs::Run(settings);
  std::filesystem::remove_all(folder);
  return code;
}

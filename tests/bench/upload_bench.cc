// upload_bench [--bytes N] [--runs N] [--dir DIR] [--quantd PATH]: the durable
// upload of one tensor to a quantd process, and a plain program that writes,
// hashes (SHA-256, OpenSSL) and syncs the same bytes into the same folder, in
// turns. Prints one JSON line:
//   {"name", "bytes", "seconds" (median), "plain_seconds", "ratio" (of the
//    medians), "least_seconds", "plain_least_seconds", "server_cpu_seconds"
//    (median, an upload), "peak_memory_bytes" (of the server), "runs"}
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "quant/v1/tensors.grpc.pb.h"
#include "service/server/server.h"
#include "service/stream/crc32c.h"
#include "service/stream/digest.h"
#include "tests/bench/stream_load.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Clock = std::chrono::steady_clock;

constexpr int64_t kChunkBytes = int64_t{1} << 20;

struct Settings {
  int64_t bytes = int64_t{1} << 30;
  int runs = 5;
  std::string dir;
  std::string quantd;
};

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "upload_bench: %s\n", what.c_str());
  std::exit(1);
}

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::string RandomChunk() {
  std::mt19937_64 random(1);
  std::string chunk(static_cast<size_t>(kChunkBytes), '\0');
  for (char& byte : chunk) byte = static_cast<char>(random());
  return chunk;
}

std::span<const uint8_t> BytesOf(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// The digest goes to *digest.
double RunPlain(const Settings& settings, const std::string& chunk,
                std::string* digest) {
  const std::string path = settings.dir + "/plain";
  const auto start = Clock::now();
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (fd < 0) Fail("cannot write " + path);
  Sha256 hash;
  for (int64_t at = 0; at < settings.bytes; at += kChunkBytes) {
    if (::write(fd, chunk.data(), chunk.size()) !=
        static_cast<ssize_t>(chunk.size())) {
      Fail("cannot write " + path);
    }
    hash.Update(BytesOf(chunk));
  }
  *digest = hash.Finish();
  if (::fdatasync(fd) != 0) Fail("cannot sync " + path);
  ::close(fd);
  const double seconds = SecondsSince(start);
  ::unlink(path.c_str());
  return seconds;
}

v1::Upload CreateUpload(v1::TensorService::Stub& stub, int64_t bytes) {
  v1::CreateUploadRequest request;
  request.set_tensor_name("a.weight");
  request.set_dtype(v1::U8);
  request.add_shape(bytes);
  grpc::ClientContext context;
  v1::Upload upload;
  const grpc::Status status = stub.CreateUpload(&context, request, &upload);
  if (!status.ok()) Fail(status.error_message());
  return upload;
}

double RunUpload(const Settings& settings, v1::TensorService::Stub& stub,
                 const std::string& chunk, const std::string& digest) {
  const auto start = Clock::now();
  const v1::Upload upload = CreateUpload(stub, settings.bytes);
  grpc::ClientContext context;
  const auto stream = stub.WriteTensor(&context);
  v1::WriteTensorRequest request;
  request.set_upload(upload.name());
  request.set_data(chunk);
  for (int64_t at = 0; at < settings.bytes; at += kChunkBytes) {
    request.set_offset(at);
    request.set_crc32c(Crc32c(BytesOf(chunk)));
    request.set_finish(at + kChunkBytes == settings.bytes);
    if (!stream->Write(request)) break;
    request.clear_upload();
  }
  stream->WritesDone();
  v1::WriteTensorResponse response;
  while (stream->Read(&response)) {
  }
  const grpc::Status status = stream->Finish();
  const double seconds = SecondsSince(start);
  if (!status.ok()) Fail(status.error_message());
  if (response.tensor().digest() != digest) Fail("another digest");
  grpc::ClientContext context2;
  v1::DeleteTensorRequest gone;
  gone.set_name(response.tensor().name());
  v1::DeleteTensorResponse unused;
  if (!stub.DeleteTensor(&context2, gone, &unused).ok()) Fail("not deleted");
  return seconds;
}

int Run(const Settings& settings) {
  const std::string chunk = RandomChunk();
  const std::string port_file = settings.dir + "/port";
  const ServerProcess server(
      {settings.quantd, "--listen", "127.0.0.1:0", "--port-file", port_file,
       "--data-dir", settings.dir + "/data", "--log-level", "off"},
      port_file);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto stub = v1::TensorService::NewStub(grpc::CreateCustomChannel(
      server.address(), grpc::InsecureChannelCredentials(), arguments));
  std::vector<double> plain;
  std::vector<double> uploads;
  std::vector<double> cpu;
  for (int i = 0; i < settings.runs; ++i) {
    std::string digest;
    plain.push_back(RunPlain(settings, chunk, &digest));
    const double before = server.cpu_seconds();
    uploads.push_back(RunUpload(settings, *stub, chunk, digest));
    cpu.push_back(server.cpu_seconds() - before);
  }
  std::printf(
      "{\"name\": \"upload\", \"bytes\": %lld, \"seconds\": %.3f, "
      "\"plain_seconds\": %.3f, \"ratio\": %.3f, \"least_seconds\": %.3f, "
      "\"plain_least_seconds\": %.3f, \"server_cpu_seconds\": %.3f, "
      "\"peak_memory_bytes\": %lld, \"runs\": %d}\n",
      static_cast<long long>(settings.bytes), Median(uploads), Median(plain),
      Median(uploads) / Median(plain),
      *std::min_element(uploads.begin(), uploads.end()),
      *std::min_element(plain.begin(), plain.end()), Median(cpu),
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
  std::string folder = settings.dir + "/upload_bench-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) qs::Fail("no folder " + folder);
  settings.dir = folder;
  const int code = qs::Run(settings);
  std::filesystem::remove_all(folder);
  return code;
}

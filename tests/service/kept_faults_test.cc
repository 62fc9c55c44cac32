// A server with a data directory whose clients stop, which is killed at any
// byte of an upload, whose files may not grow, and whose disk lies.
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "quant/v1/quantization.grpc.pb.h"
#include "service/server/error.h"
#include "tests/service/quantd_process.h"
#include "tests/service/scrape.h"
#include "tests/service/tensors/tensor_client.h"
#include "tests/testing/raw_http2.h"
#include "tests/testing/sanitized.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

class KeptServer {
 public:
  explicit KeptServer(const TemporaryFolder& folder,
                      std::vector<std::string> flags = {})
      : metrics_port_(FreePort()) {
    flags.insert(flags.end(), {"--data-dir", folder / "data", "--workers", "1",
                               "--metrics-listen",
                               absl::StrCat("127.0.0.1:", metrics_port_)});
    process_ = std::make_unique<QuantdProcess>(flags);
    stub_ = v1::TensorService::NewStub(process_->NewChannel());
  }

  const QuantdProcess& process() const { return *process_; }
  QuantdProcess& process() { return *process_; }
  TensorStub& stub() { return *stub_; }
  Scrape Metrics() const { return Scrape(metrics_port_); }
  bool Healthy() const {
    grpc::ClientContext context;
    context.set_deadline(In(absl::Seconds(5)));
    grpc::health::v1::HealthCheckRequest request;
    request.set_service("readiness");
    grpc::health::v1::HealthCheckResponse response;
    return grpc::health::v1::Health::NewStub(process_->NewChannel())
        ->Check(&context, request, &response)
        .ok();
  }
  std::string NewUpload(const Bytes& bytes, const std::string& id) {
    const auto made = Create(*stub_, CreateRequest(bytes, id));
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    return made->name();
  }
  v1::Tensor Put(const Bytes& bytes, const std::string& id) {
    WriteStream stream(*stub_);
    REQUIRE(stream.Begin(NewUpload(bytes, id)) == 0);
    REQUIRE(stream.SendFrom(bytes, 0));
    REQUIRE(stream.Finish().ok());
    return stream.tensor;
  }
  // Nothing of any call is left.
  bool IsIdle() const {
    const Scrape scrape = Metrics();
    for (const auto& [series, value] : scrape.values()) {
      for (const char* gauge :
           {"quantd_rpc_in_flight", "quantd_streams",
            "quantd_worker_queue_tasks", "quantd_memory_budget_waiting",
            "quantd_memory_budget_bytes{kind=\"reserved\"}"}) {
        if (series.rfind(gauge, 0) == 0 && value != 0) return false;
      }
    }
    return true;
  }

 private:
  const int metrics_port_;
  std::unique_ptr<QuantdProcess> process_;
  std::unique_ptr<TensorStub> stub_;
};

// --- clients that stop

constexpr int kStoppedReaders = 24;
constexpr int kStoppedUploads = 20;
constexpr int kStoppedStreams = 20;  // of Quantize

v1::QuantizeRequest Config() {
  v1::QuantizeRequest request;
  request.mutable_config()->mutable_quantization()->set_preset("NF4");
  return request;
}

// A whole call without a tensor.
bool Quantizes(const QuantdProcess& server) {
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(10)));
  const auto stub = v1::QuantizeService::NewStub(server.NewChannel());
  const auto stream = stub->Quantize(&context);
  stream->Write(Config());
  stream->WritesDone();
  v1::QuantizeResponse response;
  while (stream->Read(&response)) continue;
  return stream->Finish().ok() && response.has_summary();
}

template <typename Message>
std::string Encoded(const Message& message) {
  return GrpcMessage(message.SerializeAsString());
}

// A connection with one call whose client has stopped: it neither reads nor
// says anything more, as one that got SIGSTOP; its kernel takes what fits.
class StoppedClient {
 public:
  StoppedClient(int port, const std::string& path, const std::string& bytes)
      : connection_(port, /*silent=*/true) {
    // Windows of 16 MiB, so that the server may send a lot.
    const std::string settings = std::string("\0\4", 2) + Http2Number(16 << 20);
    const std::string greeting = Http2Greeting();
    sent_ = connection_.SendOnly(
        greeting.substr(0, 24) + MakeFrame(kSettings, 0, 0, settings) +
        MakeFrame(kWindowUpdate, 0, 0, Http2Number(16 << 20)) +
        MakeFrame(kHeaders, kEndHeaders, 1, CallHeaders(path)) + bytes);
  }
  bool sent() const { return sent_; }

 private:
  RawHttp2 connection_;
  bool sent_ = false;
};

// A message, and half of another.
std::string OneAndAHalf(const std::string& one, const std::string& other) {
  return MakeFrame(kData, 0, 1, one) +
         MakeFrame(kData, 0, 1, other.substr(0, other.size() / 2));
}

std::vector<std::unique_ptr<StoppedClient>> StopClients(
    KeptServer& server, const std::string& tensor, const Bytes& bytes) {
  std::vector<std::unique_ptr<StoppedClient>> clients;
  const auto add = [&](const std::string& path, const std::string& data) {
    clients.push_back(
        std::make_unique<StoppedClient>(server.process().port(), path, data));
  };
  v1::ReadTensorRequest read;
  read.set_name(tensor);
  for (int i = 0; i < kStoppedReaders; ++i) {
    add("/quant.v1.TensorService/ReadTensor",
        MakeFrame(kData, kEndStream, 1, Encoded(read)));
  }
  const std::string piece = Encoded(Piece(bytes, 0, 16 << 10));
  for (int i = 0; i < kStoppedUploads; ++i) {
    v1::WriteTensorRequest begin;
    begin.set_upload(server.NewUpload(bytes, absl::StrCat("stopped", i)));
    add("/quant.v1.TensorService/WriteTensor",
        OneAndAHalf(Encoded(begin), piece));
  }
  for (int i = 0; i < kStoppedStreams; ++i) {
    add("/quant.v1.QuantizeService/Quantize",
        OneAndAHalf(Encoded(Config()), Encoded(Config())));
  }
  return clients;
}

// Calls of three services one after the other, and how long the slowest in a
// hundred of each took.
std::string ServeOthers(KeptServer& server, const std::string& name,
                        const Bytes& small, int rounds) {
  std::vector<double> times[3];
  for (int i = 0; i < rounds; ++i) {
    absl::Time began = absl::Now();
    const auto took = [&began] {
      const absl::Duration time =
          absl::Now() - std::exchange(began, absl::Now());
      return absl::ToDoubleMilliseconds(time);
    };
    CHECK(server.Healthy());
    times[0].push_back(took());
    CHECK(Quantizes(server.process()));
    times[1].push_back(took());
    CHECK(server.Put(small, absl::StrCat(name, i)).digest() == DigestOf(small));
    times[2].push_back(took());
  }
  std::string text = name;
  const char* const calls[] = {"health", "quantize", "upload"};
  for (int call = 0; call < 3; ++call) {
    std::sort(times[call].begin(), times[call].end());
    const size_t at = times[call].size() * 99 / 100;
    absl::StrAppendFormat(&text, ", %s %.2f ms", calls[call], times[call][at]);
  }
  return text;
}

// QS_STOP_SECONDS=60 for as long as clients have by default; says the 99th
// percentile of the calls of others.
int StopSeconds() {
  const char* const text = std::getenv("QS_STOP_SECONDS");
  return text == nullptr ? 3 : std::atoi(text);
}

TEST_CASE("64 clients that stop are cut off, and cost the others nothing",
          "[kept_faults]") {
  TemporaryFolder folder;
  const int seconds = StopSeconds();
  KeptServer server(folder, {"--stream-idle-timeout", absl::StrCat(seconds),
                             "--max-tensor-streams", "64"});
  const Bytes bytes = RandomBytes(48 << 20, 1);
  const Bytes small = RandomBytes(64 << 10, 2);
  const std::string tensor = server.Put(bytes, "read").name();
  REQUIRE(Read(server.stub(), tensor).status.ok());
  const int rounds = seconds < 60 ? 10 : 500;
  const std::string alone = ServeOthers(server, "alone", small, rounds);
  const int64_t memory = server.process().Memory("VmRSS");
  const auto clients = StopClients(server, tensor, small);
  REQUIRE(clients.size() == 64);
  for (const auto& client : clients) REQUIRE(client->sent());
  const auto in_flight = [&server](const std::string& method) {
    return server.Metrics()["quantd_rpc_in_flight{method=\"" + method + "\"}"];
  };
  REQUIRE(Eventually([&] {
    return in_flight("ReadTensor") == kStoppedReaders &&
           in_flight("WriteTensor") == kStoppedUploads &&
           in_flight("Quantize") == kStoppedStreams;
  }));
  // While they are there, everybody else is served.
  const std::string beside = ServeOthers(server, "beside", small, rounds);
  if (rounds > 10) std::printf("%s\n%s\n", alone.c_str(), beside.c_str());
  CHECK(Read(server.stub(), tensor).bytes == bytes);
  // And then they are not; who reads nothing has no connection either.
  CHECK(
      Eventually([&] { return server.IsIdle(); }, absl::Seconds(37 + seconds)));
  const int64_t more = server.process().Memory("VmHWM") - memory;
  INFO("memory +" << (more >> 20) << " MiB at most");
  if (kMemoryIsTheServers) CHECK(more < int64_t{256} << 20);
}

// --- a server that is killed

// QS_KILL_SEEDS=200 for the whole of it.
int KillSeeds() {
  const char* const text = std::getenv("QS_KILL_SEEDS");
  return text == nullptr ? 12 : std::atoi(text);
}

TEST_CASE("killed at a random byte of an upload", "[kept_faults]") {
  const Bytes bytes = RandomBytes(3'000'000, 5);
  const auto all = static_cast<int64_t>(bytes.size());
  const std::string digest = DigestOf(bytes);
  for (int seed = 0; seed < KillSeeds(); ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(static_cast<uint32_t>(seed));
    const auto last = static_cast<int64_t>(random()) % all;
    const int64_t chunk = 1 + static_cast<int64_t>(random()) % 300'000;
    TemporaryFolder folder;
    int64_t sent = 0;
    int64_t acknowledged = 0;
    {
      KeptServer server(folder);
      WriteStream stream(server.stub());
      REQUIRE(stream.Begin(server.NewUpload(bytes, "r")) == 0);
      while (sent < last) {
        const int64_t size = std::min(chunk, last - sent);
        v1::WriteTensorRequest piece = Piece(bytes, sent, size);
        const bool flush = random() % 3 == 0;
        piece.set_flush(flush);
        REQUIRE(stream.stream->Write(piece));
        sent += size;
        while (flush && stream.persisted < sent) REQUIRE(stream.Next() >= 0);
      }
      acknowledged = stream.persisted;
      server.process().Signal(SIGKILL);
      stream.Status().IgnoreError();
      acknowledged = std::max(acknowledged, stream.persisted);
    }
    KeptServer server(folder);
    const auto upload = Create(server.stub(), CreateRequest(bytes, "r"));
    REQUIRE(upload.ok());
    CHECK(upload->persisted_size() >= acknowledged);
    CHECK(upload->persisted_size() <= sent);
    WriteStream rest(server.stub());
    const int64_t at = rest.Begin(upload->name());
    REQUIRE(at == upload->persisted_size());
    REQUIRE(rest.SendFrom(bytes, at));
    REQUIRE(rest.Finish().ok());
    CHECK(rest.tensor.digest() == digest);
    CHECK(Eventually([&] { return server.IsIdle(); }));
    // Of this process.
    const Scrape metrics = server.Metrics();
    CHECK(metrics["quantd_upload_bytes_total"] ==
          static_cast<double>(all - at));
    CHECK(metrics["quantd_upload_resumes_total"] == (at > 0 ? 1 : 0));
    CHECK(metrics["quantd_blob_store_bytes{kind=\"used\"}"] ==
          static_cast<double>(all));
  }
}

// --- files that may not grow

// The processes that are started meanwhile may write so much to a file.
class FileLimit {
 public:
  explicit FileLimit(rlim_t bytes) {
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before_) == 0);
    const rlimit limit{bytes, before_.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~FileLimit() { setrlimit(RLIMIT_FSIZE, &before_); }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;

 private:
  rlimit before_{};
};

TEST_CASE("files that may not grow are a full disk", "[kept_faults]") {
  TemporaryFolder folder;
  const Bytes small = RandomBytes(1 << 20, 1);
  const Bytes large = RandomBytes(8 << 20, 2);
  std::string kept;
  std::string part;
  {
    std::unique_ptr<KeptServer> server;
    {
      const FileLimit limit(2 << 20);
      server = std::make_unique<KeptServer>(folder);
    }
    kept = server->Put(small, "small").name();
    part = server->NewUpload(large, "large");
    WriteStream stream(server->stub());
    REQUIRE(stream.Begin(part) == 0);
    stream.SendFrom(large, 0);
    const absl::Status full = stream.Finish();
    INFO(full.ToString());
    CHECK(full.code() == absl::StatusCode::kResourceExhausted);
    CHECK(ErrorReason(full) == "DISK_FULL");
    // It stays up, and what it has can be read.
    REQUIRE(server->Healthy());
    CHECK(Read(server->stub(), kept).bytes == small);
    CHECK(server->Put(RandomBytes(1 << 20, 3), "after").name() != "");
    CHECK(Eventually([&] { return server->IsIdle(); }));
    // Records, too, until their file is full; none is damaged.
    absl::Status records;
    for (int i = 0; i < 20'000 && records.ok(); ++i) {
      v1::CreateUploadRequest request =
          CreateRequest(small, absl::StrCat("fill", i));
      request.set_tensor_name(std::string(500, 'n'));
      records = Create(server->stub(), request).status();
    }
    INFO(records.ToString());
    CHECK(ErrorReason(records) == "DISK_FULL");
    CHECK(Read(server->stub(), kept).bytes == small);
    server->process().Signal(SIGTERM);
    CHECK(server->process().WaitForExit(absl::Seconds(20)) == 0);
  }
  KeptServer server(folder);
  CHECK(Read(server.stub(), kept).bytes == small);
  WriteStream rest(server.stub());
  const int64_t at = rest.Begin(part);
  REQUIRE(at >= 0);
  REQUIRE(rest.SendFrom(large, at));
  REQUIRE(rest.Finish().ok());
  CHECK(rest.tensor.digest() == DigestOf(large));
}

// --- a disk that lies

TEST_CASE("damage is counted, and hurts one tensor", "[kept_faults]") {
  TemporaryFolder folder;
  KeptServer server(folder);
  const Bytes sound = RandomBytes(2 << 20, 1);
  const v1::Tensor other = server.Put(sound, "sound");
  for (const bool cut : {false, true}) {
    const Bytes bytes = RandomBytes(2 << 20, cut ? 2 : 3);
    const v1::Tensor tensor = server.Put(bytes, cut ? "cut" : "flipped");
    const std::string hex = tensor.digest().substr(7);
    const std::string path = folder / ("data/blobs/blobs/" + hex.substr(0, 2) +
                                       "/" + hex.substr(2, 2) + "/" + hex);
    const double before = server.Metrics()["quantd_blob_corrupt_total"];
    if (cut) {
      std::filesystem::resize_file(path, 1'000'000);
    } else {
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(1'500'000).put(static_cast<char>(bytes[1'500'000] ^ 1));
    }
    for (int again = 0; again < 2; ++again) {
      const absl::Status status = Read(server.stub(), tensor.name()).status;
      CHECK(absl::IsDataLoss(status));
      CHECK(ErrorReason(status) == "BLOB_CORRUPT");
    }
    CHECK(server.Metrics()["quantd_blob_corrupt_total"] > before);
    CHECK_FALSE(std::filesystem::exists(path));  // put aside
    CHECK(Read(server.stub(), other.name()).bytes == sound);
  }
  CHECK(Eventually([&] { return server.IsIdle(); }));
}

}  // namespace
}  // namespace qs::testing

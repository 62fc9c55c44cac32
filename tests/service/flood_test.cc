// Streams that are opened and reset, thousands of them on one connection, as in
// a "rapid reset": the server stays up for everybody else and keeps nothing.
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "quant/calibration/calibration_file.h"
#include "quant/v1/calibrations.grpc.pb.h"
#include "quant/v1/quantization.grpc.pb.h"
#include "tests/service/jobs/job_client.h"
#include "tests/service/quantd_process.h"
#include "tests/service/scrape.h"
#include "tests/service/tensors/tensor_client.h"
#include "tests/testing/sanitized.h"

namespace qs::testing {
namespace {

constexpr int kCalls = kSanitized ? 300 : 1500;  // of each kind
// 16 KiB a call; freed memory stays in a sanitizer's quarantine.
constexpr int64_t kMoreMemory = int64_t{kSanitized ? 512 : 96} << 20;
constexpr int kStreams = 40;    // of the server's: --max-tensor-streams
constexpr int kMostOpen = 90;   // of a flood's calls, at the client
constexpr int kHeldCalls = 60;  // that begin before they are cancelled
constexpr auto kHealthLimit = absl::Seconds(5);

// How many calls of a flood are open.
class OpenCalls {
 public:
  // False: it did not come down to `most` in time.
  bool WaitFor(int most) {
    absl::MutexLock lock(&mutex_);
    const auto few = [this, most] { return open_ <= most; };
    return mutex_.AwaitWithTimeout(absl::Condition(&few), absl::Seconds(30));
  }
  void Add(int more) {
    absl::MutexLock lock(&mutex_);
    open_ += more;
  }

 private:
  absl::Mutex mutex_;
  int open_ = 0;
};

enum class When { kAtOnce, kAtFirstMessage, kLater };

class FloodCall {
 public:
  virtual ~FloodCall() = default;
  grpc::ClientContext context;
};

// Sends `requests`, and is cancelled when they are sent, unless earlier.
template <typename Request, typename Response>
class WritingCall final : public FloodCall,
                          public grpc::ClientBidiReactor<Request, Response> {
 public:
  WritingCall(OpenCalls& open, When when, const std::vector<Request>& requests)
      : open_(open), when_(when), requests_(requests) {}

  void Begin(const std::shared_ptr<WritingCall>& self) {
    self_ = self;
    this->StartRead(&response_);
    this->StartWrite(&requests_[0]);
    this->StartCall();
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return;
    if (++sent_ < requests_.size()) return this->StartWrite(&requests_[sent_]);
    if (when_ == When::kAtFirstMessage) context.TryCancel();
  }
  void OnDone(const grpc::Status&) override {
    open_.Add(-1);
    const std::shared_ptr<WritingCall> last = std::move(self_);
  }

 private:
  OpenCalls& open_;
  const When when_;
  const std::vector<Request>& requests_;
  size_t sent_ = 0;
  Response response_;
  std::shared_ptr<WritingCall> self_;
};

// Is cancelled at its first message, unless earlier.
template <typename Response>
class ReadingCall final : public FloodCall,
                          public grpc::ClientReadReactor<Response> {
 public:
  ReadingCall(OpenCalls& open, When when) : open_(open), when_(when) {}

  void Begin(const std::shared_ptr<ReadingCall>& self) {
    self_ = self;
    this->StartRead(&response_);
    this->StartCall();
  }
  void OnReadDone(bool ok) override {
    if (ok && when_ == When::kAtFirstMessage) return context.TryCancel();
    if (ok) this->StartRead(&response_);
  }
  void OnDone(const grpc::Status&) override {
    open_.Add(-1);
    const std::shared_ptr<ReadingCall> last = std::move(self_);
  }

 private:
  OpenCalls& open_;
  const When when_;
  Response response_;
  std::shared_ptr<ReadingCall> self_;
};

// Of a tensor of `rows` x 1024: the first 64 KiB, or all of it.
std::vector<v1::QuantizeRequest> QuantizeRequests(int64_t rows) {
  std::vector<v1::QuantizeRequest> requests(3);
  requests[0].mutable_config()->mutable_quantization()->set_preset("NF4");
  v1::TensorBegin* const begin = requests[1].mutable_tensor();
  begin->set_handle(1);
  begin->set_name("w");
  begin->set_dtype(v1::BF16);
  begin->add_shape(rows);
  begin->add_shape(1024);
  v1::Chunk* const chunk = requests[2].mutable_chunk();
  chunk->set_handle(1);
  chunk->set_data(std::string(64 << 10, '\x3f'));
  chunk->set_last(2 * 1024 * rows == 64 << 10);
  return requests;
}

// A server with an upload, a job that waits, and one whose result is kept.
class Flooded {
 public:
  Flooded()
      : metrics_port_(FreePort()),
        server_({"--data-dir", folders_.folder / "data", "--read-root",
                 QS_TEST_DATA, "--write-root", folders_.folder / "out",
                 "--max-tensor-streams", absl::StrCat(kStreams),
                 "--metrics-listen",
                 absl::StrCat("127.0.0.1:", metrics_port_)}),
        channel_(server_.NewChannel()),
        quantize_(v1::QuantizeService::NewStub(channel_)),
        tensors_(v1::TensorService::NewStub(channel_)),
        jobs_(v1::JobService::NewStub(channel_)) {
    quantize_requests_ = QuantizeRequests(1024);
    upload_ = NewUpload("flood");
    write_requests_ = {Piece(bytes_, 0, 64 << 10)};
    write_requests_[0].set_upload(upload_);
    MakeJobs();
  }

  const QuantdProcess& server() const { return server_; }
  Scrape Metrics() const { return Scrape(metrics_port_); }
  const Bytes& bytes() const { return bytes_; }
  const std::string& upload() const { return upload_; }
  const std::string& waiting_job() const { return waiting_job_; }
  const std::string& kept_job() const { return kept_job_; }
  TensorStub& tensors() { return *tensors_; }

  std::string NewUpload(const std::string& id) {
    const auto made = Create(*tensors_, CreateRequest(bytes_, id));
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    return made->name();
  }

  // `calls` of each kind, and all of them ended at the client.
  void Run(int calls) {
    std::vector<std::weak_ptr<FloodCall>> held;
    for (int i = 0; i < 4 * calls; ++i) {
      REQUIRE(open_.WaitFor(kMostOpen));
      open_.Add(1);
      const auto when = static_cast<When>(i / 4 % 3);
      const std::shared_ptr<FloodCall> call = Begin(i % 4, when);
      if (when == When::kAtOnce) call->context.TryCancel();
      if (when == When::kLater) held.push_back(call);
      if (held.size() < kHeldCalls) continue;
      for (const auto& weak : held) {
        if (const auto later = weak.lock()) later->context.TryCancel();
      }
      held.clear();
    }
    for (const auto& weak : held) {
      if (const auto later = weak.lock()) later->context.TryCancel();
    }
    REQUIRE(open_.WaitFor(0));
  }

 private:
  void MakeJobs() {
    JobClient client(server_.NewChannel());
    v1::CreateJobRequest request = JobRequest(folders_, "");
    request.mutable_job()->clear_destination();
    kept_job_ = client.Create(request)->name();
    REQUIRE(WaitDone(client, kept_job_).state() == v1::Job::SUCCEEDED);
    MakeCalibration();
    request.mutable_job()->mutable_quantization()->set_preset("W4A16-gptq");
    request.mutable_job()->mutable_calibration()->set_name(
        "projects/-/calibrations/open");
    const auto waiting = client.Create(request);
    INFO(waiting.status().ToString());
    REQUIRE(waiting.ok());
    waiting_job_ = waiting->name();
  }

  template <typename Call, typename... Arguments>
  std::shared_ptr<Call> New(Arguments&&... arguments) {
    return std::make_shared<Call>(open_, std::forward<Arguments>(arguments)...);
  }

  std::shared_ptr<FloodCall> Begin(int kind, When when) {
    switch (kind) {
      case 0: {
        const auto call =
            New<WritingCall<v1::QuantizeRequest, v1::QuantizeResponse>>(
                when, quantize_requests_);
        quantize_->async()->Quantize(&call->context, call.get());
        call->Begin(call);
        return call;
      }
      case 1: {
        const auto call =
            New<WritingCall<v1::WriteTensorRequest, v1::WriteTensorResponse>>(
                when, write_requests_);
        tensors_->async()->WriteTensor(&call->context, call.get());
        call->Begin(call);
        return call;
      }
      case 2: {
        const auto call = New<ReadingCall<v1::JobEvent>>(when);
        watch_.set_name(waiting_job_);
        jobs_->async()->WatchJob(&call->context, &watch_, call.get());
        call->Begin(call);
        return call;
      }
      default: {
        const auto call = New<ReadingCall<v1::ReadResultResponse>>(when);
        read_.set_name(kept_job_);
        jobs_->async()->ReadResult(&call->context, &read_, call.get());
        call->Begin(call);
        return call;
      }
    }
  }

  // With the sites of the job, which stay open.
  void MakeCalibration() {
    const auto file =
        CalibrationFile::Open(std::string(QS_TEST_DATA) + "/" + kCalibration);
    REQUIRE(file.ok());
    v1::CreateCalibrationRequest request;
    request.set_calibration_id("open");
    for (const CalibrationSite& site : file->sites()) {
      v1::CalibrationSite* const out = request.add_sites();
      out->set_name(site.name);
      out->set_inputs(site.inputs);
      out->mutable_modules()->Add(site.modules.begin(), site.modules.end());
    }
    grpc::ClientContext context;
    v1::Calibration made;
    REQUIRE(v1::CalibrationService::NewStub(server_.NewChannel())
                ->CreateCalibration(&context, request, &made)
                .ok());
  }

  JobFolders folders_;
  const int metrics_port_;
  QuantdProcess server_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::QuantizeService::Stub> quantize_;
  const std::unique_ptr<TensorStub> tensors_;
  const std::unique_ptr<v1::JobService::Stub> jobs_;
  const Bytes bytes_ = RandomBytes(1 << 20, 1);
  std::string upload_;
  std::string waiting_job_;
  std::string kept_job_;
  std::vector<v1::QuantizeRequest> quantize_requests_;
  std::vector<v1::WriteTensorRequest> write_requests_;
  v1::WatchJobRequest watch_;
  v1::ReadResultRequest read_;
  OpenCalls open_;
};

// What other clients do meanwhile, over connections of their own.
class Bystander {
 public:
  explicit Bystander(Flooded& flooded)
      : flooded_(flooded),
        channel_(flooded.server().NewChannel()),
        upload_(flooded.NewUpload("bystander")),
        client_(channel_),
        watch_(client_, flooded.waiting_job()),
        stub_(v1::TensorService::NewStub(channel_)),
        health_(grpc::health::v1::Health::NewStub(channel_)),
        quantize_(v1::QuantizeService::NewStub(channel_)),
        stream_(*stub_) {
    v1::JobEvent event;
    REQUIRE(watch_.Read(&event));
    REQUIRE(stream_.Begin(upload_) == 0);
    thread_ = std::jthread([this](std::stop_token stop) { Work(stop); });
  }

  // After the flood.
  void End() {
    thread_.request_stop();
    thread_.join();
    watch_.Cancel();
    watch_.ReadAll();
    REQUIRE(absl::IsCancelled(watch_.Finish()));
    const Bytes& bytes = flooded_.bytes();
    REQUIRE(stream_.SendFrom(bytes, sent_));
    v1::WriteTensorRequest last;
    last.set_finish(true);
    last.set_offset(static_cast<int64_t>(bytes.size()));
    REQUIRE(stream_.stream->Write(last));
    while (stream_.Next() >= 0) continue;
    REQUIRE(stream_.stream->Finish().ok());
    REQUIRE(stream_.tensor.digest() == DigestOf(bytes));
  }

  int64_t rounds = 0;
  int64_t quantized = 0;
  std::string failed;  // the first call that did
  absl::Duration slowest;

 private:
  void Work(const std::stop_token& stop) {
    while (!stop.stop_requested() && failed.empty()) {
      CheckHealth();
      if (!client_.Get(flooded_.kept_job()).ok()) failed = "GetJob";
      SendPiece();
      QuantizeOne();
      ++rounds;
    }
  }

  // Goes on with an upload that was begun before.
  void SendPiece() {
    const Bytes& bytes = flooded_.bytes();
    if (sent_ + kPiece > static_cast<int64_t>(bytes.size())) return;
    v1::WriteTensorRequest piece = Piece(bytes, sent_, kPiece);
    piece.set_flush(true);
    sent_ += kPiece;
    if (!stream_.stream->Write(piece)) failed = "WriteTensor";
    while (failed.empty() && stream_.persisted < sent_) {
      if (stream_.Next() < 0) failed = "WriteTensor";
    }
  }

  // May be refused for a limit, and comes back.
  void QuantizeOne() {
    grpc::ClientContext context;
    context.set_deadline(In(absl::Seconds(30)));
    const auto stream = quantize_->Quantize(&context);
    for (const v1::QuantizeRequest& request : QuantizeRequests(32)) {
      if (!stream->Write(request)) break;
    }
    stream->WritesDone();
    bool complete = false;
    v1::QuantizeResponse response;
    while (stream->Read(&response)) complete = response.has_summary();
    const grpc::Status status = stream->Finish();
    if (status.ok() && complete) ++quantized;
    if (!status.ok() && status.error_code() != grpc::RESOURCE_EXHAUSTED) {
      failed = "Quantize: " + status.error_message();
    }
  }

  void CheckHealth() {
    const absl::Time begin = absl::Now();
    grpc::ClientContext context;
    context.set_deadline(In(kHealthLimit));
    grpc::health::v1::HealthCheckRequest request;
    request.set_service("readiness");
    grpc::health::v1::HealthCheckResponse response;
    const grpc::Status status = health_->Check(&context, request, &response);
    if (!status.ok() || response.status() != response.SERVING) {
      failed = "Health: " + status.error_message();
    }
    slowest = std::max(slowest, absl::Now() - begin);
  }

  static constexpr int64_t kPiece = 4096;

  Flooded& flooded_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::string upload_;
  JobClient client_;
  JobWatch watch_;
  const std::unique_ptr<TensorStub> stub_;
  const std::unique_ptr<grpc::health::v1::Health::Stub> health_;
  const std::unique_ptr<v1::QuantizeService::Stub> quantize_;
  WriteStream stream_;
  int64_t sent_ = 0;
  std::jthread thread_;
};

constexpr const char* kMethods[] = {"Quantize", "WriteTensor", "WatchJob",
                                    "ReadResult"};

// Calls of a method that the server has ended; only those with `code`, if any.
double Served(const Scrape& scrape, const std::string& method,
              const std::string& code = "") {
  double count = 0;
  for (const auto& [series, value] : scrape.values()) {
    if (series.rfind("quantd_rpc_server_duration_seconds_count", 0) == 0 &&
        series.find("method=\"" + method + "\"") != std::string::npos &&
        series.find(code) != std::string::npos) {
      count += value;
    }
  }
  return count;
}

bool IsIdle(const Scrape& scrape) {
  for (const auto& [series, value] : scrape.values()) {
    for (const char* gauge :
         {"quantd_rpc_in_flight", "quantd_streams", "quantd_worker_queue_tasks",
          "quantd_memory_budget_waiting",
          "quantd_memory_budget_bytes{state=\"reserved\"}"}) {
      if (series.rfind(gauge, 0) == 0 && value != 0) return false;
    }
  }
  return true;
}

// Whether so many calls are admitted at once: none that was reset holds a
// place. Each is open until the last one is.
void RequireAllPlaces(Flooded& flooded) {
  JobClient client(flooded.server().NewChannel());
  v1::ReadResultRequest request;
  request.set_name(flooded.waiting_job());
  request.set_wait(true);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::ReadResultResponse>>>
      readers;
  std::vector<std::unique_ptr<WriteStream>> writers;
  for (int i = 0; i < kStreams; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(client.stub().ReadResult(contexts.back().get(), request));
    writers.push_back(std::make_unique<WriteStream>(flooded.tensors()));
    REQUIRE(writers.back()->Begin(
                flooded.NewUpload(absl::StrCat("place", i))) >= 0);
  }
  REQUIRE(Eventually([&] {
    return flooded.Metrics()["quantd_rpc_in_flight{method=\"ReadResult\"}"] ==
           kStreams;
  }));
  for (int i = 0; i < kStreams; ++i) {
    const auto at = static_cast<size_t>(i);
    contexts[at]->TryCancel();
    REQUIRE(readers[at]->Finish().error_code() == grpc::CANCELLED);
    writers[at]->context.TryCancel();
    REQUIRE(writers[at]->stream->Finish().error_code() == grpc::CANCELLED);
  }
}

TEST_CASE("a flood of opened and reset streams", "[flood]") {
  // Fewer arenas of the allocator, each of which keeps what it once had.
  setenv("MALLOC_ARENA_MAX", "2", /*overwrite=*/1);
  Flooded flooded;
  const QuantdProcess& server = flooded.server();
  // So that what is made once is there: threads, connections to the database,
  // and what the allocator keeps of the most that was needed at a time.
  flooded.Run(kCalls);
  REQUIRE(Eventually([&] { return IsIdle(flooded.Metrics()); }));
  const Scrape before = flooded.Metrics();
  const int64_t memory = server.Memory("VmRSS");
  const int64_t descriptors = server.Count("fd");
  const int64_t threads = server.Count("task");

  Bystander bystander(flooded);
  const absl::Time begin = absl::Now();
  flooded.Run(kCalls);
  const absl::Duration took = absl::Now() - begin;
  bystander.End();
  UNSCOPED_INFO("flood " << absl::FormatDuration(took) << ", bystander "
                         << bystander.rounds << " rounds, "
                         << bystander.quantized << " quantized, health "
                         << absl::FormatDuration(bystander.slowest));
  CHECK(bystander.failed == "");
  CHECK(bystander.rounds > 0);
  CHECK(bystander.quantized > 0);

  REQUIRE(Eventually([&] { return IsIdle(flooded.Metrics()); }));
  const Scrape after = flooded.Metrics();
  for (const char* method : kMethods) {
    const double more = Served(after, method) - Served(before, method);
    UNSCOPED_INFO(method << ": " << more << " calls reached the server, "
                         << Served(after, method, "CANCELLED") -
                                Served(before, method, "CANCELLED")
                         << " were cancelled there");
    CHECK(more >= kCalls / 3);
  }
  RequireAllPlaces(flooded);
  REQUIRE(Eventually([&] { return IsIdle(flooded.Metrics()); }));
  const int64_t more = server.Memory("VmRSS") - memory;
  UNSCOPED_INFO("memory +" << (more >> 20) << " MiB, descriptors "
                           << descriptors << " -> " << server.Count("fd")
                           << ", threads " << threads << " -> "
                           << server.Count("task"));
  CHECK(more < kMoreMemory);
  // A thread that had not read from the database yet opens it. What a writer's
  // stream has received is persisted after its call has ended, and its file is
  // closed then.
  CHECK(Eventually([&] { return server.Count("fd") <= descriptors + 16; }));
  CHECK(server.Count("task") <= threads + 4);
}

}  // namespace
}  // namespace qs::testing

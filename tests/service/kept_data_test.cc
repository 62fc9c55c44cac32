// What a server with a data directory does beside its RPCs' own tests: roles of
// every call, metrics of jobs, bookmarks, a full disk, and a drain with
// everything at work.
#include <sched.h>
#include <sys/mount.h>

#include <fstream>
#include <thread>

#include "quant/v1/calibrations.grpc.pb.h"
#include "service/access/access_file.h"
#include "service/jobs/job_server.h"
#include "service/store/sqlite_job_records.h"
#include "tests/service/jobs/fake_runs.h"
#include "tests/service/jobs/job_client.h"
#include "tests/service/quantd_process.h"
#include "tests/service/scrape.h"
#include "tests/service/tensors/tensor_client.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

// --- roles

std::string HexOf(const std::array<uint8_t, 32>& bytes) {
  std::string hex;
  for (const uint8_t byte : bytes) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

// The reason of one call with a token; "": it went well.
class Caller {
 public:
  Caller(int port, std::string token)
      : token_(std::move(token)),
        tensors_(v1::TensorService::NewStub(Connect(port))),
        calibrations_(v1::CalibrationService::NewStub(Connect(port))),
        jobs_(v1::JobService::NewStub(Connect(port))) {}

  template <typename Service, typename Request, typename Response>
  std::string Unary(grpc::Status (Service::*method)(grpc::ClientContext*,
                                                    const Request&, Response*),
                    Request request = {}) {
    grpc::ClientContext context;
    Prepare(&context);
    Response response;
    return ReasonOf((Stub<Service>().*method)(&context, request, &response));
  }

  // Streams: half-closed at once.
  template <typename Stream>
  std::string EndOf(const Stream& stream) {
    stream->WritesDone();
    return ReasonOf(stream->Finish());
  }
  std::string WriteTensor() {
    grpc::ClientContext context;
    Prepare(&context);
    return EndOf(tensors_->WriteTensor(&context));
  }
  std::string WriteActivations() {
    grpc::ClientContext context;
    Prepare(&context);
    return EndOf(calibrations_->WriteActivations(&context));
  }
  std::string WriteSecondMoments() {
    grpc::ClientContext context;
    Prepare(&context);
    return EndOf(calibrations_->WriteSecondMoments(&context));
  }
  std::string ReadTensor() {
    grpc::ClientContext context;
    Prepare(&context);
    v1::ReadTensorRequest request;
    request.set_name("projects/-/tensors/none");
    return ReasonOf(tensors_->ReadTensor(&context, request)->Finish());
  }
  std::string ReadSite() {
    grpc::ClientContext context;
    Prepare(&context);
    v1::ReadSiteRequest request;
    request.set_name("projects/-/calibrations/none");
    return ReasonOf(calibrations_->ReadSite(&context, request)->Finish());
  }
  std::string WatchJob() {
    grpc::ClientContext context;
    Prepare(&context);
    v1::WatchJobRequest request;
    request.set_name("projects/-/jobs/none");
    return ReasonOf(jobs_->WatchJob(&context, request)->Finish());
  }

 private:
  template <typename Service>
  Service& Stub() {
    if constexpr (std::is_same_v<Service, v1::TensorService::Stub>) {
      return *tensors_;
    } else if constexpr (std::is_same_v<Service, v1::JobService::Stub>) {
      return *jobs_;
    } else {
      return *calibrations_;
    }
  }
  void Prepare(grpc::ClientContext* context) {
    context->set_deadline(In(absl::Seconds(30)));
    context->AddMetadata("authorization", "Bearer " + token_);
  }
  static std::string ReasonOf(const grpc::Status& status) {
    return ErrorReason(FromGrpcStatus(status));
  }

  const std::string token_;
  std::unique_ptr<v1::TensorService::Stub> tensors_;
  std::unique_ptr<v1::CalibrationService::Stub> calibrations_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
};

TEST_CASE("a reader reads everything and changes nothing", "[kept_data]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  options.access_file = folders.folder / "access.json";
  std::ofstream(options.access_file)
      << R"({"tokens": [{"sha256": ")" << HexOf(*HashToken("tok-reader"))
      << R"(", "project": "p", "role": "reader"}]})";
  InProcessServer server(options);
  Caller reader(server.port(), "tok-reader");
  using Tensors = v1::TensorService::Stub;
  using Calibrations = v1::CalibrationService::Stub;
  using Jobs = v1::JobService::Stub;
  const std::string kLow = "ROLE_TOO_LOW";
  CHECK(reader.Unary(&Tensors::CreateUpload) == kLow);
  CHECK(reader.WriteTensor() == kLow);
  CHECK(reader.Unary(&Tensors::DeleteTensor) == kLow);
  CHECK(reader.Unary(&Calibrations::CreateCalibration) == kLow);
  CHECK(reader.WriteActivations() == kLow);
  CHECK(reader.WriteSecondMoments() == kLow);
  CHECK(reader.Unary(&Calibrations::SealSites) == kLow);
  CHECK(reader.Unary(&Calibrations::DeleteCalibration) == kLow);
  CHECK(reader.Unary(&Jobs::CreateJob) == kLow);
  CHECK(reader.Unary(&Jobs::CancelJob) == kLow);
  CHECK(reader.Unary(&Jobs::DeleteJob) == kLow);

  CHECK(reader.Unary(&Tensors::ListTensors).empty());
  CHECK(reader.Unary(&Calibrations::ListCalibrations).empty());
  CHECK(reader.Unary(&Jobs::ListJobs).empty());
  v1::GetUploadRequest upload;
  upload.set_name("projects/-/uploads/none");
  CHECK(reader.Unary(&Tensors::GetUpload, upload) == "UPLOAD_EXPIRED");
  v1::GetTensorRequest tensor;
  tensor.set_name("projects/-/tensors/none");
  CHECK(reader.Unary(&Tensors::GetTensor, tensor) == "TENSOR_NOT_FOUND");
  CHECK(reader.ReadTensor() == "TENSOR_NOT_FOUND");
  v1::GetCalibrationRequest calibration;
  calibration.set_name("projects/-/calibrations/none");
  CHECK(reader.Unary(&Calibrations::GetCalibration, calibration) ==
        "CALIBRATION_NOT_FOUND");
  CHECK(reader.ReadSite() == "CALIBRATION_NOT_FOUND");
  v1::GetJobRequest job;
  job.set_name("projects/-/jobs/none");
  CHECK(reader.Unary(&Jobs::GetJob, job) == "JOB_NOT_FOUND");
  CHECK(reader.WatchJob() == "JOB_NOT_FOUND");
}

// --- metrics

TEST_CASE("jobs move their metrics", "[kept_data]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  options.metrics_listen = "127.0.0.1:0";
  options.max_running_jobs = 1;
  InProcessServer server(options);
  JobClient client(server.NewChannel());
  const auto scrape = [&] { return Scrape(server.server().metrics_port()); };
  const auto of_result = [](const char* name, const char* method,
                            const char* result) {
    return absl::StrCat(name, "{method=\"", method, "\",result=\"", result,
                        "\"}");
  };
  const std::string done =
      of_result("quantd_job_duration_seconds_count", "gptq", "SUCCEEDED");
  const std::string cancelled =
      of_result("quantd_job_duration_seconds_count", "nf4", "CANCELLED");
  const std::string attempts =
      of_result("quantd_job_attempts_sum", "gptq", "SUCCEEDED");
  const Scrape before = scrape();
  const std::string first =
      client.Create(CalibratedRequest(folders, "slow"))->name();
  v1::CreateJobRequest urgent = JobRequest(folders, "urgent");
  urgent.mutable_job()->set_priority(v1::Job::BATCH);
  const std::string second = client.Create(urgent)->name();
  const Scrape meanwhile = scrape();
  const auto jobs = [&](const char* state, const char* priority) {
    return meanwhile[absl::StrCat("quantd_queue_jobs{priority=\"", priority,
                                  "\",state=\"", state, "\"}")];
  };
  // The first runs, or is about to; the other one waits for it.
  CHECK(jobs("RUNNING", "NORMAL") + jobs("QUEUED", "NORMAL") == 1);
  CHECK(jobs("QUEUED", "BATCH") == 1);
  CHECK(meanwhile["quantd_queue_oldest_seconds"] > 0);
  // At least the one that waits, as long as its plan says.
  CHECK(meanwhile["quantd_queue_gpu_seconds"] >= 0.05);
  REQUIRE(client.Cancel(second).ok());
  REQUIRE(WaitDone(client, first).state() == v1::Job::SUCCEEDED);
  REQUIRE(Eventually([&] { return scrape()[done] == before[done] + 1; }));
  const Scrape after = scrape();
  CHECK(after[attempts] == before[attempts] + 1);
  CHECK(after[cancelled] == before[cancelled] + 1);
  CHECK(after["quantd_queue_oldest_seconds"] == 0);
  CHECK(after["quantd_queue_gpu_seconds"] == 0);
  CHECK(after.Has("quantd_job_crashes_total") ==
        before.Has("quantd_job_crashes_total"));
}

// --- bookmarks

TEST_CASE("a watch without news gets bookmarks", "[kept_data]") {
  REQUIRE(SetLogLevel("off").ok());
  TemporaryFolder folder;
  fs::create_directory(folder / "out");
  auto db = SqliteDatabase::Open(folder / "db", {JobRecordsSchema()});
  REQUIRE(db.ok());
  const auto records = NewSqliteJobRecords(**db);
  WorkerPool workers(NewCpuBackends(1, 1));
  ByteBudget budget(1 << 20);
  IoPool io(2, 64);
  FakeRuns runs;
  const OpenAccess access;
  const UriResolver<std::string> fresh = [](const std::string&,
                                            const std::string& uri,
                                            const std::string&) { return uri; };
  const UriResolver<InputPath> existing =
      [](const std::string&, const std::string& uri, const std::string&) {
        return InputPath{uri, nullptr};
      };
  JobServerOptions options;
  options.scheduler.max_running = 0;  // nothing starts
  options.bookmark_interval = absl::Milliseconds(1);
  {
    JobServer jobs(
        JobsContext{
            *records, io, workers, budget, runs.Factory(), {existing, fresh}},
        access, options);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(&jobs.service());
    const auto server = builder.BuildAndStart();
    REQUIRE(jobs.Start().ok());
    JobClient client(Connect(port));
    v1::CreateJobRequest request;
    request.mutable_job()->mutable_source()->set_uri("in");
    request.mutable_job()->mutable_quantization()->set_preset("NF4");
    request.mutable_job()->mutable_destination()->set_uri(folder / "out/a");
    const auto made = client.Create(request);
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    JobWatch watch(client, made->name(), 0, absl::Seconds(20));
    v1::JobEvent event;
    REQUIRE(watch.Read(&event));
    REQUIRE(event.has_snapshot());
    for (int i = 0; i < 2; ++i) {
      REQUIRE(watch.Read(&event));
      CHECK(event.has_bookmark());
      CHECK(event.revision() == 1);
    }
    // A bookmark's revision is one to go on from.
    REQUIRE(client.Cancel(made->name()).ok());
    while (event.has_bookmark()) REQUIRE(watch.Read(&event));
    CHECK(event.change().state() == v1::Job::CANCELLED);
    watch.ReadAll();
    CHECK(watch.Finish().ok());
    server->Shutdown(In(absl::Seconds(5)));
  }
}

// --- a full disk

TEST_CASE("a full file system: said, survived and used again", "[kept_data]") {
  TemporaryFolder folder;
  fs::create_directory(folder / "small");
  // In a mount namespace of its own, which ends with the thread.
  std::thread([&] {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("none", (folder / "small").c_str(), "tmpfs", 0, "size=12m") !=
            0) {
      WARN("skipped: mounting a small file system needs the rights to: "
           << strerror(errno));
      return;
    }
    const std::vector<std::string> flags = {"--data-dir", folder / "small/data",
                                            "--workers", "1"};
    const Bytes small = RandomBytes(2 << 20, 1);
    std::string kept;
    std::string part;
    const Bytes large = RandomBytes(16 << 20, 2);
    {
      QuantdProcess server(flags);
      const auto stub = v1::TensorService::NewStub(server.NewChannel());
      const auto upload = Create(*stub, CreateRequest(small, "small"));
      REQUIRE(upload.ok());
      WriteStream first(*stub);
      REQUIRE(first.Begin(upload->name()) == 0);
      REQUIRE(first.SendFrom(small, 0));
      REQUIRE(first.Finish().ok());
      kept = first.tensor.name();
      const auto too_large = Create(*stub, CreateRequest(large, "large"));
      REQUIRE(too_large.ok());
      part = too_large->name();
      WriteStream second(*stub);
      REQUIRE(second.Begin(part) == 0);
      second.SendFrom(large, 0);
      const absl::Status full = second.Finish();
      INFO(full.ToString());
      REQUIRE(full.code() == absl::StatusCode::kResourceExhausted);
      REQUIRE(ErrorReason(full) == "DISK_FULL");
      // The service stays up, and what it has can be read.
      CHECK(Read(*stub, kept).bytes == small);
      const auto now = Get(*stub, part);
      REQUIRE(now.ok());
      CHECK(now->persisted_size() >= second.persisted);
      CHECK(now->persisted_size() < (16 << 20));
      server.Signal(SIGKILL);
      server.WaitForExit(absl::Seconds(10));
    }
    // Room again: a larger disk. The upload goes on where it was.
    REQUIRE(mount("none", (folder / "small").c_str(), "tmpfs", MS_REMOUNT,
                  "size=64m") == 0);
    QuantdProcess server(flags);
    const auto stub = v1::TensorService::NewStub(server.NewChannel());
    CHECK(Read(*stub, kept).bytes == small);
    WriteStream again(*stub);
    const int64_t at = again.Begin(part);
    REQUIRE(at >= 0);
    REQUIRE(again.SendFrom(large, at));
    REQUIRE(again.Finish().ok());
    CHECK(again.tensor.digest() == DigestOf(large));
  }).join();
}

// --- a drain under load

// An upload that is sent piece by piece until the server ends the stream.
struct Sender {
  Sender(TensorStub& stub, const std::string& upload, const Bytes& bytes)
      : stream(stub), bytes_(bytes) {
    begun = stream.Begin(upload) >= 0;
    thread = std::jthread([this] {
      int64_t at = stream.persisted;
      while (begun && at < static_cast<int64_t>(bytes_.size())) {
        v1::WriteTensorRequest piece = Piece(bytes_, at, 64 << 10);
        piece.set_flush(true);
        if (!stream.stream->Write(piece) || stream.Next() < 0) break;
        at += 64 << 10;
      }
      status = stream.Status();
    });
  }

  WriteStream stream;
  bool begun = false;
  absl::Status status;
  const Bytes& bytes_;
  std::jthread thread;
};

TEST_CASE("a drain with uploads, jobs and watches", "[kept_data]") {
  JobFolders folders;
  const std::vector<std::string> flags = {
      "--data-dir",      folders.folder / "data",
      "--read-root",     QS_TEST_DATA,
      "--write-root",    folders.folder / "out",
      "--drain-timeout", "2",
      "--workers",       "1"};
  std::vector<Bytes> bytes;
  for (uint32_t i = 0; i < 8; ++i) bytes.push_back(RandomBytes(48 << 20, i));
  std::vector<std::string> uploads;
  std::vector<int64_t> acknowledged;
  std::vector<std::string> jobs;
  {
    QuantdProcess server(flags);
    const auto stub = v1::TensorService::NewStub(server.NewChannel());
    JobClient client(server.NewChannel());
    for (const char* out : {"a", "b", "c", "d"}) {
      jobs.push_back(client.Create(CalibratedRequest(folders, out))->name());
    }
    std::vector<std::unique_ptr<JobWatch>> watches;
    for (size_t i = 0; i < 100; ++i) {
      watches.push_back(
          std::make_unique<JobWatch>(client, jobs[i % jobs.size()]));
      v1::JobEvent event;
      REQUIRE(watches.back()->Read(&event));
    }
    std::vector<std::unique_ptr<Sender>> senders;
    for (size_t i = 0; i < bytes.size(); ++i) {
      uploads.push_back(
          Create(*stub, CreateRequest(bytes[i], absl::StrCat(i)))->name());
      senders.push_back(
          std::make_unique<Sender>(*stub, uploads.back(), bytes[i]));
      REQUIRE(senders.back()->begun);
    }
    absl::SleepFor(absl::Milliseconds(100));
    server.Signal(SIGTERM);
    for (const auto& watch : watches) {
      watch->ReadAll();
      const absl::Status status = watch->Finish();
      INFO(status.ToString());
      CHECK((status.ok() || ErrorReason(status) == "DRAINING"));
    }
    for (const auto& sender : senders) {
      sender->thread.join();
      INFO(sender->status.ToString());
      CHECK((sender->status.ok() || ErrorReason(sender->status) == "DRAINING"));
      acknowledged.push_back(sender->stream.persisted);
    }
    // The grace, and what ending takes.
    CHECK(server.WaitForExit(absl::Seconds(15)) == 0);
  }
  QuantdProcess server(flags);
  const auto stub = v1::TensorService::NewStub(server.NewChannel());
  for (size_t i = 0; i < uploads.size(); ++i) {
    const auto upload = Get(*stub, uploads[i]);
    REQUIRE(upload.ok());
    CHECK(upload->persisted_size() >= acknowledged[i]);
    WriteStream rest(*stub);
    const int64_t at = rest.Begin(uploads[i]);
    REQUIRE(at >= acknowledged[i]);
    REQUIRE(rest.SendFrom(bytes[i], at));
    REQUIRE(rest.Finish().ok());
    CHECK(rest.tensor.digest() == DigestOf(bytes[i]));
  }
  JobClient client(server.NewChannel());
  for (const std::string& name : jobs) {
    const v1::Job job = WaitDone(client, name);
    INFO(job.ShortDebugString());
    CHECK(job.state() == v1::Job::SUCCEEDED);
    CHECK(job.attempt() == 1);
  }
}

}  // namespace
}  // namespace qs::testing

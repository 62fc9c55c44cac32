// A server with jobs in the test's process, and calls of JobService.
#ifndef QS_TESTS_SERVICE_JOBS_JOB_CLIENT_H_
#define QS_TESTS_SERVICE_JOBS_JOB_CLIENT_H_

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quant/v1/jobs.grpc.pb.h"
#include "service/access/file_uri.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/in_process_server.h"
#include "tests/testing/sanitized.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {

namespace v1 = quant::v1;

// Of all linears of the tests' checkpoint.
inline constexpr char kCalibration[] = "tiny-llama-calibration.safetensors";

// Where the server of a test reads and writes.
struct JobFolders {
  JobFolders() { std::filesystem::create_directory(folder / "out"); }

  std::string Out(const std::string& name) const {
    return folder / ("out/" + name);
  }
  std::string OutUri(const std::string& name) const {
    return FileUriOf(Out(name));
  }
  std::vector<std::string> OutFiles() const {
    std::vector<std::string> files;
    for (const auto& entry :
         std::filesystem::directory_iterator(folder / "out")) {
      files.push_back(entry.path().filename().string());
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  TemporaryFolder folder;
};

inline ServerOptions JobServerTestOptions(const JobFolders& folders) {
  ServerOptions options = TestServerOptions();
  options.data_dir = folders.folder / "data";
  options.read_roots = {QS_TEST_DATA};
  options.write_roots = {folders.folder / "out"};
  return options;
}

inline std::string DataUri(const std::string& name) {
  return FileUriOf(std::string(QS_TEST_DATA) + "/" + name);
}

inline v1::CreateJobRequest JobRequest(const JobFolders& folders,
                                       const std::string& name,
                                       const std::string& preset = "NF4") {
  v1::CreateJobRequest request;
  v1::Job* job = request.mutable_job();
  job->mutable_source()->set_uri(DataUri("tiny-llama"));
  job->mutable_quantization()->set_preset(preset);
  job->mutable_destination()->set_uri(folders.OutUri(name));
  return request;
}

// The same with the calibration's file; only attention under a sanitizer.
inline v1::CreateJobRequest CalibratedRequest(
    const JobFolders& folders, const std::string& name,
    const std::string& preset = "W4A16-gptq") {
  v1::CreateJobRequest request = JobRequest(folders, name, preset);
  v1::Job* const job = request.mutable_job();
  job->mutable_calibration()->set_uri(DataUri(kCalibration));
  if (kSanitized) job->mutable_source()->add_include("*.self_attn.*");
  return request;
}

// All files below a directory, by relative path.
inline std::map<std::string, std::string> ReadTree(const std::string& path) {
  std::map<std::string, std::string> files;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(path)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    files[std::filesystem::relative(entry.path(), path).string()] = {
        std::istreambuf_iterator<char>(in), {}};
  }
  return files;
}

// Blocking calls, each within 30 s.
class JobClient {
 public:
  explicit JobClient(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(v1::JobService::NewStub(channel)) {}

  absl::StatusOr<v1::Job> Create(const v1::CreateJobRequest& request) {
    return Call(&v1::JobService::Stub::CreateJob, request, v1::Job());
  }
  absl::StatusOr<v1::Job> Get(const std::string& name) {
    v1::GetJobRequest request;
    request.set_name(name);
    return Call(&v1::JobService::Stub::GetJob, request, v1::Job());
  }
  absl::StatusOr<v1::Job> Cancel(const std::string& name) {
    v1::CancelJobRequest request;
    request.set_name(name);
    return Call(&v1::JobService::Stub::CancelJob, request, v1::Job());
  }
  absl::Status Delete(const std::string& name) {
    v1::DeleteJobRequest request;
    request.set_name(name);
    return Call(&v1::JobService::Stub::DeleteJob, request,
                google::protobuf::Empty())
        .status();
  }
  absl::StatusOr<v1::ListJobsResponse> List(
      const std::string& filter = "", int page_size = 0,
      const std::string& page_token = "") {
    v1::ListJobsRequest request;
    request.set_filter(filter);
    if (page_size != 0) request.set_page_size(page_size);
    request.set_page_token(page_token);
    return Call(&v1::JobService::Stub::ListJobs, request,
                v1::ListJobsResponse());
  }

  v1::JobService::Stub& stub() { return *stub_; }

 private:
  template <typename Method, typename Request, typename Response>
  absl::StatusOr<Response> Call(Method method, const Request& request,
                                Response response) {
    grpc::ClientContext context;
    context.set_deadline(In(absl::Seconds(30)));
    const grpc::Status status =
        ((*stub_).*method)(&context, request, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response;
  }

  std::unique_ptr<v1::JobService::Stub> stub_;
};

// An open WatchJob call, a minute at most.
class JobWatch {
 public:
  JobWatch(JobClient& client, const std::string& name, int64_t from = 0,
           absl::Duration limit = absl::Seconds(60)) {
    v1::WatchJobRequest request;
    request.set_name(name);
    request.set_from_revision(from);
    context_.set_deadline(In(limit));
    reader_ = client.stub().WatchJob(&context_, request);
  }
  bool Read(v1::JobEvent* event) { return reader_->Read(event); }
  // Events to the end of the stream.
  std::vector<v1::JobEvent> ReadAll() {
    std::vector<v1::JobEvent> events;
    v1::JobEvent event;
    while (Read(&event)) events.push_back(event);
    return events;
  }
  absl::Status Finish() { return FromGrpcStatus(reader_->Finish()); }
  void Cancel() { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::JobEvent>> reader_;
};

// The job when it is done.
inline v1::Job WaitDone(JobClient& client, const std::string& name) {
  JobWatch watch(client, name);
  const std::vector<v1::JobEvent> events = watch.ReadAll();
  const absl::Status status = watch.Finish();
  INFO(status.ToString());
  REQUIRE(status.ok());
  REQUIRE_FALSE(events.empty());
  const v1::JobEvent& last = events.back();
  return last.has_snapshot() ? last.snapshot() : last.change().job();
}

inline v1::Job RequireMade(JobClient& client,
                           const v1::CreateJobRequest& request) {
  const auto made = client.Create(request);
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  return *made;
}

// Made, and done well.
inline v1::Job RequireDone(JobClient& client,
                           const v1::CreateJobRequest& request) {
  v1::Job job = WaitDone(client, RequireMade(client, request).name());
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::SUCCEEDED);
  return job;
}

inline void RequireError(const absl::Status& status, absl::StatusCode code,
                         const std::string& reason,
                         const std::string& text = "") {
  INFO(status.ToString());
  REQUIRE(status.code() == code);
  REQUIRE(ErrorReason(status) == reason);
  REQUIRE(std::string(status.message()).find(text) != std::string::npos);
}

// For TEST_CASE_METHOD: a server with the usual options, and its client.
struct JobFixture {
  JobFolders folders;
  InProcessServer server{JobServerTestOptions(folders)};
  JobClient jobs{server.NewChannel()};
};

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_JOBS_JOB_CLIENT_H_

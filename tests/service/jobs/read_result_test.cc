// ReadResult over real connections: on the checkpoint of the tests, and on runs
// that do what the test says.
#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "google/rpc/error_details.pb.h"
#include "kernels/backend.h"
#include "quant/formats/dequantize.h"
#include "quant/formats/safetensors.h"
#include "quant/v1/tensors.grpc.pb.h"
#include "service/access/access_file.h"
#include "service/jobs/job_server.h"
#include "service/jobs/result_weight.h"
#include "service/server/proto_convert.h"
#include "service/server/spec_convert.h"
#include "service/store/dir_blob_store.h"
#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_job_records.h"
#include "service/store/sqlite_tensor_records.h"
#include "tests/service/jobs/fake_runs.h"
#include "tests/service/jobs/result_client.h"

namespace qs::testing {
namespace {

// Long enough for a client that reads; sanitizers slow it down.
constexpr absl::Duration kStalledAfter =
    absl::Milliseconds(kSanitized ? 5000 : 700);

namespace fs = std::filesystem;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;
constexpr auto kDenied = absl::StatusCode::kPermissionDenied;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

std::string IdOf(const std::string& name) {
  return name.substr(name.rfind('/') + 1);
}

v1::CreateJobRequest StoredRequest(const JobFolders& folders,
                                   const std::string& preset = "NF4") {
  v1::CreateJobRequest request = JobRequest(folders, "unused", preset);
  request.mutable_job()->clear_destination();
  return request;
}

// Where the server of a test keeps it.
std::string StoredPath(const JobFolders& folders, const std::string& name) {
  return folders.folder / ("data/results/default/" + IdOf(name));
}

TEST_CASE("the store gives the directory that a destination gets",
          "[read_result]") {
  JobFolders folders;
  std::optional<InProcessServer> server(std::in_place,
                                        JobServerTestOptions(folders));
  std::optional<JobClient> client(std::in_place, server->NewChannel());
  const auto beside = client->Create(JobRequest(folders, "a"));
  REQUIRE(beside.ok());
  const auto made = client->Create(StoredRequest(folders));
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  REQUIRE_FALSE(made->has_destination());
  const v1::Job job = WaitDone(*client, made->name());
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::SUCCEEDED);
  REQUIRE(WaitDone(*client, beside->name()).summary().digest() ==
          job.summary().digest());
  const auto tree = ReadTree(folders.Out("a"));

  // Also by the next process.
  client.reset();
  server.reset();
  server.emplace(JobServerTestOptions(folders));
  client.emplace(server->NewChannel());
  ResultCall whole(*client, ResultRequest(made->name()));
  REQUIRE(whole.Finish().ok());
  REQUIRE(whole.files == tree);
  REQUIRE(whole.digest.size() == tree.size());
  for (const auto& [file, digest] : whole.digest) {
    REQUIRE(digest == DigestOf(tree.at(file)));
  }
  REQUIRE(whole.order[0] == "model-00001-of-00002.safetensors");
  REQUIRE(whole.order[1] == "model-00002-of-00002.safetensors");
  REQUIRE(std::is_sorted(whole.order.begin() + 2, whole.order.end()));
  REQUIRE(whole.end->complete());
  REQUIRE(whole.end->digest() == job.summary().digest());
  REQUIRE(whole.end->state() == v1::Job::SUCCEEDED);
  REQUIRE(whole.end->files() == job.summary().files());
  REQUIRE(whole.end->bytes() == job.summary().file_bytes());
  ResultCall none(*client, ResultRequest(beside->name()));
  RequireError(none.Finish(), kPrecondition, "NO_RESULT");

  // The result goes with its job.
  REQUIRE(fs::exists(StoredPath(folders, made->name())));
  REQUIRE(client->Delete(made->name()).ok());
  REQUIRE_FALSE(fs::exists(StoredPath(folders, made->name())));
  ResultCall gone(*client, ResultRequest(made->name()));
  RequireError(gone.Finish(), kNotFound, "JOB_NOT_FOUND");
}

TEST_CASE("a read resumes at any byte of any file", "[read_result]") {
  JobFolders folders;
  InProcessServer server(JobServerTestOptions(folders));
  JobClient client(server.NewChannel());
  const std::string name = client.Create(StoredRequest(folders))->name();
  REQUIRE(WaitDone(client, name).state() == v1::Job::SUCCEEDED);
  ResultCall whole(client, ResultRequest(name));
  REQUIRE(whole.Finish().ok());
  for (size_t i = 0; i < whole.order.size(); ++i) {
    const std::string& file = whole.order[i];
    const auto size = static_cast<int64_t>(whole.files[file].size());
    INFO(file);
    for (const int64_t offset : {int64_t{0}, size / 3, size - 1, size}) {
      v1::ReadResultRequest request = ResultRequest(name);
      request.set_file(file);
      request.set_offset(offset);
      ResultCall rest(client, request);
      REQUIRE(rest.Finish().ok());
      REQUIRE(rest.files[file] ==
              whole.files[file].substr(static_cast<size_t>(offset)));
      REQUIRE(rest.digest.count(file) == 1);
      REQUIRE(rest.order == std::vector<std::string>(
                                whole.order.begin() + static_cast<long>(i),
                                whole.order.end()));
      REQUIRE(rest.end->digest() == whole.end->digest());
    }
  }
  const auto refused =
      [&](const std::function<void(v1::ReadResultRequest*)>& change,
          absl::StatusCode code, const std::string& reason) {
        v1::ReadResultRequest request = ResultRequest(name);
        change(&request);
        ResultCall call(client, request);
        RequireError(call.Finish(), code, reason);
        REQUIRE(call.order.empty());
      };
  using Request = v1::ReadResultRequest;
  refused([](Request* r) { r->set_file("no"); }, kInvalid, "BAD_FIELD");
  refused([](Request* r) { r->set_file("../config.json"); }, kInvalid,
          "BAD_FIELD");
  refused([](Request* r) { r->set_offset(1); }, kInvalid, "BAD_FIELD");
  refused(
      [](Request* r) {
        r->set_file("config.json");
        r->set_offset(-1);
      },
      kInvalid, "BAD_FIELD");
  refused(
      [](Request* r) {
        r->set_file("config.json");
        r->set_offset(1 << 20);
      },
      absl::StatusCode::kOutOfRange, "OFFSET_PAST_END");
  refused([](Request* r) { r->set_view(v1::ReadResultRequest::View(7)); },
          kInvalid, "BAD_FIELD");
  refused([](Request* r) { r->add_include("*"); }, kInvalid, "BAD_FIELD");
  refused([](Request* r) { r->set_tensor("x"); }, kInvalid, "BAD_FIELD");
  refused(
      [](Request* r) {
        r->set_view(Request::PACKED);
        r->set_file("config.json");
      },
      kInvalid, "BAD_FIELD");
  refused(
      [](Request* r) {
        r->set_view(Request::PACKED);
        r->set_tensor("no");
      },
      kInvalid, "BAD_FIELD");
  refused(
      [](Request* r) {
        r->set_view(Request::PACKED);
        for (int i = 0; i < 1001; ++i) r->add_exclude("x");
      },
      kInvalid, "BAD_FIELD");
  refused([](Request* r) { r->set_name("x"); }, kInvalid, "BAD_FIELD");
  refused([](Request* r) { r->set_name("projects/-/jobs/1"); }, kNotFound,
          "JOB_NOT_FOUND");
  refused([](Request* r) { r->set_name("projects/other/jobs/1"); }, kDenied,
          "PROJECT_NOT_ALLOWED");
}

OutputTensor OutputOf(const v1::Frame& frame, const std::string& bytes) {
  OutputTensor out;
  out.name = frame.tensor();
  out.dtype = *DTypeFromProto(frame.dtype());
  out.shape.assign(frame.shape().begin(), frame.shape().end());
  out.data = *Buffer::Allocate(static_cast<int64_t>(bytes.size()));
  std::copy(bytes.begin(), bytes.end(), out.data.data());
  return out;
}

TEST_CASE("tensors are those of the files, by globs, with reports",
          "[read_result]") {
  JobFolders folders;
  InProcessServer server(JobServerTestOptions(folders));
  JobClient client(server.NewChannel());
  v1::CreateJobRequest create = StoredRequest(folders, "W4A16-awq");
  create.mutable_job()->mutable_calibration()->set_uri(DataUri(kCalibration));
  if (kSanitized) {
    create.mutable_job()->mutable_source()->add_exclude("*.down_proj.*");
  }
  const std::string name = client.Create(create)->name();
  const v1::Job job = WaitDone(client, name);
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::SUCCEEDED);
  v1::ReadResultRequest request = ResultRequest(name);
  request.set_view(v1::ReadResultRequest::PACKED);
  ResultCall all(client, request);
  REQUIRE(all.Finish().ok());
  REQUIRE(all.end->tensors() == job.summary().tensors());
  REQUIRE(all.end->complete());
  REQUIRE(static_cast<int64_t>(all.reports.size()) == job.summary().tensors());
  // Every output of every report, once, as it stands in its file.
  std::map<std::string, std::string> stored;
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const char* file : {"model-00001-of-00002.safetensors",
                           "model-00002-of-00002.safetensors"}) {
    const auto opened =
        SafetensorsFile::Open(StoredPath(folders, name) + "/" + file);
    REQUIRE(opened.ok());
    for (const SafetensorsEntry& entry : opened->header().tensors) {
      const auto data = opened->Data(entry);
      stored[entry.name].assign(data.begin(), data.end());
      shapes[entry.name] = entry.shape;
    }
  }
  size_t outputs = 0;
  for (const v1::TensorReport& report : all.reports) {
    REQUIRE(report.output_tensors_size() > 0);
    for (const std::string& output : report.output_tensors()) {
      ++outputs;
      REQUIRE(all.frames.count(output) == 1);
      REQUIRE(all.outputs[output] == stored.at(output));
      const auto& shape = all.frames[output].shape();
      REQUIRE(std::vector<int64_t>(shape.begin(), shape.end()) ==
              shapes[output]);
    }
  }
  REQUIRE(outputs == all.outputs.size());
  REQUIRE(outputs < stored.size());  // embeddings are carried

  // As floats: what the packed ones stand for.
  request.set_view(v1::ReadResultRequest::DEQUANTIZED);
  ResultCall floats(client, request);
  REQUIRE(floats.Finish().ok());
  REQUIRE(floats.reports.size() == all.reports.size());
  REQUIRE(floats.frames.size() == all.reports.size());
  const auto spec = SpecFromProto(create.job().quantization());
  REQUIRE(spec.ok());
  for (const v1::TensorReport& report : all.reports) {
    INFO(report.name());
    std::vector<OutputTensor> packed;
    for (const std::string& output : report.output_tensors()) {
      packed.push_back(OutputOf(all.frames[output], all.outputs[output]));
    }
    const std::vector<int64_t> shape(report.shape().begin(),
                                     report.shape().end());
    const auto weight = Dequantize(
        *spec, report.name(), *DTypeFromProto(report.dtype()), shape, packed);
    REQUIRE(weight.ok());
    REQUIRE(floats.outputs.at(report.name()) ==
            std::string(reinterpret_cast<const char*>(weight->data.data()),
                        static_cast<size_t>(weight->data.size())));
    const v1::Frame& last = floats.frames.at(report.name());
    REQUIRE(last.dtype() == report.dtype());
    REQUIRE(std::vector<int64_t>(last.shape().begin(), last.shape().end()) ==
            shape);
  }
  request.set_view(v1::ReadResultRequest::PACKED);

  // Globs, and resuming at each tensor.
  request.add_include("*layers.1*");
  request.add_exclude("*o_proj*");
  ResultCall some(client, request);
  REQUIRE(some.Finish().ok());
  std::vector<std::string> expected;
  for (const v1::TensorReport& report : all.reports) {
    const std::string& tensor = report.name();
    if (tensor.find("layers.1") != std::string::npos &&
        tensor.find("o_proj") == std::string::npos) {
      expected.push_back(tensor);
    }
  }
  const auto names = [](const ResultCall& call) {
    std::vector<std::string> out;
    for (const v1::TensorReport& report : call.reports) {
      out.push_back(report.name());
    }
    return out;
  };
  REQUIRE(expected.size() > 3);
  REQUIRE(names(some) == expected);
  for (size_t i = 0; i < expected.size(); ++i) {
    request.set_tensor(expected[i]);
    ResultCall rest(client, request);
    REQUIRE(rest.Finish().ok());
    REQUIRE(names(rest) ==
            std::vector<std::string>(expected.begin() + static_cast<long>(i),
                                     expected.end()));
  }
  // One that does not match is a place to begin, too.
  request.set_tensor(all.reports.front().name());
  ResultCall again(client, request);
  REQUIRE(again.Finish().ok());
  REQUIRE(names(again) == expected);
}

TEST_CASE("floats wait for their memory", "[read_result]") {
  ByteBudget budget(1000);
  int woken = 0;
  v1::TensorReport report;
  report.set_name("w");
  report.set_dtype(v1::F32);
  report.add_shape(2);
  report.add_shape(50);  // 500 bytes
  const auto spec = SpecFromProto([] {
    v1::QuantizationConfig config;
    config.set_preset("NF4");
    return config;
  }());
  {
    ResultWeight weight({*spec}, budget, [&] { ++woken; });
    REQUIRE(*weight.Reserve(report, 100));
    REQUIRE(budget.reserved() == 600);
    weight.Reset();
    REQUIRE(budget.reserved() == 0);
    RequireError(weight.Reserve(report, 501).status(), kPrecondition,
                 "NO_WORKER_FITS");
    std::optional<Reservation> other = budget.TryReserve(500);
    REQUIRE_FALSE(*weight.Reserve(report, 100));
    REQUIRE_FALSE(*weight.Reserve(report, 100));
    REQUIRE(budget.waiting() == 1);
    REQUIRE(woken == 0);
    other.reset();
    REQUIRE(woken == 1);
    REQUIRE(*weight.Reserve(report, 100));
    REQUIRE(budget.reserved() == 600);
  }
  REQUIRE(budget.reserved() == 0);
  std::optional<Reservation> other = budget.TryReserve(500);
  {
    ResultWeight weight({*spec}, budget, [&] { ++woken; });
    REQUIRE_FALSE(*weight.Reserve(report, 100));
  }
  REQUIRE(budget.waiting() == 0);  // nobody waits any more
  other.reset();
  REQUIRE(woken == 1);
  REQUIRE(budget.reserved() == 0);
  report.set_dtype(v1::DATA_TYPE_UNSPECIFIED);
  ResultWeight weight({*spec}, budget, [] {});
  RequireError(weight.Reserve(report, 1).status(), absl::StatusCode::kDataLoss,
               "RESULT_CORRUPT");
}

TEST_CASE("damage in the store is said and not served", "[read_result]") {
  JobFolders folders;
  InProcessServer server(JobServerTestOptions(folders));
  JobClient client(server.NewChannel());
  const std::string name = client.Create(StoredRequest(folders))->name();
  REQUIRE(WaitDone(client, name).state() == v1::Job::SUCCEEDED);
  const std::string first = "model-00001-of-00002.safetensors";
  const std::string second = "model-00002-of-00002.safetensors";
  const std::string path = StoredPath(folders, name) + "/" + second;
  const auto read = [&](v1::ReadResultRequest::View view,
                        const std::string& file, int64_t offset) {
    v1::ReadResultRequest request = ResultRequest(name);
    request.set_view(view);
    request.set_file(file);
    request.set_offset(offset);
    auto call = std::make_unique<ResultCall>(client, request);
    RequireError(call->Finish(), absl::StatusCode::kDataLoss, "RESULT_CORRUPT");
    REQUIRE_FALSE(call->end);
    REQUIRE(call->digest.count(second) == 0);
    return call;
  };
  const auto size = static_cast<int64_t>(fs::file_size(path));
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(100);
    const char byte = static_cast<char>(file.get());
    file.seekp(100);
    file.put(static_cast<char>(byte ^ 1));
  }
  REQUIRE(read(v1::ReadResultRequest::FILES, "", 0)->digest.count(first) == 1);
  // The damage is in what an earlier call has sent.
  read(v1::ReadResultRequest::FILES, second, size - 1);
  const auto packed = read(v1::ReadResultRequest::PACKED, "", 0);
  REQUIRE_FALSE(packed->reports.empty());
  const auto intact =
      SafetensorsFile::Open(StoredPath(folders, name) + "/" + first);
  for (const auto& [output, frame] : packed->frames) {
    REQUIRE(intact->Find(output) != nullptr);
  }
  fs::resize_file(path, static_cast<uintmax_t>(size - 1));
  REQUIRE(read(v1::ReadResultRequest::FILES, second, 0)->files.empty());
  fs::remove(path);
  read(v1::ReadResultRequest::FILES, "", 0);
}

TEST_CASE("a result that does not fit is refused before work begins",
          "[read_result]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  options.max_store_bytes = 8 << 20;
  InProcessServer server(options);
  JobClient client(server.NewChannel());
  std::vector<std::string> names;
  while (names.size() < 8) {
    const auto made = client.Create(StoredRequest(folders));
    if (!made.ok()) {
      RequireError(made.status(), absl::StatusCode::kResourceExhausted,
                   "STORE_FULL");
      break;
    }
    names.push_back(made->name());
    REQUIRE(WaitDone(client, names.back()).state() == v1::Job::SUCCEEDED);
  }
  INFO(names.size());
  REQUIRE(names.size() > 0);
  REQUIRE(names.size() < 8);
  // A destination takes no room there, and a deleted job gives its back.
  REQUIRE(client.Create(JobRequest(folders, "a")).ok());
  REQUIRE(client.Delete(names[0]).ok());
  const auto made = client.Create(StoredRequest(folders));
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  REQUIRE(WaitDone(client, made->name()).state() == v1::Job::SUCCEEDED);
}

TEST_CASE("a result that its project has no room for is refused",
          "[read_result]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  options.max_project_bytes = 8 << 20;
  const auto request = StoredRequest(folders);
  std::vector<std::string> names;
  // Makes results until one more is refused.
  const auto fill = [&](JobClient& client) {
    while (names.size() < 8) {
      const auto made = client.Create(request);
      if (!made.ok()) {
        RequireError(made.status(), absl::StatusCode::kResourceExhausted,
                     "PROJECT_QUOTA");
        REQUIRE(ErrorMetadataValue(made.status(), "allowed") == "8388608");
        return;
      }
      names.push_back(made->name());
      REQUIRE(WaitDone(client, names.back()).state() == v1::Job::SUCCEEDED);
    }
  };
  size_t most = 0;
  {
    InProcessServer server(options);
    JobClient client(server.NewChannel());
    fill(client);
    most = names.size();
    INFO(most);
    REQUIRE(most > 0);
    REQUIRE(most < 8);
    v1::CreateJobRequest plan = request;
    plan.set_validate_only(true);
    RequireError(client.Create(plan).status(),
                 absl::StatusCode::kResourceExhausted, "PROJECT_QUOTA");
    // A destination takes no room there.
    REQUIRE(client.Create(JobRequest(folders, "a")).ok());
  }
  InProcessServer server(options);
  JobClient client(server.NewChannel());
  fill(client);
  REQUIRE(names.size() == most);
  // An upload is refused for results, and a result for an upload.
  const auto tensors = v1::TensorService::NewStub(server.NewChannel());
  v1::CreateUploadRequest upload;
  upload.set_parent("projects/-");
  upload.set_tensor_name("w");
  upload.set_dtype(v1::U8);
  upload.add_shape(8 << 20);
  const auto create = [&] {
    grpc::ClientContext context;
    v1::Upload unused;
    return FromGrpcStatus(tensors->CreateUpload(&context, upload, &unused));
  };
  RequireError(create(), absl::StatusCode::kResourceExhausted, "PROJECT_QUOTA");
  REQUIRE(client.Delete(names.back()).ok());
  names.pop_back();
  fill(client);
  REQUIRE(names.size() == most);
  for (const std::string& name : names) REQUIRE(client.Delete(name).ok());
  REQUIRE(create().ok());
  names.clear();
  fill(client);
  REQUIRE(names.empty());
}

TEST_CASE("stored results outlive the history", "[read_result]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  options.job_history = 1;
  InProcessServer server(options);
  JobClient client(server.NewChannel());
  const std::string name = client.Create(StoredRequest(folders))->name();
  REQUIRE(WaitDone(client, name).state() == v1::Job::SUCCEEDED);
  std::vector<std::string> others;
  for (const char* out : {"a", "b", "c"}) {
    others.push_back(client.Create(JobRequest(folders, out))->name());
    REQUIRE(WaitDone(client, others.back()).state() == v1::Job::SUCCEEDED);
  }
  REQUIRE(Eventually([&] { return client.List()->jobs_size() == 2; }));
  REQUIRE(client.Get(name).ok());
  REQUIRE(client.Get(others.back()).ok());
  ResultCall call(client, ResultRequest(name));
  REQUIRE(call.Finish().ok());
}

TEST_CASE("readers read, of their own project", "[read_result]") {
  JobFolders folders;
  const auto entry = [](const std::string& token, const std::string& project,
                        const std::string& role) {
    std::string hex;
    const auto hash = HashToken(token);
    for (const uint8_t byte : *hash) {
      hex += "0123456789abcdef"[byte >> 4];
      hex += "0123456789abcdef"[byte & 15];
    }
    return R"({"sha256": ")" + hex + R"(", "project": ")" + project +
           R"(", "role": ")" + role + R"("})";
  };
  ServerOptions options = JobServerTestOptions(folders);
  options.access_file = folders.folder / "access.json";
  std::ofstream(options.access_file)
      << R"({"tokens": [)" << entry("tok-user", "team-a", "user") << ","
      << entry("tok-reader", "team-a", "reader") << ","
      << entry("tok-other", "team-b", "admin") << "]}";
  InProcessServer server(options);
  JobClient client(server.NewChannel());
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer tok-user");
  v1::Job job;
  REQUIRE(client.stub().CreateJob(&context, StoredRequest(folders), &job).ok());
  REQUIRE(job.name().rfind("projects/team-a/jobs/", 0) == 0);
  const auto read = [&](const std::string& name, const std::string& token) {
    ResultCall call(client, ResultRequest(name, true), token);
    const absl::Status status = call.Finish();
    REQUIRE(status.ok() == call.end.has_value());
    REQUIRE(status.ok() != call.files.empty());
    return status;
  };
  REQUIRE(read(job.name(), "tok-reader").ok());
  RequireError(read(job.name(), "tok-other"), kDenied, "PROJECT_NOT_ALLOWED");
  RequireError(read("projects/-/jobs/" + IdOf(job.name()), "tok-other"),
               kNotFound, "JOB_NOT_FOUND");
  RequireError(read(job.name(), ""), absl::StatusCode::kUnauthenticated,
               "NO_CREDENTIAL");
}

// JobService over a real connection, with runs that the test drives.
class FakeJobs {
 public:
  explicit FakeJobs(int64_t max_project_bytes = 0) {
    REQUIRE(SetLogLevel("off").ok());
    store_ = *OpenDirBlobStore(folder_ / "blobs", int64_t{1} << 30);
    db_ = *SqliteDatabase::Open(
        folder_ / "db",
        {BlobRefsSchema(), TensorRecordsSchema(), JobRecordsSchema()});
    tensors_ = NewSqliteTensorRecords(*db_);
    records_ = NewSqliteJobRecords(*db_);
    results_ = *JobResults::Open(folder_ / "results", *store_,
                                 {tensors_.get(), max_project_bytes});
    pool_ = std::make_unique<WorkerPool>(NewCpuBackends(1, 1));
    options.stream_idle_timeout = kStalledAfter;
    options.scheduler.tick = absl::Milliseconds(5);
    options.max_reads = 4;
    Start();
  }
  ~FakeJobs() { Stop(); }

  void Stop() {
    if (server_ == nullptr) return;
    client.reset();
    jobs->StartDraining();
    jobs->EndAll();
    server_->Shutdown(In(absl::Seconds(2)));
    server_.reset();
    jobs.reset();
    runs.Forget();
  }
  void Start() {
    const UriResolver<std::string> fresh =
        [](const std::string&, const std::string& uri, const std::string&) {
          return uri;
        };
    const UriResolver<InputPath> existing =
        [](const std::string&, const std::string& uri, const std::string&) {
          return InputPath{uri, nullptr};
        };
    JobsContext context{*records_,        io_, *pool_, budget_, runs.Factory(),
                        {existing, fresh}};
    context.results = results_.get();
    jobs.emplace(std::move(context), access_, options);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(&jobs->service());
    server_ = builder.BuildAndStart();
    REQUIRE(jobs->Start().ok());
    client.emplace(Connect(port));
  }

  // A job without a destination, and its run once it has begun.
  std::string Create(const std::string& input) {
    v1::CreateJobRequest request;
    request.mutable_job()->mutable_source()->set_uri(input);
    const auto made = client->Create(request);
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    return made->name();
  }
  std::shared_ptr<FakeRun> RunOf(const std::string& input) {
    auto run = runs.WaitStarted(input);
    REQUIRE(run != nullptr);
    return run;
  }
  JobRecords& records() { return *records_; }
  fs::path results() const { return fs::path(folder_ / "results/default"); }

  FakeRuns runs;
  JobServerOptions options;
  std::optional<JobServer> jobs;
  std::optional<JobClient> client;

 private:
  TemporaryFolder folder_;
  std::unique_ptr<BlobStore> store_;
  std::unique_ptr<SqliteDatabase> db_;
  std::unique_ptr<TensorRecords> tensors_;
  std::unique_ptr<JobRecords> records_;
  std::unique_ptr<JobResults> results_;
  IoPool io_{2, 100};
  std::unique_ptr<WorkerPool> pool_;
  ByteBudget budget_{1 << 20};
  const OpenAccess access_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_CASE("a result is read while it is made", "[read_result]") {
  FakeJobs jobs;
  const std::string name = jobs.Create("in");
  const auto run = jobs.RunOf("in");
  ResultCall waits(*jobs.client, ResultRequest(name, true));
  // Without `wait` a call says what there is.
  const auto now = [&] {
    ResultCall call(*jobs.client, ResultRequest(name));
    REQUIRE(call.Finish().ok());
    REQUIRE_FALSE(call.end->complete());
    REQUIRE(call.end->digest().empty());
    REQUIRE(call.end->state() == v1::Job::RUNNING);
    return call.order;
  };
  using Names = std::vector<std::string>;
  REQUIRE(now().empty());
  // Out of order: the second one waits for the first.
  REQUIRE(run->CommitShard(1).ok());
  REQUIRE(now().empty());
  v1::ReadResultRequest early = ResultRequest(name, true);
  early.set_file("model-0.safetensors");
  ResultCall too_early(*jobs.client, early);
  RequireError(too_early.Finish(), kInvalid, "BAD_FIELD");
  REQUIRE(run->CommitShard(0).ok());
  REQUIRE(now() == Names{"model-0.safetensors", "model-1.safetensors"});
  REQUIRE(waits.Next());
  REQUIRE(waits.Next());
  REQUIRE(waits.order == Names{"model-0.safetensors", "model-1.safetensors"});
  REQUIRE(waits.digest.size() == 2);
  REQUIRE_FALSE(waits.end);
  REQUIRE(jobs.client->Get(name)->state() == v1::Job::RUNNING);
  run->Succeed();
  REQUIRE(waits.Finish().ok());
  REQUIRE(waits.order.back() == "config.json");
  REQUIRE(waits.end->complete());
  REQUIRE(waits.end->digest() == jobs.client->Get(name)->summary().digest());
  REQUIRE(Eventually([&] { return jobs.jobs->live_streams() == 0; }));
  REQUIRE(jobs.jobs->watches() == 0);
}

TEST_CASE("a job that fails or is cancelled has no result", "[read_result]") {
  FakeJobs jobs;
  const std::string fails = jobs.Create("fails");
  const std::string cancelled = jobs.Create("cancelled");
  const auto run = jobs.RunOf("fails");
  REQUIRE(run->CommitShard(0).ok());
  REQUIRE(jobs.RunOf("cancelled")->CommitShard(0).ok());
  ResultCall first(*jobs.client, ResultRequest(fails, true));
  ResultCall second(*jobs.client, ResultRequest(cancelled, true));
  REQUIRE(first.Next());
  REQUIRE(second.Next());
  REQUIRE(jobs.client->Cancel(cancelled).ok());
  run->End(absl::InternalError("broken"));
  RequireError(first.Finish(), kPrecondition, "NO_RESULT");
  RequireError(second.Finish(), kPrecondition, "NO_RESULT");
  REQUIRE(Eventually([&] { return fs::is_empty(jobs.results()); }));
  for (const std::string& name : {fails, cancelled}) {
    ResultCall late(*jobs.client, ResultRequest(name));
    RequireError(late.Finish(), kPrecondition, "NO_RESULT");
  }
}

TEST_CASE("a job whose turn comes when the store is full fails",
          "[read_result]") {
  // The whole store has 1 GiB.
  const bool of_project = GENERATE(false, true);
  FakeJobs jobs(of_project ? 1000 << 20 : 0);
  // One fits; both have room when they are made, since two others run.
  const std::string here = jobs.Create("here");
  const std::string there = jobs.Create("there");
  REQUIRE(jobs.RunOf("here") != nullptr);
  REQUIRE(jobs.RunOf("there") != nullptr);
  jobs.runs.SetSize({.file_bytes = 700 << 20, .shards = 1});
  const std::string first = jobs.Create("first");
  const std::string second = jobs.Create("second");
  REQUIRE(jobs.client->Cancel(here).ok());
  REQUIRE(jobs.RunOf("first") != nullptr);
  REQUIRE(jobs.client->Cancel(there).ok());
  const v1::Job failed = WaitDone(*jobs.client, second);
  REQUIRE(failed.state() == v1::Job::FAILED);
  REQUIRE(failed.error().code() ==
          static_cast<int>(absl::StatusCode::kResourceExhausted));
  google::rpc::ErrorInfo info;
  REQUIRE(failed.error().details(0).UnpackTo(&info));
  REQUIRE(info.reason() == (of_project ? "PROJECT_QUOTA" : "STORE_FULL"));
  REQUIRE(jobs.runs.Started("second") == nullptr);
  // What is made counts as it is, not as it was planned.
  const auto run = jobs.RunOf("first");
  REQUIRE(run->CommitShard(0).ok());
  run->Succeed();
  REQUIRE(WaitDone(*jobs.client, first).state() == v1::Job::SUCCEEDED);
  const std::string third = jobs.Create("third");
  REQUIRE(jobs.RunOf("third") != nullptr);
}

TEST_CASE("a restarted server goes on; a changed source is said",
          "[read_result]") {
  FakeJobs jobs;
  const std::string name = jobs.Create("in");
  REQUIRE(jobs.RunOf("in")->CommitShard(0).ok());
  {
    ResultCall waits(*jobs.client, ResultRequest(name, true));
    REQUIRE(waits.Next());
    jobs.jobs->StartDraining();
    RequireError(waits.Finish(), absl::StatusCode::kUnavailable, "DRAINING");
    ResultCall late(*jobs.client, ResultRequest(name));
    RequireError(late.Finish(), absl::StatusCode::kUnavailable, "DRAINING");
  }
  jobs.Stop();
  jobs.Start();
  REQUIRE(jobs.RunOf("in")->committed() == std::set<int>{0});
  {
    v1::ReadResultRequest rest = ResultRequest(name, true);
    rest.set_file("model-0.safetensors");
    rest.set_offset(3);
    ResultCall waits(*jobs.client, rest);
    REQUIRE(waits.Next());
    REQUIRE(waits.files["model-0.safetensors"] == "rd 0");
    // The next attempt has another source.
    jobs.runs.SetFingerprint("sha256:two");
    const JobKey key = {"default", IdOf(name)};
    REQUIRE(jobs.records()
                .Update(key, absl::Now(),
                        [](JobRecord& job) {
                          job.fingerprint = "sha256:two";
                          return absl::OkStatus();
                        })
                .ok());
    REQUIRE(jobs.RunOf("in")->CommitShard(1).ok());
    RequireError(waits.Finish(), absl::StatusCode::kAborted,
                 "RESULT_RESTARTED");
  }
}

TEST_CASE("a reader that takes nothing, and one too many", "[read_result]") {
  FakeJobs jobs;
  const std::string name = jobs.Create("in");
  // More than what connections and windows hold.
  const std::string big(size_t{64} << 20, 'x');
  REQUIRE(jobs.RunOf("in")->CommitShard(0, big).ok());
  {
    std::vector<std::unique_ptr<ResultCall>> calls;
    for (int i = 0; i < 4; ++i) {
      calls.push_back(std::make_unique<ResultCall>(*jobs.client,
                                                   ResultRequest(name, true)));
      REQUIRE(calls.back()->Next());
    }
    ResultCall fifth(*jobs.client, ResultRequest(name));
    RequireError(fifth.Finish(), absl::StatusCode::kResourceExhausted,
                 "TOO_MANY_STREAMS");
    REQUIRE(Eventually([&] { return jobs.jobs->live_streams() == 0; }));
    for (const auto& call : calls) {
      REQUIRE(absl::IsCancelled(call->Finish()));
      REQUIRE(call->digest.empty());
    }
  }
  // One that waits for the job has not stalled.
  ResultCall waits(*jobs.client, ResultRequest(name, true));
  while (waits.digest.empty()) REQUIRE(waits.Next());
  absl::SleepFor(2 * kStalledAfter);
  REQUIRE(jobs.RunOf("in")->CommitShard(1).ok());
  jobs.RunOf("in")->Succeed();
  REQUIRE(waits.Finish().ok());
  REQUIRE(waits.files["model-0.safetensors"] == big);
  // Cancelled by its client, a call leaves nothing.
  ResultCall cancelled(*jobs.client, ResultRequest(name));
  REQUIRE(cancelled.Next());
  cancelled.Cancel();
  REQUIRE(absl::IsCancelled(cancelled.Finish()));
  REQUIRE(Eventually([&] { return jobs.jobs->live_streams() == 0; }));
}

}  // namespace
}  // namespace qs::testing

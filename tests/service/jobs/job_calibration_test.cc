// Jobs with a calibration of the server's own, over real connections: they wait
// for its sites, and give what a file of it gives.
#include <algorithm>

#include "quant/calibration/calibration_file.h"
#include "quant/v1/calibrations.grpc.pb.h"
#include "service/jobs/job_calibrations.h"
#include "service/store/calibration_sealing.h"
#include "service/store/dir_blob_store.h"
#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_calibration_records.h"
#include "service/store/sqlite_job_records.h"
#include "service/store/sqlite_tensor_records.h"
#include "tests/service/jobs/job_client.h"

namespace qs::testing {
namespace {

constexpr char kFile[] = "tiny-llama-calibration.safetensors";
constexpr char kName[] = "projects/default/calibrations/c";
// A site that no tensor of the checkpoint reads.
constexpr char kOtherSite[] = "zz-other";

const CalibrationFile& File() {
  static const absl::StatusOr<CalibrationFile> file =
      CalibrationFile::Open(std::string(QS_TEST_DATA) + "/" + kFile);
  INFO(file.status().ToString());
  REQUIRE(file.ok());
  return *file;
}

std::vector<std::string> SiteNames() {
  std::vector<std::string> names;
  for (const CalibrationSite& site : File().sites()) names.push_back(site.name);
  return names;
}

void RequireError(const absl::Status& status, absl::StatusCode code,
                  const std::string& reason) {
  INFO(status.ToString());
  REQUIRE(status.code() == code);
  REQUIRE(ErrorReason(status) == reason);
}

class CalibrationClient {
 public:
  explicit CalibrationClient(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(v1::CalibrationService::NewStub(channel)) {}

  // With the file's sites and one more.
  void Create() {
    v1::CreateCalibrationRequest request;
    request.set_calibration_id("c");
    for (const CalibrationSite& site : File().sites()) {
      v1::CalibrationSite* const out = request.add_sites();
      out->set_name(site.name);
      out->set_inputs(site.inputs);
      out->mutable_modules()->Add(site.modules.begin(), site.modules.end());
    }
    v1::CalibrationSite* const other = request.add_sites();
    other->set_name(kOtherSite);
    other->set_inputs(4);
    other->add_modules("nowhere");
    grpc::ClientContext context;
    v1::Calibration made;
    Check(stub_->CreateCalibration(&context, request, &made));
  }

  void SendAll() {
    grpc::ClientContext context;
    context.set_deadline(In(absl::Seconds(30)));
    const auto stream = stub_->WriteSecondMoments(&context);
    for (size_t i = 0; i < File().sites().size(); ++i) Send(*stream, i);
    stream->WritesDone();
    v1::WriteSecondMomentsResponse response;
    while (stream->Read(&response)) continue;
    Check(stream->Finish());
  }

  void Seal(const std::vector<std::string>& sites) {
    v1::SealSitesRequest request;
    request.set_name(kName);
    request.mutable_sites()->Add(sites.begin(), sites.end());
    grpc::ClientContext context;
    v1::Calibration response;
    Check(stub_->SealSites(&context, request, &response));
  }

  absl::Status Delete() {
    v1::DeleteCalibrationRequest request;
    request.set_name(kName);
    grpc::ClientContext context;
    google::protobuf::Empty response;
    return FromGrpcStatus(
        stub_->DeleteCalibration(&context, request, &response));
  }
  bool Exists() {
    v1::GetCalibrationRequest request;
    request.set_name(kName);
    grpc::ClientContext context;
    v1::Calibration response;
    return stub_->GetCalibration(&context, request, &response).ok();
  }

 private:
  using Stream = grpc::ClientReaderWriter<v1::WriteSecondMomentsRequest,
                                          v1::WriteSecondMomentsResponse>;

  static void Check(const grpc::Status& status) {
    INFO(status.error_message());
    REQUIRE(status.ok());
  }

  static void Send(Stream& stream, size_t site) {
    const auto moments = File().Load(site);
    REQUIRE(moments.ok());
    v1::WriteSecondMomentsRequest begin;
    begin.mutable_begin()->set_calibration(kName);
    begin.mutable_begin()->set_site(File().sites()[site].name);
    begin.mutable_begin()->set_token_count(moments->tokens());
    begin.mutable_begin()->set_request_id("r" + std::to_string(site));
    REQUIRE(stream.Write(begin));
    const int64_t n = moments->inputs();
    const auto packed = static_cast<size_t>(SiteMoments::PackedElements(n));
    std::vector<float> values(packed + static_cast<size_t>(n));
    moments->CopyToPacked(values.data());
    std::copy_n(moments->abs_sum(), n, values.data() + packed);
    v1::WriteSecondMomentsRequest chunk;
    chunk.mutable_chunk()->set_data(values.data(), 4 * values.size());
    chunk.mutable_chunk()->set_last(true);
    REQUIRE(stream.Write(chunk));
  }

  std::unique_ptr<v1::CalibrationService::Stub> stub_;
};

// Seals a site in the data directory of a server that does not run.
void SealOffline(const std::string& data, const std::string& site) {
  auto db = SqliteDatabase::Open(data + "/meta.sqlite",
                                 {BlobRefsSchema(), TensorRecordsSchema(),
                                  JobRecordsSchema(), CalibrationSchema()});
  REQUIRE(db.ok());
  const auto records = NewSqliteCalibrationRecords(**db);
  auto blobs = OpenDirBlobStore(data + "/blobs", int64_t{1} << 30);
  REQUIRE(blobs.ok());
  CalibrationStore store(*records, **blobs);
  const auto calibration = records->Get("default", "c");
  REQUIRE(calibration.ok());
  const auto found = std::find_if(
      calibration->sites.begin(), calibration->sites.end(),
      [&](const CalibrationSiteRecord& s) { return s.name == site; });
  REQUIRE(found != calibration->sites.end());
  const auto sealing =
      CalibrationSealing::Open(store, calibration->key, *found);
  REQUIRE(sealing.ok());
  const auto backends = NewCpuBackends(1, 1);
  while ((*sealing)->has_next()) {
    REQUIRE((*sealing)->Load().ok());
    REQUIRE((*sealing)->Merge(*backends[0]).ok());
  }
  REQUIRE((*sealing)->Store().ok());
}

v1::CreateJobRequest NamedRequest(const JobFolders& folders,
                                  const std::string& out,
                                  const std::string& preset = "W4A16-gptq") {
  v1::CreateJobRequest request = JobRequest(folders, out, preset);
  request.mutable_job()->mutable_calibration()->set_name(
      "projects/-/calibrations/c");
  return request;
}

v1::Job RequireMade(JobClient& client, const v1::CreateJobRequest& request) {
  const auto made = client.Create(request);
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  return *made;
}

TEST_CASE("a job waits for the sites that it needs, and others go on",
          "[job_calibration]") {
  JobFolders folders;
  InProcessServer server(JobServerTestOptions(folders));
  JobClient jobs(server.NewChannel());
  CalibrationClient calibration(server.NewChannel());
  calibration.Create();
  calibration.SendAll();
  const std::vector<std::string> sites = SiteNames();
  const auto count = static_cast<int64_t>(sites.size());

  const v1::Job made = RequireMade(jobs, NamedRequest(folders, "named"));
  REQUIRE(made.state() == v1::Job::QUEUED);
  REQUIRE(made.calibration().name() == kName);
  REQUIRE(made.waiting_for().calibration() == kName);
  REQUIRE(made.waiting_for().open_sites() == count);
  REQUIRE(made.waiting_for().first_sites(0) == sites[0]);
  REQUIRE(made.waiting_for().first_sites_size() == 5);
  REQUIRE(made.plan().tensors() > 0);
  v1::CreateJobRequest urgent = JobRequest(folders, "other");
  urgent.mutable_job()->set_priority(v1::Job::BATCH);
  const v1::Job other = RequireMade(jobs, urgent);
  REQUIRE(WaitDone(jobs, other.name()).state() == v1::Job::SUCCEEDED);

  // All but one: it is in use, and waits on.
  RequireError(calibration.Delete(), absl::StatusCode::kFailedPrecondition,
               "CALIBRATION_IN_USE");
  calibration.Seal({sites.begin() + 1, sites.end()});
  const auto waits = jobs.Get(made.name());
  REQUIRE(waits.ok());
  REQUIRE(waits->state() == v1::Job::QUEUED);
  REQUIRE(waits->waiting_for().open_sites() == 1);
  REQUIRE(waits->waiting_for().first_sites(0) == sites[0]);
  calibration.Seal({sites[0]});
  const v1::Job named = WaitDone(jobs, made.name());
  INFO(named.ShortDebugString());
  REQUIRE(named.state() == v1::Job::SUCCEEDED);
  REQUIRE_FALSE(named.has_waiting_for());

  // As with the file.
  v1::CreateJobRequest request = JobRequest(folders, "filed", "W4A16-gptq");
  request.mutable_job()->mutable_calibration()->set_uri(DataUri(kFile));
  const v1::Job filed = WaitDone(jobs, RequireMade(jobs, request).name());
  REQUIRE(filed.state() == v1::Job::SUCCEEDED);
  REQUIRE(filed.summary().digest() == named.summary().digest());
  REQUIRE(ReadTree(folders.Out("named")) == ReadTree(folders.Out("filed")));
  REQUIRE(filed.summary().output_error() == named.summary().output_error());

  REQUIRE(calibration.Delete().ok());
  REQUIRE_FALSE(calibration.Exists());
}

TEST_CASE("AWQ with a sealed calibration is the same as with its file",
          "[job_calibration]") {
  JobFolders folders;
  InProcessServer server(JobServerTestOptions(folders));
  JobClient jobs(server.NewChannel());
  CalibrationClient calibration(server.NewChannel());
  calibration.Create();
  calibration.SendAll();
  calibration.Seal(SiteNames());
  v1::CreateJobRequest request = NamedRequest(folders, "named", "W4A16-awq");
  request.mutable_job()->mutable_calibration()->set_delete_after_use(true);
  const v1::Job made = RequireMade(jobs, request);
  REQUIRE_FALSE(made.has_waiting_for());
  const v1::Job named = WaitDone(jobs, made.name());
  INFO(named.ShortDebugString());
  REQUIRE(named.state() == v1::Job::SUCCEEDED);
  // Gone when the job is done.
  REQUIRE_FALSE(calibration.Exists());
  request = JobRequest(folders, "filed", "W4A16-awq");
  request.mutable_job()->mutable_calibration()->set_uri(DataUri(kFile));
  const v1::Job filed = WaitDone(jobs, RequireMade(jobs, request).name());
  REQUIRE(filed.summary().digest() == named.summary().digest());
}

TEST_CASE("a calibration is deleted by the last job that wanted that",
          "[job_calibration]") {
  JobFolders folders;
  InProcessServer server(JobServerTestOptions(folders));
  JobClient jobs(server.NewChannel());
  CalibrationClient calibration(server.NewChannel());
  calibration.Create();
  calibration.SendAll();
  std::vector<v1::Job> made;
  for (const char* out : {"a", "b", "c"}) {
    v1::CreateJobRequest request = NamedRequest(folders, out);
    request.mutable_job()->mutable_calibration()->set_delete_after_use(true);
    made.push_back(RequireMade(jobs, request));
    REQUIRE(made.back().has_waiting_for());
  }
  // One that was cancelled did not use it.
  REQUIRE(jobs.Cancel(made[2].name())->state() == v1::Job::CANCELLED);
  REQUIRE_FALSE(jobs.Get(made[2].name())->has_waiting_for());
  REQUIRE(calibration.Exists());
  calibration.Seal(SiteNames());
  REQUIRE(WaitDone(jobs, made[0].name()).state() == v1::Job::SUCCEEDED);
  REQUIRE(WaitDone(jobs, made[1].name()).state() == v1::Job::SUCCEEDED);
  REQUIRE_FALSE(calibration.Exists());
}

TEST_CASE("a job that waits for sites can time out", "[job_calibration]") {
  JobFolders folders;
  InProcessServer server(JobServerTestOptions(folders));
  JobClient jobs(server.NewChannel());
  CalibrationClient calibration(server.NewChannel());
  calibration.Create();
  v1::CreateJobRequest request = NamedRequest(folders, "a");
  request.mutable_job()->mutable_queue_timeout()->set_seconds(1);
  const v1::Job job = WaitDone(jobs, RequireMade(jobs, request).name());
  REQUIRE(job.state() == v1::Job::FAILED);
  REQUIRE(job.error().message().find("queue_timeout") != std::string::npos);
  REQUIRE_FALSE(job.has_waiting_for());
  REQUIRE(calibration.Delete().ok());
}

TEST_CASE("a job waits on after a restart, and sees what was sealed before it",
          "[job_calibration]") {
  JobFolders folders;
  const ServerOptions options = JobServerTestOptions(folders);
  std::string name;
  {
    InProcessServer server(options);
    JobClient jobs(server.NewChannel());
    CalibrationClient calibration(server.NewChannel());
    calibration.Create();
    calibration.SendAll();
    const std::vector<std::string> sites = SiteNames();
    calibration.Seal({sites.begin() + 1, sites.end()});
    name = RequireMade(jobs, NamedRequest(folders, "a")).name();
  }
  SECTION("sealed afterwards") {
    InProcessServer server(options);
    JobClient jobs(server.NewChannel());
    REQUIRE(jobs.Get(name)->waiting_for().open_sites() == 1);
    CalibrationClient(server.NewChannel()).Seal({SiteNames()[0]});
    REQUIRE(WaitDone(jobs, name).state() == v1::Job::SUCCEEDED);
  }
  SECTION("sealed by a process that ended before it told the jobs") {
    SealOffline(options.data_dir, SiteNames()[0]);
    InProcessServer server(options);
    JobClient jobs(server.NewChannel());
    const v1::Job job = WaitDone(jobs, name);
    INFO(job.ShortDebugString());
    REQUIRE(job.state() == v1::Job::SUCCEEDED);
  }
}

TEST_CASE("what a calibration's name may be", "[job_calibration]") {
  JobFolders folders;
  InProcessServer server(JobServerTestOptions(folders));
  JobClient jobs(server.NewChannel());
  CalibrationClient calibration(server.NewChannel());
  RequireError(jobs.Create(NamedRequest(folders, "a")).status(),
               absl::StatusCode::kNotFound, "CALIBRATION_NOT_FOUND");
  calibration.Create();
  v1::CreateJobRequest request = NamedRequest(folders, "a");
  v1::JobCalibration* const from = request.mutable_job()->mutable_calibration();
  from->set_name("projects/other/calibrations/c");
  RequireError(jobs.Create(request).status(),
               absl::StatusCode::kPermissionDenied, "PROJECT_NOT_ALLOWED");
  for (const char* name : {"", "c", "projects/-/tensors/c"}) {
    from->set_name(name);
    RequireError(jobs.Create(request).status(),
                 absl::StatusCode::kInvalidArgument, "BAD_FIELD");
  }
  from->set_uri(DataUri(kFile));
  from->set_delete_after_use(true);
  RequireError(jobs.Create(request).status(),
               absl::StatusCode::kInvalidArgument, "BAD_FIELD");
  // What would be waited for is shown, and nothing is made.
  request = NamedRequest(folders, "a");
  request.set_validate_only(true);
  const v1::Job shown = RequireMade(jobs, request);
  REQUIRE(shown.waiting_for().open_sites() ==
          static_cast<int64_t>(SiteNames().size()));
  REQUIRE(shown.plan().tensors() > 0);
  REQUIRE(calibration.Delete().ok());
}

TEST_CASE("a damaged calibration fails its job, and says so",
          "[job_calibration]") {
  JobFolders folders;
  InProcessServer server(JobServerTestOptions(folders));
  JobClient jobs(server.NewChannel());
  CalibrationClient calibration(server.NewChannel());
  calibration.Create();
  calibration.SendAll();
  calibration.Seal(SiteNames());
  for (const auto& entry : std::filesystem::recursive_directory_iterator(
           folders.folder / "data/blobs")) {
    if (!entry.is_regular_file() || entry.file_size() < 4096) continue;
    std::fstream file(entry.path(),
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(1000);
    file.put('\x7f').put('\x7f').put('\x7f').put('\x7f');
  }
  const v1::Job job =
      WaitDone(jobs, RequireMade(jobs, NamedRequest(folders, "a")).name());
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::FAILED);
  REQUIRE(job.error().code() == static_cast<int>(absl::StatusCode::kDataLoss));
  REQUIRE(folders.OutFiles().empty());
}

}  // namespace
}  // namespace qs::testing

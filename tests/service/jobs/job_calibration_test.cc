// Jobs with a calibration of the server's own, over real connections: what they
// do while it is sealed site by site, and that they give what a file of it
// gives.
#include <algorithm>
#include <random>
#include <thread>

#include "service/jobs/job_calibrations.h"
#include "service/store/calibration_sealing.h"
#include "service/store/dir_blob_store.h"
#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_calibration_records.h"
#include "service/store/sqlite_job_records.h"
#include "service/store/sqlite_tensor_records.h"
#include "tests/service/jobs/calibration_client.h"
#include "tests/service/jobs/result_client.h"

namespace qs::testing {
namespace {

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

TEST_CASE("a job waits for the sites that it needs, and others go on",
          "[job_calibration]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  options.max_running_jobs = 1;
  InProcessServer server(options);
  JobClient jobs(server.NewChannel());
  CalibrationClient calibration(server.NewChannel());
  calibration.Upload();
  const std::vector<std::string> sites = SiteNames();

  const v1::Job made = RequireMade(jobs, NamedRequest(folders, "named"));
  REQUIRE(made.state() == v1::Job::QUEUED);
  REQUIRE(made.calibration().name() == kName);
  REQUIRE(made.waiting_for().calibration() == kName);
  REQUIRE(made.waiting_for().open_sites() == SiteCount());
  REQUIRE(made.waiting_for().first_sites(0) == sites[0]);
  REQUIRE(made.waiting_for().first_sites_size() == 5);
  REQUIRE(made.plan().tensors() == TensorCount());
  v1::CreateJobRequest batch = JobRequest(folders, "other");
  batch.mutable_job()->set_priority(v1::Job::BATCH);
  RequireDone(jobs, batch);
  REQUIRE(jobs.Get(made.name())->state() == v1::Job::QUEUED);

  // All but one: what can be done is done, and the rest waits, without the
  // place of one that runs.
  calibration.Seal({sites.begin() + 1, sites.end()});
  REQUIRE(WaitsForSites(jobs, made.name()));
  RequireError(calibration.Delete(), absl::StatusCode::kFailedPrecondition,
               "CALIBRATION_IN_USE");
  const auto waits = jobs.Get(made.name());
  REQUIRE(waits.ok());
  REQUIRE(waits->state() == v1::Job::RUNNING);
  REQUIRE(waits->waiting_for().open_sites() == 1);
  REQUIRE(waits->waiting_for().first_sites(0) == sites[0]);
  const v1::JobProgress& progress = waits->progress();
  REQUIRE(progress.tensors_waiting() > 0);
  REQUIRE(progress.tensors_done() + progress.tensors_waiting() ==
          progress.tensors_total());
  REQUIRE(server.context().budget().reserved() == 0);
  RequireDone(jobs, JobRequest(folders, "second"));
  REQUIRE(jobs.Get(made.name())->state() == v1::Job::RUNNING);
  calibration.Seal({sites[0]});
  const v1::Job named = WaitDone(jobs, made.name());
  INFO(named.ShortDebugString());
  REQUIRE(named.state() == v1::Job::SUCCEEDED);
  REQUIRE(named.attempt() == 1);
  REQUIRE_FALSE(named.has_waiting_for());

  // As with the file.
  const v1::Job filed = RequireDone(jobs, FiledRequest(folders, "filed"));
  REQUIRE(filed.summary().digest() == named.summary().digest());
  REQUIRE(ReadTree(folders.Out("named")) == ReadTree(folders.Out("filed")));
  REQUIRE(filed.summary().output_error() == named.summary().output_error());

  REQUIRE(calibration.Delete().ok());
  REQUIRE_FALSE(calibration.Exists());
}

// The first shard has layers 0 and 1, but for v_proj of the latter.
TEST_CASE_METHOD(
    CalibrationFixture,
    "layer by layer: what is done can be read while other sites are open",
    "[job_calibration]") {
  calibration.Upload();
  v1::CreateJobRequest request = NamedRequest(folders, "");
  request.mutable_job()->clear_destination();
  const std::string name = RequireMade(jobs, request).name();
  JobWatch watch(jobs, name);
  calibration.Seal(SiteNames("0"));
  REQUIRE(WaitsForSites(jobs, name));
  REQUIRE(jobs.Get(name)->progress().shards_done() == 0);
  REQUIRE(jobs.Get(name)->waiting_for().open_sites() == SiteCount("123"));
  v1::JobEvent event;
  do {
    REQUIRE(watch.Read(&event));
  } while (event.progress().phase() != v1::JobProgress::WAITING);
  calibration.Seal(SiteNames("1"));
  REQUIRE(Eventually(
      [&] { return jobs.Get(name)->progress().shards_done() == 1; }));
  REQUIRE(WaitsForSites(jobs, name));
  REQUIRE(jobs.Get(name)->waiting_for().open_sites() == SiteCount("23"));

  ResultCall early(jobs, ResultRequest(name));
  REQUIRE(early.Finish().ok());
  REQUIRE(early.files.size() == 1);
  REQUIRE_FALSE(early.end->complete());
  REQUIRE(early.end->state() == v1::Job::RUNNING);
  v1::ReadResultRequest packed = ResultRequest(name);
  packed.set_view(v1::ReadResultRequest::PACKED);
  packed.add_include("*.layers.0.*");
  ResultCall tensors(jobs, packed);
  REQUIRE(tensors.Finish().ok());
  REQUIRE(static_cast<int64_t>(tensors.reports.size()) == TensorCount("0"));

  ResultCall waits(jobs, ResultRequest(name, true));
  calibration.Seal(SiteNames("3"));
  calibration.Seal(SiteNames("2"));
  REQUIRE(waits.Finish().ok());
  REQUIRE(waits.end->complete());
  const auto& [file, bytes] = *early.files.begin();
  REQUIRE(waits.files.at(file) == bytes);
  // Whoever watches sees fewer and fewer tensors wait.
  int64_t least = INT64_MAX;
  for (const v1::JobEvent& next : watch.ReadAll()) {
    if (!next.has_progress()) continue;
    REQUIRE(next.progress().tensors_waiting() <= least);
    least = next.progress().tensors_waiting();
  }
  RequireDone(jobs, FiledRequest(folders, "filed"));
  REQUIRE(waits.files == ReadTree(folders.Out("filed")));
}

TEST_CASE_METHOD(CalibrationFixture,
                 "sites are sealed while jobs are made and started",
                 "[job_calibration]") {
  calibration.Upload();
  const auto seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  std::vector<std::string> sites = SiteNames();
  std::shuffle(sites.begin(), sites.end(), random);
  // Two at once, each with half of the sites.
  std::vector<std::thread> sealers;
  for (size_t first : {0, 1}) {
    sealers.emplace_back([&, first, channel = server.NewChannel()] {
      for (size_t i = first; i < sites.size(); i += 2) {
        CalibrationClient(channel).Seal({sites[i]});
      }
    });
  }
  std::vector<std::string> names;
  for (int i = 0; i < 4; ++i) {
    names.push_back(
        RequireMade(jobs, NamedRequest(folders, "out" + std::to_string(i)))
            .name());
    absl::SleepFor(absl::Milliseconds(random() % 20));
  }
  for (std::thread& sealer : sealers) sealer.join();
  std::set<std::string> digests;
  for (const std::string& name : names) {
    const v1::Job job = WaitDone(jobs, name);
    INFO(job.ShortDebugString());
    REQUIRE(job.state() == v1::Job::SUCCEEDED);
    REQUIRE_FALSE(job.has_waiting_for());
    digests.insert(job.summary().digest());
  }
  REQUIRE(digests.size() == 1);
}

TEST_CASE_METHOD(CalibrationFixture,
                 "a job that waits for sites is cancelled, or runs out of time",
                 "[job_calibration]") {
  calibration.Upload("0");
  v1::CreateJobRequest request = NamedRequest(folders, "a");
  SECTION("cancelled") {
    const std::string name = RequireMade(jobs, request).name();
    REQUIRE(WaitsForSites(jobs, name));
    REQUIRE(jobs.Cancel(name).ok());
    const v1::Job job = WaitDone(jobs, name);
    REQUIRE(job.state() == v1::Job::CANCELLED);
    REQUIRE_FALSE(job.has_waiting_for());
    REQUIRE(jobs.Delete(name).ok());
  }
  SECTION("its time is over") {
    request.mutable_job()->mutable_execution_timeout()->set_seconds(1);
    const v1::Job job = WaitDone(jobs, RequireMade(jobs, request).name());
    REQUIRE(job.state() == v1::Job::FAILED);
    REQUIRE(job.error().message().find("execution_timeout") !=
            std::string::npos);
  }
  REQUIRE(folders.OutFiles().empty());
  REQUIRE(calibration.Delete().ok());
}

TEST_CASE_METHOD(CalibrationFixture,
                 "sites that are sealed without numbers fail their job",
                 "[job_calibration]") {
  calibration.Create();
  const std::string name = RequireMade(jobs, NamedRequest(folders, "a")).name();
  calibration.Seal({SiteNames()[0]});
  const v1::Job job = WaitDone(jobs, name);
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::FAILED);
  REQUIRE(job.error().code() ==
          static_cast<int>(absl::StatusCode::kInvalidArgument));
  REQUIRE(job.error().message().find("no moments") != std::string::npos);
}

TEST_CASE_METHOD(CalibrationFixture,
                 "AWQ with a sealed calibration is the same as with its file",
                 "[job_calibration]") {
  calibration.Upload("0123");
  const auto use_awq = [](v1::CreateJobRequest request) {
    v1::Job* const job = request.mutable_job();
    job->mutable_quantization()->Clear();
    job->mutable_quantization()->set_preset("W4A16-awq");
    job->mutable_source()->clear_include();
    job->mutable_source()->add_include(std::string("*.layers.0") + kPart + "*");
    return request;
  };
  v1::CreateJobRequest request = use_awq(NamedRequest(folders, "named"));
  request.mutable_job()->mutable_calibration()->set_delete_after_use(true);
  const v1::Job made = RequireMade(jobs, request);
  REQUIRE_FALSE(made.has_waiting_for());
  const v1::Job named = WaitDone(jobs, made.name());
  INFO(named.ShortDebugString());
  REQUIRE(named.state() == v1::Job::SUCCEEDED);
  // Gone when the job is done.
  REQUIRE_FALSE(calibration.Exists());
  const v1::Job filed =
      RequireDone(jobs, use_awq(FiledRequest(folders, "filed")));
  REQUIRE(filed.summary().digest() == named.summary().digest());
}

TEST_CASE_METHOD(CalibrationFixture,
                 "a calibration is deleted by the last job that wanted that",
                 "[job_calibration]") {
  calibration.Upload();
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

TEST_CASE_METHOD(CalibrationFixture, "a job that waits for sites can time out",
                 "[job_calibration]") {
  calibration.Create();
  v1::CreateJobRequest request = NamedRequest(folders, "a");
  request.mutable_job()->mutable_queue_timeout()->set_seconds(1);
  const v1::Job job = WaitDone(jobs, RequireMade(jobs, request).name());
  REQUIRE(job.state() == v1::Job::FAILED);
  REQUIRE(job.error().message().find("queue_timeout") != std::string::npos);
  REQUIRE_FALSE(job.has_waiting_for());
  REQUIRE(calibration.Delete().ok());
}

// After a drain; job_kill_test does the same with a kill.
TEST_CASE("a job waits on after a restart, and sees what was sealed before it",
          "[job_calibration]") {
  JobFolders folders;
  const ServerOptions options = JobServerTestOptions(folders);
  std::string name;
  {
    InProcessServer server(options);
    JobClient jobs(server.NewChannel());
    CalibrationClient calibration(server.NewChannel());
    calibration.Upload("01");
    name = RequireMade(jobs, NamedRequest(folders, "a")).name();
    REQUIRE(WaitsForSites(jobs, name));
    calibration.Seal(SiteNames("2"));
    REQUIRE(WaitsForSites(jobs, name));
    REQUIRE(jobs.Get(name)->progress().shards_done() == 1);
  }
  SECTION("sealed afterwards") {
    InProcessServer server(options);
    JobClient jobs(server.NewChannel());
    REQUIRE(WaitsForSites(jobs, name));
    REQUIRE(jobs.Get(name)->attempt() == 1);
    REQUIRE(jobs.Get(name)->progress().shards_done() == 1);
    REQUIRE(jobs.Get(name)->waiting_for().open_sites() == SiteCount("3"));
    CalibrationClient(server.NewChannel()).Seal(SiteNames("3"));
    const v1::Job job = WaitDone(jobs, name);
    REQUIRE(job.state() == v1::Job::SUCCEEDED);
    const v1::Job filed = RequireDone(jobs, FiledRequest(folders, "filed"));
    REQUIRE(filed.summary().digest() == job.summary().digest());
    // As if nobody had disturbed it.
    REQUIRE(filed.summary().error().mean_squared_error() ==
            job.summary().error().mean_squared_error());
    REQUIRE(filed.summary().tensors() == job.summary().tensors());
  }
  SECTION("sealed by a process that ended before it told the jobs") {
    for (const std::string& site : SiteNames("3")) {
      SealOffline(options.data_dir, site);
    }
    InProcessServer server(options);
    JobClient jobs(server.NewChannel());
    const v1::Job job = WaitDone(jobs, name);
    INFO(job.ShortDebugString());
    REQUIRE(job.state() == v1::Job::SUCCEEDED);
  }
}

TEST_CASE_METHOD(CalibrationFixture, "what a calibration's name may be",
                 "[job_calibration]") {
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
  from->set_uri(DataUri(kCalibration));
  from->set_delete_after_use(true);
  RequireError(jobs.Create(request).status(),
               absl::StatusCode::kInvalidArgument, "BAD_FIELD");
  // What would be waited for is shown, and nothing is made.
  request = NamedRequest(folders, "a");
  request.set_validate_only(true);
  const v1::Job shown = RequireMade(jobs, request);
  REQUIRE(shown.waiting_for().open_sites() == SiteCount());
  REQUIRE(shown.plan().tensors() > 0);
  REQUIRE(calibration.Delete().ok());
}

TEST_CASE_METHOD(CalibrationFixture,
                 "a damaged calibration fails its job, and says so",
                 "[job_calibration]") {
  calibration.Upload("0123");
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

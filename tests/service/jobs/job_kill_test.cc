// The real quantd, killed and started again: what was acknowledged is there,
// jobs go on, and the result is the one of a run that nobody disturbed.
#include <random>
#include <set>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "tests/service/jobs/inline_request.h"
#include "tests/service/jobs/result_client.h"
#include "tests/service/quantd_process.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

class Quantd {
 public:
  explicit Quantd(const JobFolders& folders)
      : flags_{"--data-dir",   folders.folder / "data",
               "--read-root",  QS_TEST_DATA,
               "--write-root", folders.folder / "out",
               "--workers",    "1"} {
    Start();
  }
  void Start() {
    process_ = std::make_unique<QuantdProcess>(flags_);
    client_ = std::make_unique<JobClient>(process_->NewChannel());
  }
  void Kill() {
    process_->Signal(SIGKILL);
    REQUIRE(process_->WaitForExit(absl::Seconds(10)) == -1);
  }
  JobClient& client() { return *client_; }
  QuantdProcess& process() { return *process_; }

 private:
  const std::vector<std::string> flags_;
  std::unique_ptr<QuantdProcess> process_;
  std::unique_ptr<JobClient> client_;
};

v1::CreateJobRequest GptqRequest(const JobFolders& folders,
                                 const std::string& name) {
  v1::CreateJobRequest request = CalibratedRequest(folders, name);
  if (kSanitized) {
    request.mutable_job()->mutable_quantization()->set_profile(v1::REFERENCE);
  }
  return request;
}

TEST_CASE("killed at any time, a job ends with the same bytes", "[job_kill]") {
  JobFolders folders;
  Quantd quantd(folders);
  const absl::Time began = absl::Now();
  const v1::Job expected =
      RequireDone(quantd.client(), GptqRequest(folders, "undisturbed"));
  const absl::Duration whole = absl::Now() - began;

  const auto seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  std::set<int> attempts;
  for (int round = 0; round < 4; ++round) {
    const std::string out = absl::StrCat("out", round);
    v1::CreateJobRequest request = GptqRequest(folders, out);
    request.set_request_id(out);
    const std::string name = quantd.client().Create(request)->name();
    for (int kills = 0; kills < 2; ++kills) {
      absl::SleepFor(whole * (0.9 * static_cast<double>(random()) /
                              static_cast<double>(std::mt19937::max())));
      quantd.Kill();
      quantd.Start();
      REQUIRE(quantd.client().Get(name).ok());
    }
    REQUIRE(quantd.client().Create(request)->name() == name);
    const v1::Job job = WaitDone(quantd.client(), name);
    INFO(job.ShortDebugString());
    REQUIRE(job.state() == v1::Job::SUCCEEDED);
    REQUIRE(ReadTree(folders.Out(out)) == ReadTree(folders.Out("undisturbed")));
    REQUIRE(job.summary().digest() == expected.summary().digest());
    REQUIRE(job.summary().tensors() == expected.summary().tensors());
    REQUIRE(job.summary().error().mean_squared_error() ==
            expected.summary().error().mean_squared_error());
    attempts.insert(job.attempt());
  }
  REQUIRE(*attempts.rbegin() > 1);  // some kill met a running job
  REQUIRE(folders.OutFiles().size() == 5);
}

// What only the message had is there after it was answered.
TEST_CASE("killed once it is accepted, a job has its numbers and overrides",
          "[job_kill]") {
  JobFolders folders;
  Quantd quantd(folders);
  const auto request = [&](const std::string& out) {
    v1::CreateJobRequest made = InlineRequest(folders, out);
    v1::Job* const job = made.mutable_job();
    job->mutable_source()->add_include("*layers.1.self_attn.?_proj.*");
    v1::Override* rule = job->add_overrides();
    rule->set_tensors("*.[qkv]_proj.*");
    rule->mutable_config()->set_preset("W8A16");
    return made;
  };
  const v1::Job expected = RequireDone(quantd.client(), request("undisturbed"));
  REQUIRE(expected.summary().tensors() == 4);
  for (int round = 0; round < 3; ++round) {
    const std::string name =
        RequireMade(quantd.client(), request(absl::StrCat("out", round)))
            .name();
    absl::SleepFor(absl::Milliseconds(20 * round));
    quantd.Kill();
    quantd.Start();
    const v1::Job job = WaitDone(quantd.client(), name);
    INFO(job.ShortDebugString());
    REQUIRE(job.state() == v1::Job::SUCCEEDED);
    REQUIRE(job.summary().digest() == expected.summary().digest());
  }
}

// F5: from the first shard on, while the job runs and is run again.
TEST_CASE("a result is read over kills, byte by byte as it is made",
          "[job_kill]") {
  JobFolders folders;
  Quantd quantd(folders);
  const absl::Time began = absl::Now();
  const std::string digest =
      RequireDone(quantd.client(), GptqRequest(folders, "undisturbed"))
          .summary()
          .digest();
  const absl::Duration whole = absl::Now() - began;
  v1::CreateJobRequest request = GptqRequest(folders, "unused");
  request.mutable_job()->clear_destination();
  const std::string name = quantd.client().Create(request)->name();

  const auto seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  std::map<std::string, std::string> files;
  v1::ReadResultRequest read = ResultRequest(name, true);
  int calls = 0;
  for (bool complete = false; !complete; ++calls) {
    REQUIRE(calls < 100);
    ResultCall call(quantd.client(), read);
    // No job fails for three kills: they come before it is done at most twice.
    const auto kills = static_cast<int>(calls < 2);
    std::jthread killer([&] {
      if (kills == 0) return;
      absl::SleepFor(whole * (0.9 * static_cast<double>(random()) /
                              static_cast<double>(std::mt19937::max())));
      quantd.process().Signal(SIGKILL);
    });
    while (call.Next()) {
    }
    killer.join();
    for (const std::string& file : call.order) {
      files[file] += call.files[file];
      read.set_file(file);
      read.set_offset(static_cast<int64_t>(files[file].size()));
    }
    const absl::Status status = call.Finish();
    INFO(status.ToString());
    REQUIRE((status.ok() || absl::IsUnavailable(status)));
    complete = status.ok();
    if (complete) {
      REQUIRE(call.end->digest() == digest);
    } else {
      REQUIRE(quantd.process().WaitForExit(absl::Seconds(10)) == -1);
      quantd.Start();
    }
    if (complete && kills > 0) {
      quantd.Kill();
      quantd.Start();
    }
  }
  REQUIRE(files == ReadTree(folders.Out("undisturbed")));
}

TEST_CASE("killed after every seal, a job that waits goes on and waits again",
          "[job_kill]") {
  JobFolders folders;
  Quantd quantd(folders);
  CalibrationClient(quantd.process().NewChannel()).Upload();
  const std::string name =
      RequireMade(quantd.client(), NamedRequest(folders, "named")).name();
  const auto seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  std::vector<std::string> sites = SiteNames();
  std::shuffle(sites.begin(), sites.end(), random);
  int64_t shards = 0;
  for (size_t i = 0; i < sites.size(); ++i) {
    CalibrationClient(quantd.process().NewChannel()).Seal({sites[i]});
    if (i + 1 == sites.size()) break;
    // At once, or when it waits again.
    if (random() % 2 == 0) {
      REQUIRE(WaitsForSites(quantd.client(), name));
      const int64_t done = quantd.client().Get(name)->progress().shards_done();
      REQUIRE(done >= shards);
      shards = done;
    }
    quantd.Kill();
    quantd.Start();
    const auto job = quantd.client().Get(name);
    REQUIRE(job.ok());
    REQUIRE(job->waiting_for().open_sites() ==
            static_cast<int64_t>(sites.size() - i - 1));
    // Its crashes do not add up when it has been parked.
    REQUIRE(WaitsForSites(quantd.client(), name));
  }
  const v1::Job job = WaitDone(quantd.client(), name);
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::SUCCEEDED);
  RequireDone(quantd.client(), FiledRequest(folders, "filed"));
  REQUIRE(ReadTree(folders.Out("named")) == ReadTree(folders.Out("filed")));
}

TEST_CASE("a watch is resumed over a kill; no change is lost", "[job_kill]") {
  JobFolders folders;
  Quantd quantd(folders);
  const std::string name =
      quantd.client().Create(GptqRequest(folders, "a"))->name();
  std::vector<std::pair<int64_t, int>> changes;  // revision, state
  int64_t revision = 1;
  bool killed = false;
  while (true) {
    JobWatch watch(quantd.client(), name, revision);
    v1::JobEvent event;
    bool done = false;
    while (watch.Read(&event)) {
      REQUIRE_FALSE(event.has_snapshot());
      revision = event.revision();
      if (!event.has_change()) continue;
      changes.emplace_back(revision, event.change().state());
      done = event.change().has_job();
      if (event.change().state() == v1::Job::RUNNING && !killed) {
        killed = true;
        quantd.Kill();
      }
    }
    watch.Finish().IgnoreError();
    if (done) break;
    quantd.Start();
  }
  const std::vector<std::pair<int64_t, int>> expected = {
      {2, v1::Job::RUNNING},
      {3, v1::Job::QUEUED},
      {4, v1::Job::RUNNING},
      {5, v1::Job::SUCCEEDED}};
  REQUIRE(changes == expected);
}

TEST_CASE("a job that kills its process fails; the others do not",
          "[job_kill]") {
  JobFolders folders;
  Quantd quantd(folders);
  // What runs when the process is killed three times, whatever it is, with no
  // shard done between.
  const std::string poison =
      quantd.client().Create(GptqRequest(folders, "poison"))->name();
  int kills = 0;
  while (kills < 20) {
    const auto job = quantd.client().Get(poison);
    REQUIRE(job.ok());
    if (job->state() == v1::Job::QUEUED) continue;
    if (job->state() != v1::Job::RUNNING) break;
    quantd.Kill();
    ++kills;
    quantd.Start();
  }
  const auto job = quantd.client().Get(poison);
  INFO(job->ShortDebugString());
  REQUIRE(job->state() == v1::Job::FAILED);
  REQUIRE(kills == 3);
  google::rpc::ErrorInfo info;
  REQUIRE(job->error().details_size() == 1);
  REQUIRE(job->error().details(0).UnpackTo(&info));
  REQUIRE(info.reason() == "WORKER_CRASHED");
  REQUIRE(folders.OutFiles().empty());
  RequireDone(quantd.client(), GptqRequest(folders, "poison"));
}

TEST_CASE("SIGTERM: watches end, jobs go back, the exit code is 0",
          "[job_kill]") {
  JobFolders folders;
  Quantd quantd(folders);
  std::vector<std::string> names;
  for (const char* out : {"a", "b", "c", "d"}) {
    names.push_back(quantd.client().Create(GptqRequest(folders, out))->name());
  }
  std::vector<std::unique_ptr<JobWatch>> watches;
  for (int i = 0; i < 40; ++i) {
    watches.push_back(std::make_unique<JobWatch>(
        quantd.client(), names[static_cast<size_t>(i) % names.size()]));
    v1::JobEvent event;
    REQUIRE(watches.back()->Read(&event));
  }
  const absl::Time asked = absl::Now();
  quantd.process().Signal(SIGTERM);
  for (const auto& watch : watches) {
    watch->ReadAll();
    const absl::Status status = watch->Finish();
    INFO(status.ToString());
    REQUIRE((status.ok() || ErrorReason(status) == "DRAINING"));
  }
  REQUIRE(quantd.process().WaitForExit(absl::Seconds(20)) == 0);
  REQUIRE(absl::Now() - asked < absl::Seconds(5));
  quantd.Start();
  for (const std::string& name : names) {
    const v1::Job job = WaitDone(quantd.client(), name);
    INFO(job.ShortDebugString());
    REQUIRE(job.state() == v1::Job::SUCCEEDED);
    REQUIRE(job.attempt() == 1);
  }
}

}  // namespace
}  // namespace qs::testing

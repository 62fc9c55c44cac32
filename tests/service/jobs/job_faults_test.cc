// Jobs over failpoints of the real quantd: killed in a kernel, where a shard or
// a whole output gets its name, and at each commit, a job is done once and with
// the bytes of one that nobody disturbed; one whose kernel crashes fails.
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "tests/service/jobs/job_client.h"
#include "tests/service/jobs/result_client.h"
#include "tests/service/quantd_process.h"

namespace qs::testing {
namespace {

constexpr absl::Duration kEndLimit = absl::Seconds(60);

class FaultyQuantd {
 public:
  explicit FaultyQuantd(const JobFolders& folders)
      : flags_{"--data-dir",   folders.folder / "data",
               "--read-root",  QS_TEST_DATA,
               "--write-root", folders.folder / "out",
               "--workers",    "gpu:0"} {}

  void Start(const std::string& failpoints = "") {
    setenv("QS_FAILPOINTS", failpoints.c_str(), 1);
    process_ = std::make_unique<QuantdProcess>(flags_);
    unsetenv("QS_FAILPOINTS");
    client_ = std::make_unique<JobClient>(process_->NewChannel());
  }
  void Stop() {
    process_->Signal(SIGTERM);
    REQUIRE(process_->WaitForExit(kEndLimit) == 0);
  }
  JobClient& client() { return *client_; }
  QuantdProcess& process() { return *process_; }

 private:
  const std::vector<std::string> flags_;
  std::unique_ptr<QuantdProcess> process_;
  std::unique_ptr<JobClient> client_;
};

// A small part of the model, in both of its shards; `output` empty: the store.
v1::CreateJobRequest SmallRequest(const JobFolders& folders,
                                  const std::string& output,
                                  const std::string& preset = "NF4") {
  v1::CreateJobRequest request = JobRequest(folders, output, preset);
  v1::Job* const job = request.mutable_job();
  for (const char* part : {"q", "k", "v"}) {  // what engines fuse
    job->mutable_source()->add_include(
        absl::StrCat("*.self_attn.", part, "_proj.*"));
  }
  if (output.empty()) job->clear_destination();
  return request;
}

std::map<std::string, std::string> ReadStored(JobClient& client,
                                              const std::string& name) {
  ResultCall call(client, ResultRequest(name, false));
  while (call.Next()) {
  }
  const absl::Status status = call.Finish();
  INFO(status.ToString());
  REQUIRE(status.ok());
  return call.files;
}

// How often the job has come to an end, by its events.
int CountEnds(JobClient& client, const std::string& name) {
  JobWatch watch(client, name, 1);
  int ends = 0;
  for (const v1::JobEvent& event : watch.ReadAll()) {
    REQUIRE_FALSE(event.has_snapshot());
    ends += static_cast<int>(event.has_change() && event.change().has_job());
  }
  return ends;
}

// False: the job is done.
bool RunsIntoDeath(FaultyQuantd& quantd, const v1::CreateJobRequest& request) {
  const auto made = quantd.client().Create(request);
  if (made.ok()) {
    JobWatch watch(quantd.client(), made->name());
    watch.ReadAll();
    if (watch.Finish().ok()) return false;
  }
  REQUIRE(quantd.process().WaitForEnd(kEndLimit));
  return true;
}

// A job that is killed at the failpoint and goes on without it. Returns false
// if it came to its end before.
bool CheckKilled(const std::string& failpoint, bool stored,
                 const std::map<std::string, std::string>& expected) {
  INFO(failpoint << (stored ? ", stored" : ", to a directory"));
  JobFolders folders;
  FaultyQuantd quantd(folders);
  // Commits before the job's first are not counted.
  quantd.Start();
  quantd.Stop();
  quantd.Start(failpoint);
  v1::CreateJobRequest request = SmallRequest(folders, stored ? "" : "out");
  request.set_request_id("r");
  const bool killed = RunsIntoDeath(quantd, request);
  if (killed) quantd.Start();
  const std::string name = RequireMade(quantd.client(), request).name();
  const v1::Job job = WaitDone(quantd.client(), name);
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::SUCCEEDED);
  REQUIRE(job.attempt() <= 2);
  REQUIRE(CountEnds(quantd.client(), name) == 1);
  REQUIRE((stored ? ReadStored(quantd.client(), name)
                  : ReadTree(folders.Out("out"))) == expected);
  // Nothing is left of an attempt.
  REQUIRE(folders.OutFiles() == (stored ? std::vector<std::string>()
                                        : std::vector<std::string>{"out"}));
  return killed;
}

// What a job gives that nobody disturbs.
std::map<std::string, std::string> Undisturbed() {
  JobFolders folders;
  FaultyQuantd quantd(folders);
  quantd.Start();
  RequireDone(quantd.client(), SmallRequest(folders, "out"));
  return ReadTree(folders.Out("out"));
}

// F4: in a kernel (mid tensor), between kernels (mid job), at the names of
// shards and of the whole (mid publish), and at whatever is committed.
TEST_CASE("killed at any failpoint, a job is done once, with the same bytes",
          "[job_faults]") {
  const auto expected = Undisturbed();
  struct Point {
    const char* name;
    std::vector<int> hits;
    bool always;  // such a hit comes in every job
  };
  const std::vector<Point> points = {
      {"kernel.nf4", {1, 3, 8}, true},
      {"kernel.stats", {1, 5}, true},
      {"shard.before_rename", {1, 2}, true},
      {"shard.after_rename", {1, 2}, true},
      {"config.before_rename", {1}, true},
      {"config.after_rename", {1}, true},
      {"publish.before_rename", {1}, true},
      {"publish.after_rename", {1}, true},
      {"meta.commit", {1, 2, 3, 4, 5, 6, 7, 8}, false},
      {"meta.committed", {1, 2, 3, 4, 5, 6, 7, 8}, false}};
  int commits = 0;
  for (const Point& point : points) {
    for (const int hit : point.hits) {
      for (const bool stored : {false, true}) {
        const bool killed = CheckKilled(absl::StrCat(point.name, "=kill@", hit),
                                        stored, expected);
        REQUIRE((killed || !point.always));
        if (!point.always) commits += static_cast<int>(killed);
        if (!killed) break;
      }
    }
  }
  REQUIRE(commits > 12);
}

// F16: the kernels of one method crash; the others serve on.
TEST_CASE("a job whose kernel crashes fails at the third time",
          "[job_faults]") {
  JobFolders folders;
  FaultyQuantd quantd(folders);
  quantd.Start();
  // It is the kernel, not the request.
  RequireDone(quantd.client(), SmallRequest(folders, "good", "W4A16-hqq"));
  quantd.Stop();
  quantd.Start("kernel.hqq=segv@1");
  v1::CreateJobRequest poison = SmallRequest(folders, "poison", "W4A16-hqq");
  poison.set_request_id("poison");
  v1::CreateJobRequest request = SmallRequest(folders, "other");
  request.set_request_id("other");
  for (int crashes = 0; crashes < 3; ++crashes) {
    // The answer may be lost with the process; what was asked for is not.
    (void)quantd.client().Create(poison);
    REQUIRE(quantd.process().WaitForEnd(kEndLimit));
    quantd.Start("kernel.hqq=segv@1");
    (void)quantd.client().Create(request);
  }
  const std::string name = RequireMade(quantd.client(), poison).name();
  const std::string other = RequireMade(quantd.client(), request).name();
  const auto job = quantd.client().Get(name);
  REQUIRE(job.ok());
  INFO(job->ShortDebugString());
  REQUIRE(job->state() == v1::Job::FAILED);
  REQUIRE(job->attempt() == 3);
  google::rpc::ErrorInfo info;
  REQUIRE(job->error().details_size() == 1);
  REQUIRE(job->error().details(0).UnpackTo(&info));
  REQUIRE(info.reason() == "WORKER_CRASHED");
  REQUIRE(WaitDone(quantd.client(), other).state() == v1::Job::SUCCEEDED);
  REQUIRE(folders.OutFiles() == std::vector<std::string>{"good", "other"});
  // With a kernel that does not crash it may be asked for again.
  quantd.Stop();
  quantd.Start();
  poison.set_request_id("again");
  RequireDone(quantd.client(), poison);
  REQUIRE(ReadTree(folders.Out("poison")) == ReadTree(folders.Out("good")));
}

// A disk that is full, or broken, where an output gets its name: the job fails
// with the reason, leaves nothing, and the server serves on.
TEST_CASE("an output that cannot be named fails its job alone",
          "[job_faults]") {
  for (const char* point : {"shard", "config", "publish"}) {
    for (const char* error : {"ENOSPC", "EIO"}) {
      const std::string failpoint =
          absl::StrCat(point, ".before_rename=", error, "@1");
      INFO(failpoint);
      JobFolders folders;
      FaultyQuantd quantd(folders);
      quantd.Start(failpoint);
      const v1::Job failed = WaitDone(
          quantd.client(),
          RequireMade(quantd.client(), SmallRequest(folders, "out")).name());
      INFO(failed.ShortDebugString());
      REQUIRE(failed.state() == v1::Job::FAILED);
      REQUIRE(folders.OutFiles().empty());
      RequireDone(quantd.client(), SmallRequest(folders, "out"));
    }
  }
}

}  // namespace
}  // namespace qs::testing

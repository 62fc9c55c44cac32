// The scheduler with runs that do what the test says, on real records: order,
// limits, ends of every kind, and what a new process makes of the old one's
// jobs.
#include "service/jobs/job_scheduler.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "google/rpc/error_details.pb.h"
#include "kernels/backend.h"
#include "quant/v1/jobs.pb.h"
#include "service/base/metrics.h"
#include "service/jobs/job.h"
#include "service/jobs/job_messages.h"
#include "service/server/log.h"
#include "service/store/sqlite_job_records.h"
#include "tests/service/jobs/fake_runs.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;
namespace v1 = quant::v1;

// A server's jobs without its RPCs. Restart makes the next process of it.
class Jobs {
 public:
  Jobs() {
    REQUIRE(SetLogLevel("off").ok());
    fs::create_directory(folder_ / "out");
    auto db = SqliteDatabase::Open(folder_ / "db", {JobRecordsSchema()});
    REQUIRE(db.ok());
    db_ = *std::move(db);
    records_ = NewSqliteJobRecords(*db_);
    pool_ = std::make_unique<WorkerPool>(NewCpuBackends(1, 1));
    const UriResolver<std::string> fresh =
        [](const std::string&, const std::string& uri, const std::string&) {
          return uri;
        };
    const UriResolver<InputPath> existing =
        [](const std::string&, const std::string& uri, const std::string&) {
          return InputPath{uri, nullptr};
        };
    context_ = std::make_unique<JobsContext>(JobsContext{
        *records_, io_, *pool_, budget_, runs.Factory(), {existing, fresh}});
    context_->now = [this] { return now(); };
    options.tick = absl::Milliseconds(5);
  }
  ~Jobs() {
    scheduler_.reset();
    runs.Forget();
  }

  void Start() {
    scheduler_ = std::make_unique<JobScheduler>(*context_, hub_, options);
    REQUIRE(scheduler_->Recover().ok());
    scheduler_->Start();
  }
  // As after a kill: the records stay as they are.
  void Crash() {
    const auto running = records_->Running();
    REQUIRE(running.ok());
    std::vector<JobRecord> before;
    for (const JobKey& one : *running) before.push_back(*records_->Get(one));
    scheduler_.reset();
    for (const JobRecord& job : before) {
      REQUIRE(records_
                  ->Update(job.key, now(),
                           [&](JobRecord& current) {
                             const int64_t revision = current.revision;
                             current = job;
                             current.revision = revision;
                             return absl::OkStatus();
                           })
                  .ok());
    }
    runs.Forget();
  }

  JobKey Add(const std::string& name, int priority = 2,
             const std::string& project = "default",
             const std::function<void(v1::Job*)>& more = nullptr,
             const JobWait& waiting = {}) {
    v1::Job spec;
    spec.mutable_source()->set_uri(name);
    spec.mutable_destination()->set_uri(Out(name));
    if (more) more(&spec);
    JobRecord job;
    job.key = {project, name};
    job.spec = spec.SerializeAsString();
    job.request_hash = "h";
    job.destination = Out(name);
    job.priority = priority;
    job.created = now();
    job.queue_deadline = QueueDeadline(job, now());
    job.waiting = waiting;
    if (!waiting.sites.empty()) job.calibration = "c";
    REQUIRE(records_->Create(job, 1000)->outcome == JobRecords::Created::kMade);
    if (scheduler_) scheduler_->Wake();
    return job.key;
  }

  // With open sites; it can begin.
  JobKey AddWaiting(const std::string& name,
                    const std::string& project = "default") {
    return Add(name, 2, project, nullptr, {{1}, ""});
  }

  JobRecord Get(const JobKey& key) {
    auto job = records_->Get(key);
    REQUIRE(job.ok());
    return *std::move(job);
  }
  bool Becomes(const JobKey& key, JobState state) {
    return WaitUntil([&] { return Get(key).state == state; });
  }
  std::string Reason(const JobKey& key) {
    google::rpc::Status error;
    REQUIRE(error.ParseFromString(Get(key).error));
    REQUIRE(error.code() != 0);
    google::rpc::ErrorInfo info;
    for (const auto& detail : error.details()) {
      if (detail.UnpackTo(&info)) return info.reason();
    }
    return "";
  }
  std::string Out(const std::string& name) { return folder_ / ("out/" + name); }
  std::vector<std::string> Files() {
    std::vector<std::string> files;
    for (const auto& entry : fs::directory_iterator(folder_ / "out")) {
      files.push_back(entry.path().filename());
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  absl::Time now() const {
    absl::MutexLock lock(&mutex_);
    return now_;
  }
  void Advance(absl::Duration time) {
    absl::MutexLock lock(&mutex_);
    now_ += time;
  }
  JobScheduler& scheduler() { return *scheduler_; }
  JobRecords& records() { return *records_; }

  FakeRuns runs;
  JobSchedulerOptions options;

 private:
  TemporaryFolder folder_;
  mutable absl::Mutex mutex_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::unique_ptr<SqliteDatabase> db_;
  std::unique_ptr<JobRecords> records_;
  IoPool io_{2, 100};
  std::unique_ptr<WorkerPool> pool_;
  ByteBudget budget_{1 << 20};
  JobHub hub_{10};
  std::unique_ptr<JobsContext> context_;
  std::unique_ptr<JobScheduler> scheduler_;
};

using Names = std::vector<std::string>;

TEST_CASE("a job runs to its end, and its result appears at once", "[jobs]") {
  Jobs jobs;
  jobs.Start();
  const JobKey key = jobs.Add("a");
  const auto run = jobs.runs.WaitStarted("a");
  REQUIRE(run != nullptr);
  REQUIRE(jobs.Get(key).state == JobState::kRunning);
  REQUIRE(run->CommitShard(0).ok());
  REQUIRE(jobs.Files() == Names{".a.a"});
  const auto progress = jobs.scheduler().ProgressOf(key);
  REQUIRE(progress);
  REQUIRE(progress->phase() == v1::JobProgress::QUANTIZING);
  REQUIRE(progress->tensors_done() == 1);
  REQUIRE(progress->bytes_done() == 100);
  REQUIRE(progress->shards_total() == 2);
  jobs.Advance(absl::Seconds(7));
  REQUIRE(run->CommitShard(1).ok());
  run->Succeed();
  REQUIRE(jobs.Becomes(key, JobState::kSucceeded));
  REQUIRE(jobs.Files() == Names{"a"});
  const v1::Job job = JobToProto(jobs.Get(key));
  REQUIRE(job.summary().tensors() == 2);
  REQUIRE(job.summary().bytes_in() == 200);
  REQUIRE(job.summary().error().count() == 100);
  REQUIRE(job.summary().error().mean_squared_error() == 0.5);
  REQUIRE(job.summary().files() == 3);
  REQUIRE(job.summary().seconds() == 7);
  REQUIRE(job.summary().digest().size() == 71);
  REQUIRE(job.progress().shards_done() == 2);
  REQUIRE(jobs.scheduler().WaitIdle(absl::Seconds(10)));
  REQUIRE(jobs.records().Shards(key)->empty());
}

TEST_CASE("priority, then age; no more at once than allowed", "[jobs]") {
  Jobs jobs;
  jobs.options.max_running = 2;
  jobs.options.max_running_in_project = 1;
  const JobKey old = jobs.Add("old");
  jobs.Add("low", 1);
  jobs.Add("urgent", 4);
  const JobKey other = jobs.Add("other", 1, "second");
  jobs.Start();
  // One of each project, though those of the first are all more urgent.
  REQUIRE(jobs.runs.WaitStarted("urgent") != nullptr);
  REQUIRE(jobs.runs.WaitStarted("other") != nullptr);
  REQUIRE(jobs.scheduler().running() == 2);
  REQUIRE(jobs.runs.Started("old") == nullptr);
  jobs.runs.Started("urgent")->Succeed();
  REQUIRE(jobs.runs.WaitStarted("old") != nullptr);
  REQUIRE(jobs.runs.Started("low") == nullptr);
  jobs.runs.Started("old")->Succeed();
  REQUIRE(jobs.runs.WaitStarted("low") != nullptr);
  REQUIRE(jobs.Becomes(old, JobState::kSucceeded));
  REQUIRE(jobs.Get(other).state == JobState::kRunning);
}

TEST_CASE("what goes wrong is the job's error; nothing is left", "[jobs]") {
  Jobs jobs;
  jobs.Start();
  SECTION("the run fails") {
    const JobKey key = jobs.Add("a");
    const auto run = jobs.runs.WaitStarted("a");
    REQUIRE(run->CommitShard(0).ok());
    run->End(absl::InternalError("boom"));
    REQUIRE(jobs.Becomes(key, JobState::kFailed));
    REQUIRE(jobs.Reason(key) == "JOB_FAILED");
    REQUIRE(jobs.Files().empty());
  }
  SECTION("the source is not what it was") {
    jobs.runs.Refuse(absl::NotFoundError("gone"));
    const JobKey key = jobs.Add("a");
    REQUIRE(jobs.Becomes(key, JobState::kFailed));
  }
  SECTION("the destination was taken meanwhile") {
    const JobKey key = jobs.Add("a");
    const auto run = jobs.runs.WaitStarted("a");
    fs::create_directory(jobs.Out("a"));
    run->Succeed();
    REQUIRE(jobs.Becomes(key, JobState::kFailed));
    REQUIRE(jobs.Reason(key) == "DESTINATION_EXISTS");
    REQUIRE(jobs.Files() == Names{"a"});
    REQUIRE(fs::is_empty(jobs.Out("a")));
  }
}

TEST_CASE("with less memory than when it was made, a job does nothing",
          "[jobs]") {
  Jobs jobs;
  jobs.Start();
  RunSize size;
  size.largest_batch = "model.layers.0.mlp.down_proj";
  size.largest_batch_bytes = (1 << 20) + 1;
  jobs.runs.SetSize(size);
  const JobKey key = jobs.Add("a");
  REQUIRE(jobs.Becomes(key, JobState::kFailed));
  CHECK(jobs.Reason(key) == "NO_WORKER_FITS");
  CHECK(jobs.runs.Started("a") == nullptr);
  --size.largest_batch_bytes;
  jobs.runs.SetSize(size);
  jobs.Add("b");
  CHECK(jobs.runs.WaitStarted("b") != nullptr);
}

TEST_CASE("cancelled while queued, running, and too late", "[jobs]") {
  Jobs jobs;
  jobs.options.max_running = 1;
  jobs.Start();
  const JobKey first = jobs.Add("first");
  const auto run = jobs.runs.WaitStarted("first");
  REQUIRE(run->CommitShard(0).ok());
  const JobKey second = jobs.Add("second");
  REQUIRE(jobs.scheduler().Cancel(second)->state == JobState::kCancelled);
  REQUIRE(jobs.scheduler().Cancel(first)->cancel_requested);
  REQUIRE(jobs.Becomes(first, JobState::kCancelled));
  REQUIRE(jobs.Files().empty());
  // Again, and one that is done: as it is.
  const auto again = jobs.scheduler().Cancel(first);
  REQUIRE(again->state == JobState::kCancelled);
  const int64_t revision = again->revision;
  REQUIRE(jobs.scheduler().Cancel(first)->revision == revision);
  REQUIRE(jobs.scheduler().Cancel({"default", "no"}).status().code() ==
          absl::StatusCode::kNotFound);
}

TEST_CASE("a run that ends well though it was cancelled leaves nothing",
          "[jobs]") {
  Jobs jobs;
  jobs.Start();
  const JobKey key = jobs.Add("a");
  const auto run = jobs.runs.WaitStarted("a");
  run->IgnoreStop();
  REQUIRE(jobs.scheduler().Cancel(key)->cancel_requested);
  REQUIRE(WaitUntil([&] { return run->stopped(); }));
  run->Succeed();
  REQUIRE(jobs.Becomes(key, JobState::kCancelled));
  REQUIRE(jobs.Files().empty());
}

TEST_CASE("timeouts of the queue and of the execution", "[jobs]") {
  Jobs jobs;
  jobs.options.max_running = 1;
  jobs.Start();
  const JobKey slow = jobs.Add("slow", 2, "default", [](v1::Job* job) {
    job->mutable_execution_timeout()->set_seconds(60);
  });
  REQUIRE(jobs.runs.WaitStarted("slow") != nullptr);
  const JobKey waits = jobs.Add("waits", 2, "default", [](v1::Job* job) {
    job->mutable_queue_timeout()->set_seconds(30);
  });
  jobs.Advance(absl::Seconds(29));
  absl::SleepFor(absl::Milliseconds(30));
  REQUIRE(jobs.Get(waits).state == JobState::kQueued);
  jobs.Advance(absl::Seconds(2));
  REQUIRE(jobs.Becomes(waits, JobState::kFailed));
  REQUIRE(jobs.Reason(waits) == "QUEUE_TIMEOUT");
  REQUIRE(jobs.Get(slow).state == JobState::kRunning);
  jobs.Advance(absl::Seconds(30));
  REQUIRE(jobs.Becomes(slow, JobState::kFailed));
  REQUIRE(jobs.Reason(slow) == "EXECUTION_TIMEOUT");
  REQUIRE(jobs.Files().empty());
}

TEST_CASE("a drain gives jobs back; the next process goes on", "[jobs]") {
  Jobs jobs;
  jobs.Start();
  const JobKey key = jobs.Add("a");
  auto run = jobs.runs.WaitStarted("a");
  REQUIRE(run->CommitShard(0).ok());
  jobs.scheduler().StartDraining();
  REQUIRE(jobs.scheduler().WaitIdle(absl::Seconds(10)));
  REQUIRE(jobs.Get(key).state == JobState::kQueued);
  REQUIRE(jobs.Get(key).attempt == 1);
  REQUIRE(jobs.Get(key).crashes == 0);
  const JobKey late = jobs.Add("late");
  absl::SleepFor(absl::Milliseconds(30));
  REQUIRE(jobs.Get(late).state == JobState::kQueued);
  jobs.runs.Forget();
  jobs.Crash();

  jobs.Start();
  run = jobs.runs.WaitStarted("a");
  REQUIRE(run->committed() == std::set<int>{0});
  REQUIRE(jobs.scheduler().ProgressOf(key)->tensors_done() == 1);
  REQUIRE(run->CommitShard(1).ok());
  run->Succeed();
  REQUIRE(jobs.Becomes(key, JobState::kSucceeded));
  REQUIRE(JobToProto(jobs.Get(key)).summary().tensors() == 2);
}

TEST_CASE("after a crash a job goes on from its shards", "[jobs]") {
  Jobs jobs;
  jobs.Start();
  const JobKey key = jobs.Add("a");
  REQUIRE(jobs.runs.WaitStarted("a")->CommitShard(1).ok());
  jobs.Crash();
  std::set<int> expected = {1};
  SECTION("of the same fingerprint") {}
  SECTION("but not of another one") {
    jobs.runs.SetFingerprint("sha256:two");
    expected.clear();
  }
  SECTION("but not from a file that is gone") {
    fs::remove(jobs.Out(".a.a") + "/model-1.safetensors");
    expected.clear();
  }
  SECTION("but not when all files are gone") {
    fs::remove_all(jobs.Out(".a.a"));
    expected.clear();
  }
  jobs.Start();
  const auto run = jobs.runs.WaitStarted("a");
  REQUIRE(run->committed() == expected);
  REQUIRE(jobs.Get(key).attempt == 2);
  REQUIRE(jobs.Get(key).crashes == 1);
  // A shard is progress: crashes are counted anew.
  REQUIRE(run->CommitShard(0).ok());
  REQUIRE(jobs.Get(key).crashes == 0);
}

TEST_CASE("a job that ends processes fails, and takes nobody with it",
          "[jobs]") {
  const Counter& quarantined = CounterOf("quantd_jobs_quarantined_total", "");
  const double before = quarantined.Value();
  Jobs jobs;
  jobs.options.max_running = 4;
  const JobKey poison = jobs.Add("poison");
  const JobKey innocent = jobs.Add("innocent");
  for (int i = 0; i < 2; ++i) {
    jobs.Start();
    REQUIRE(jobs.runs.WaitStarted("poison") != nullptr);
    REQUIRE(jobs.runs.WaitStarted("innocent") != nullptr);
    jobs.Crash();
  }
  // Both are suspects now: one after the other, alone.
  const JobKey fresh = jobs.Add("fresh");
  jobs.Start();
  REQUIRE(jobs.runs.WaitStarted("poison") != nullptr);
  absl::SleepFor(absl::Milliseconds(30));
  REQUIRE(jobs.scheduler().running() == 1);
  jobs.Crash();
  jobs.Start();
  REQUIRE(jobs.Becomes(poison, JobState::kFailed));
  REQUIRE(jobs.Reason(poison) == "WORKER_CRASHED");
  REQUIRE(jobs.Get(poison).attempt == 3);
  const auto run = jobs.runs.WaitStarted("innocent");
  REQUIRE(jobs.scheduler().running() == 1);
  run->Succeed();
  REQUIRE(jobs.Becomes(innocent, JobState::kSucceeded));
  jobs.runs.WaitStarted("fresh")->Succeed();
  REQUIRE(jobs.Becomes(fresh, JobState::kSucceeded));
  REQUIRE(jobs.Get(fresh).attempt == 1);
  REQUIRE(quarantined.Value() == before + 1);
}

TEST_CASE("a process ends while a job is cancelled or gets its name",
          "[jobs]") {
  Jobs jobs;
  jobs.Start();
  const JobKey key = jobs.Add("a");
  const auto run = jobs.runs.WaitStarted("a");
  REQUIRE(run->CommitShard(0).ok());
  const auto update = [&](const JobRecords::Change& change) {
    REQUIRE(jobs.records().Update(key, jobs.now(), change).ok());
  };
  SECTION("cancelled") {
    update([](JobRecord& job) {
      job.cancel_requested = true;
      return absl::OkStatus();
    });
    jobs.Crash();
    jobs.Start();
    REQUIRE(jobs.Get(key).state == JobState::kCancelled);
    REQUIRE(jobs.Files().empty());
  }
  SECTION("before the rename") {
    update([](JobRecord& job) { return PublishJob(job, "s"); });
    jobs.Crash();
    jobs.Start();
    const auto again = jobs.runs.WaitStarted("a");
    REQUIRE(again->committed() == std::set<int>{0});
    again->Succeed();
    REQUIRE(jobs.Becomes(key, JobState::kSucceeded));
  }
  SECTION("after the rename") {
    update([](JobRecord& job) {
      return PublishJob(job, v1::JobSummary().SerializeAsString() + "\x08\x05");
    });
    jobs.Crash();
    fs::rename(jobs.Out(".a.a"), jobs.Out("a"));
    jobs.Start();
    REQUIRE(jobs.Get(key).state == JobState::kSucceeded);
    REQUIRE(JobToProto(jobs.Get(key)).summary().tensors() == 5);
    REQUIRE(jobs.Files() == Names{"a"});
    REQUIRE(jobs.runs.Started("a") == nullptr);
  }
}

TEST_CASE("a job that is parked takes no place", "[jobs]") {
  Jobs jobs;
  jobs.options.max_running = 1;
  jobs.options.max_open_in_project = 1;
  jobs.Start();
  const JobKey parked = jobs.AddWaiting("parked");
  const auto run = jobs.runs.WaitStarted("parked");
  REQUIRE(run->CommitShard(0).ok());
  const JobKey whole = jobs.Add("whole");
  run->Wait(1, false);  // something of it is still done
  absl::SleepFor(absl::Milliseconds(30));
  REQUIRE(jobs.Get(whole).state == JobState::kQueued);
  run->Wait(1, true);
  const auto other = jobs.runs.WaitStarted("whole");
  REQUIRE(other != nullptr);
  REQUIRE(jobs.Get(parked).state == JobState::kRunning);
  const auto progress = jobs.scheduler().ProgressOf(parked);
  REQUIRE(progress->phase() == v1::JobProgress::WAITING);
  REQUIRE(progress->tensors_waiting() == 1);
  REQUIRE(progress->shards_done() == 1);

  SECTION("others run to their end meanwhile") {
    other->Succeed();
    REQUIRE(jobs.Becomes(whole, JobState::kSucceeded));
    run->Wait(0, false);
    REQUIRE(jobs.scheduler().ProgressOf(parked)->phase() ==
            v1::JobProgress::QUANTIZING);
    REQUIRE(run->CommitShard(1).ok());
    run->Succeed();
    REQUIRE(jobs.Becomes(parked, JobState::kSucceeded));
  }
  SECTION("it goes on at once, and is one too many") {
    run->Wait(0, false);
    const JobKey third = jobs.Add("third");
    run->Succeed();
    REQUIRE(jobs.Becomes(parked, JobState::kSucceeded));
    absl::SleepFor(absl::Milliseconds(30));
    REQUIRE(jobs.Get(third).state == JobState::kQueued);
    other->Succeed();
    REQUIRE(jobs.runs.WaitStarted("third") != nullptr);
  }
  SECTION("the next with open sites waits for its place") {
    other->Succeed();
    REQUIRE(jobs.Becomes(whole, JobState::kSucceeded));
    const JobKey next = jobs.AddWaiting("next");
    const JobKey later = jobs.Add("later");
    REQUIRE(jobs.runs.WaitStarted("later") != nullptr);
    REQUIRE(jobs.Get(next).state == JobState::kQueued);
    jobs.runs.Started("later")->Succeed();
    REQUIRE(jobs.Becomes(later, JobState::kSucceeded));
    run->Wait(0, false);
    absl::SleepFor(absl::Milliseconds(30));
    REQUIRE(jobs.Get(next).state == JobState::kQueued);
    run->Succeed();
    REQUIRE(jobs.runs.WaitStarted("next") != nullptr);
  }
  SECTION("the next starts when all of its sites are sealed") {
    other->Succeed();
    const JobKey next = jobs.AddWaiting("next");
    absl::SleepFor(absl::Milliseconds(30));
    REQUIRE(jobs.Get(next).state == JobState::kQueued);
    REQUIRE(*jobs.records().UpdateWaiting({"default", "c"},
                                          [](JobWait& wait) { wait = {}; }));
    jobs.scheduler().Wake();
    REQUIRE(jobs.runs.WaitStarted("next") != nullptr);
  }
}

TEST_CASE("parked jobs of a project take no place of another's", "[jobs]") {
  Jobs jobs;
  jobs.options.max_running = 2;
  jobs.options.max_open_in_project = 2;
  jobs.Start();
  for (const char* name : {"a", "b"}) {
    jobs.AddWaiting(name, "first");
    const auto run = jobs.runs.WaitStarted(name);
    REQUIRE(run != nullptr);
    run->Wait(1, true);
  }
  const JobKey third = jobs.AddWaiting("c", "first");
  absl::SleepFor(absl::Milliseconds(30));
  REQUIRE(jobs.Get(third).state == JobState::kQueued);
  // What is younger, of another project, passes it.
  for (const char* name : {"d", "e"}) {
    jobs.AddWaiting(name, "second");
    const auto run = jobs.runs.WaitStarted(name);
    REQUIRE(run != nullptr);
    run->Wait(1, true);
  }
  REQUIRE(jobs.scheduler().running() == 4);
  REQUIRE(jobs.Get(third).state == JobState::kQueued);
  jobs.runs.Started("d")->Wait(0, false);
  jobs.runs.Started("d")->Succeed();
  REQUIRE(jobs.Becomes({"second", "d"}, JobState::kSucceeded));
  // A place of the second's is none of the first's.
  absl::SleepFor(absl::Milliseconds(30));
  REQUIRE(jobs.Get(third).state == JobState::kQueued);
  jobs.runs.Started("a")->Wait(0, false);
  jobs.runs.Started("a")->Succeed();
  REQUIRE(jobs.runs.WaitStarted("c") != nullptr);
}

TEST_CASE("every end of a job that is parked", "[jobs]") {
  Jobs jobs;
  jobs.Start();
  const JobKey key = jobs.Add(
      "a", 2, "default",
      [](v1::Job* job) { job->mutable_execution_timeout()->set_seconds(60); },
      {{1}, ""});
  const auto run = jobs.runs.WaitStarted("a");
  REQUIRE(run->CommitShard(0).ok());
  run->Wait(1, true);
  SECTION("cancelled") {
    REQUIRE(jobs.scheduler().Cancel(key)->cancel_requested);
    REQUIRE(jobs.Becomes(key, JobState::kCancelled));
    REQUIRE(jobs.Files().empty());
  }
  SECTION("its time is over") {
    jobs.Advance(absl::Seconds(61));
    REQUIRE(jobs.Becomes(key, JobState::kFailed));
    REQUIRE(jobs.Reason(key) == "EXECUTION_TIMEOUT");
  }
  SECTION("drained: it goes on where it was") {
    jobs.scheduler().StartDraining();
    REQUIRE(jobs.scheduler().WaitIdle(absl::Seconds(10)));
    REQUIRE(jobs.Get(key).state == JobState::kQueued);
    REQUIRE(jobs.Get(key).attempt == 1);
    jobs.runs.Forget();
    jobs.Start();
    REQUIRE(jobs.runs.WaitStarted("a")->committed() == std::set<int>{0});
  }
}

TEST_CASE("a job is not blamed for processes that end while it is parked",
          "[jobs]") {
  Jobs jobs;
  const JobKey key = jobs.AddWaiting("a");
  for (int i = 0; i < 5; ++i) {
    jobs.Start();
    const auto run = jobs.runs.WaitStarted("a");
    REQUIRE(run != nullptr);
    run->Wait(1, true);
    REQUIRE(jobs.Get(key).crashes == 0);
    jobs.Crash();
  }
  // Once more while it worked: alone, until it is parked.
  jobs.Start();
  REQUIRE(jobs.runs.WaitStarted("a") != nullptr);
  jobs.Crash();
  jobs.Start();
  const auto run = jobs.runs.WaitStarted("a");
  REQUIRE(jobs.Get(key).crashes == 2);
  const JobKey other = jobs.Add("other");
  absl::SleepFor(absl::Milliseconds(30));
  REQUIRE(jobs.Get(other).state == JobState::kQueued);
  run->Wait(1, true);
  REQUIRE(jobs.runs.WaitStarted("other") != nullptr);
}

TEST_CASE("only so many jobs that are done are kept", "[jobs]") {
  Jobs jobs;
  jobs.options.history = 2;
  jobs.Start();
  std::vector<JobKey> keys;
  for (const char* name : {"a", "b", "c"}) {
    keys.push_back(jobs.Add(name));
    const auto run = jobs.runs.WaitStarted(name);
    jobs.Advance(absl::Seconds(1));
    run->Succeed();
    REQUIRE(jobs.scheduler().WaitIdle(absl::Seconds(10)));
  }
  REQUIRE_FALSE(jobs.records().Get(keys[0]).ok());
  REQUIRE(jobs.records().Get(keys[1]).ok());
  REQUIRE(jobs.records().Get(keys[2]).ok());
}

}  // namespace
}  // namespace qs::testing

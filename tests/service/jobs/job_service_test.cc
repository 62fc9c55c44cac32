// JobService over real connections, on the checkpoint of the tests.
#include "service/jobs/job_service.h"

#include <google/protobuf/util/time_util.h>

#include <array>
#include <cstdio>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "quant/formats/safetensors.h"
#include "service/jobs/job_messages.h"
#include "tests/service/jobs/fake_runs.h"
#include "tests/service/jobs/job_client.h"
#include "tests/testing/shell_word.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

std::string OutputOf(const std::string& command) {
  FILE* const pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string out;
  std::array<char, 256> buffer;
  while (fgets(buffer.data(), buffer.size(), pipe) != nullptr) {
    out += buffer.data();
  }
  REQUIRE(pclose(pipe) == 0);
  return out;
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;
constexpr auto kExists = absl::StatusCode::kAlreadyExists;
constexpr auto kDenied = absl::StatusCode::kPermissionDenied;

TEST_CASE_METHOD(JobFixture,
                 "a checkpoint becomes a directory; the watch tells how",
                 "[job_service]") {
  v1::CreateJobRequest request = JobRequest(folders, "a");
  (*request.mutable_job()->mutable_labels())["team"] = "search";
  const auto made = jobs.Create(request);
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  REQUIRE(made->name().rfind("projects/default/jobs/", 0) == 0);
  REQUIRE(made->plan().shards() == 2);
  REQUIRE(made->plan().tensors() > 0);
  REQUIRE(made->plan().bytes_out() > 0);
  REQUIRE(made->plan().largest_group_bytes() > 0);
  REQUIRE(made->plan().largest_device_bytes() > 0);
  REQUIRE(DurationFromProto(made->plan().estimated_time()) >
          absl::ZeroDuration());
  REQUIRE(made->plan().summary().resolved().nf4().block_size() == 64);
  REQUIRE(made->priority() == v1::Job::NORMAL);

  JobWatch watch(jobs, made->name());
  const std::vector<v1::JobEvent> events = watch.ReadAll();
  REQUIRE(watch.Finish().ok());
  REQUIRE(events.front().has_snapshot());
  int64_t revision = 0;
  for (const v1::JobEvent& event : events) {
    REQUIRE(event.revision() >= revision);
    revision = event.revision();
  }
  const v1::Job job = WaitDone(jobs, made->name());
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::SUCCEEDED);
  REQUIRE(job.summary().tensors() == made->plan().tensors());
  REQUIRE(job.summary().error().count() > 0);
  REQUIRE(job.progress().shards_done() == 2);
  REQUIRE(job.progress().bytes_done() == job.plan().bytes());
  REQUIRE(job.labels().at("team") == "search");
  REQUIRE(folders.OutFiles() == std::vector<std::string>{"a"});
  REQUIRE(fs::exists(folders.Out("a/config.json")));
  // The digest is what a person can have, too.
  const std::string sum = OutputOf(
      "cd " + ShellWord(folders.Out("a")) +
      " && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | "
      "sha256sum");
  REQUIRE(job.summary().digest() == "sha256:" + sum.substr(0, 64));
  const auto got = jobs.Get(made->name());
  REQUIRE(got->SerializeAsString() == job.SerializeAsString());
  REQUIRE(jobs.Get("projects/-/jobs/" + made->name().substr(22))->name() ==
          made->name());
}

TEST_CASE_METHOD(JobFixture, "GPTQ with a calibration file; an awq job, too",
                 "[job_service]") {
  for (const char* preset : {"W4A16-gptq", "W4A16-awq"}) {
    const v1::Job job =
        RequireDone(jobs, CalibratedRequest(folders, preset, preset));
    REQUIRE(job.summary().output_error() > 0);
    REQUIRE(job.summary().output_error() < job.summary().rtn_output_error());
    // What the reports tell, together.
    const v1::ReportTotals& totals = job.summary().totals();
    REQUIRE(job.summary().error().cosine_similarity() > 0.98);
    REQUIRE(job.summary().error().cosine_similarity() < 1);
    REQUIRE(totals.phases().factor() > 0);
    REQUIRE(totals.phases().encode() > 0);
    REQUIRE(totals.phases().search() > 0);  // gptq scales first, too
    REQUIRE(totals.worker_seconds() > totals.phases().factor());
    REQUIRE(totals.memory_bytes() > 0);
    REQUIRE(totals.worst_groups_size() == 8);
    REQUIRE_FALSE(totals.worst_groups(7).tensor().empty());
    REQUIRE(totals.histogram().counts_size() > 0);
    REQUIRE(totals.solver().damping() > 0);
    REQUIRE(totals.bits_per_weight() > 4);
    REQUIRE(job.plan().summary().carried_size() > 0);
  }
}

// Linears whose names have 500 bytes.
void WriteLongNames(const fs::path& folder, int count) {
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << R"({"model_type": "other"})";
  const std::vector<uint8_t> weight(2 * 16 * 128);
  std::vector<SafetensorsItem> items;
  for (int i = 0; i < count; ++i) {
    std::string name = absl::StrCat("model.layers.", i, ".mlp.");
    name += std::string(493 - name.size(), 'n') + ".weight";
    items.push_back({std::move(name), DType::kBF16, {16, 128}, weight});
  }
  REQUIRE(WriteSafetensors(folder / "model.safetensors", items, {}).ok());
}

TEST_CASE("a job whose config no message holds is made and answered",
          "[job_service]") {
  JobFolders folders;
  constexpr int kTensors = 9000;
  WriteLongNames(folders.folder / "model", kTensors);
  ServerOptions options = JobServerTestOptions(folders);
  options.read_roots = {folders.folder / "model"};
  InProcessServer server(options);
  JobClient jobs(server.NewChannel());
  v1::CreateJobRequest request = JobRequest(folders, "a", "W4A16");
  v1::JobSource* source = request.mutable_job()->mutable_source();
  source->set_uri("file://" + (folders.folder / "model"));
  source->add_include("model.layers.0.*");

  const v1::Job made = RequireMade(jobs, request);
  REQUIRE(made.plan().summary().quantization_config_json().empty());
  REQUIRE(made.plan().summary().tensors() == kTensors);
  const v1::Job done = WaitDone(jobs, made.name());
  INFO(done.error().ShortDebugString());
  REQUIRE(done.state() == v1::Job::SUCCEEDED);
  REQUIRE(done.plan().summary().SerializeAsString() ==
          made.plan().summary().SerializeAsString());
  REQUIRE(jobs.Get(made.name()).ok());
  const std::string config = ReadTree(folders.Out("a")).at("config.json");
  REQUIRE(config.size() > 4 << 20);
  REQUIRE(config.find("\"model.layers.8999.mlp.nnn") != std::string::npos);
}

TEST_CASE_METHOD(JobFixture, "what cannot start is the call's error",
                 "[job_service]") {
  const auto refused = [&](const std::function<void(v1::Job*)>& change,
                           absl::StatusCode code, const std::string& reason) {
    v1::CreateJobRequest request = JobRequest(folders, "a");
    change(request.mutable_job());
    RequireError(jobs.Create(request).status(), code, reason);
  };
  refused([](v1::Job* job) { job->mutable_source()->set_uri(""); }, kInvalid,
          "BAD_FIELD");
  refused([](v1::Job* job) { job->mutable_source()->set_uri("file:///etc"); },
          kDenied, "URI_NOT_ALLOWED");
  refused(
      [](v1::Job* job) { job->mutable_source()->set_uri(DataUri("nothing")); },
      kNotFound, "SOURCE_NOT_FOUND");
  refused(
      [](v1::Job* job) { job->mutable_source()->set_uri(DataUri("golden")); },
      kNotFound, "SOURCE_NOT_FOUND");
  refused(
      [](v1::Job* job) {
        job->mutable_source()->set_uri(DataUri("README.md"));
      },
      kInvalid, "BAD_CHECKPOINT");
  refused([](v1::Job* job) { job->mutable_quantization()->set_preset("NF5"); },
          kInvalid, "BAD_FIELD");
  refused(
      [](v1::Job* job) {
        job->mutable_quantization()->set_preset("W4A16-gptq");
      },
      kInvalid, "CALIBRATION_MISSING");
  refused(
      [](v1::Job* job) {
        job->mutable_destination()->set_uri(DataUri("tiny-llama-out"));
      },
      kDenied, "URI_NOT_ALLOWED");
  refused(
      [&](v1::Job* job) {
        job->mutable_destination()->set_uri(folders.OutUri("no/such"));
      },
      kNotFound, "DESTINATION_NOT_FOUND");
  refused([](v1::Job* job) { job->set_priority(v1::Job::Priority(9)); },
          kInvalid, "BAD_FIELD");
  refused([](v1::Job* job) { job->mutable_queue_timeout()->set_seconds(0); },
          kInvalid, "BAD_FIELD");
  refused([](v1::Job* job) { (*job->mutable_labels())["Team"] = "x"; },
          kInvalid, "BAD_FIELD");
  fs::create_directory(folders.Out("a"));
  refused([](v1::Job*) {}, kExists, "DESTINATION_EXISTS");
  REQUIRE(jobs.List()->jobs().empty());
}

TEST_CASE("a source of too many tensors is refused", "[job_service]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  options.max_plan_tensors = 20;
  InProcessServer server(options);
  JobClient jobs(server.NewChannel());
  v1::CreateJobRequest request = JobRequest(folders, "a");
  for (const bool validate_only : {true, false}) {
    request.set_validate_only(validate_only);
    const absl::Status status = jobs.Create(request).status();
    RequireError(status, absl::StatusCode::kResourceExhausted,
                 "PLAN_TOO_LARGE");
    REQUIRE(ErrorMetadataValue(status, "allowed") == "20");
  }
  REQUIRE(jobs.List()->jobs().empty());
  REQUIRE(folders.OutFiles().empty());
}

TEST_CASE("what the server's memory can never hold is refused",
          "[job_service]") {
  // A group, by its moments and their factor, and tensors by themselves.
  for (const std::string preset : {"W4A16-gptq", "HQQ-4"}) {
    JobFolders folders;
    ServerOptions options = JobServerTestOptions(folders);
    v1::CreateJobRequest request = CalibratedRequest(folders, "a", preset);
    request.set_validate_only(true);
    const auto create = [&] {
      InProcessServer server(options);
      JobClient jobs(server.NewChannel());
      absl::StatusOr<v1::Job> made = jobs.Create(request);
      const bool stays = made.ok() && !request.validate_only();
      CHECK(jobs.List()->jobs().size() == (stays ? 1 : 0));
      return made;
    };
    const auto planned = create();
    REQUIRE(planned.ok());
    const int64_t need = planned->plan().largest_group_bytes();
    options.memory_budget = need - 1;
    for (const bool validate_only : {true, false}) {
      request.set_validate_only(validate_only);
      const absl::Status status = create().status();
      INFO(preset);
      RequireError(status, absl::StatusCode::kFailedPrecondition,
                   "NO_WORKER_FITS", "--memory-budget");
      CHECK(ErrorMetadataValue(status, "group").rfind("model.layers.", 0) == 0);
      CHECK(ErrorMetadataValue(status, "needed") == std::to_string(need));
      CHECK(ErrorMetadataValue(status, "allowed") == std::to_string(need - 1));
    }
    CHECK(folders.OutFiles().empty());
    options.memory_budget = need;
    CHECK(create().ok());
  }
}

TEST_CASE_METHOD(JobFixture, "validate_only plans and makes nothing",
                 "[job_service]") {
  v1::CreateJobRequest request = JobRequest(folders, "a", "W4A16");
  request.set_validate_only(true);
  const auto job = jobs.Create(request);
  REQUIRE(job.ok());
  REQUIRE(job->name().empty());
  REQUIRE(job->plan().bytes_out() < job->plan().bytes());
  REQUIRE(job->plan().summary().resolved().rtn().bits() == 4);
  REQUIRE(jobs.List()->jobs().empty());
  REQUIRE(folders.OutFiles().empty());
}

TEST_CASE("fifty creates of one request make one job", "[job_service]") {
  JobFolders folders;
  InProcessServer server(JobServerTestOptions(folders));
  v1::CreateJobRequest request = JobRequest(folders, "a");
  request.set_request_id("the same");
  constexpr int kCalls = 50;
  std::vector<std::string> names(kCalls);
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kCalls; ++i) {
      threads.emplace_back([&, i] {
        JobClient jobs(server.NewChannel());
        const auto job = jobs.Create(request);
        names[static_cast<size_t>(i)] =
            job.ok() ? job->name() : job.status().ToString();
      });
    }
  }
  REQUIRE(names[0].rfind("projects/default/jobs/", 0) == 0);
  REQUIRE(std::set<std::string>(names.begin(), names.end()).size() == 1);
  JobClient jobs(server.NewChannel());
  REQUIRE(jobs.List()->jobs_size() == 1);
  WaitDone(jobs, names[0]);
  // Also when it is done and its result is there.
  const auto again = jobs.Create(request);
  INFO(again.status().ToString());
  REQUIRE(again->name() == names[0]);
  REQUIRE(again->state() == v1::Job::SUCCEEDED);
  // Output-only fields are no part of what is asked for.
  request.mutable_job()->set_attempt(7);
  REQUIRE(jobs.Create(request)->name() == names[0]);
  request.mutable_job()->set_priority(v1::Job::URGENT);
  RequireError(jobs.Create(request).status(), kExists, "REQUEST_ID_REUSED");
}

// Keeps all workers of a server busy until Open.
class Blockage {
 public:
  explicit Blockage(InProcessServer& server) {
    WorkerPool& pool = server.context().pool();
    lane_ = pool.NewLane();
    for (int i = 0; i < pool.threads(); ++i) {
      pool.Submit(lane_, [this](Backend&) {
        ++entered_;
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(&open_));
        --entered_;
      });
    }
    REQUIRE(WaitUntil([&] { return entered_ == pool.threads(); }));
  }
  ~Blockage() {
    Open();
    WaitUntil([&] { return entered_ == 0; });
  }
  void Open() {
    absl::MutexLock lock(&mutex_);
    open_ = true;
  }

 private:
  std::shared_ptr<WorkerPool::Lane> lane_;
  std::atomic<int> entered_ = 0;
  absl::Mutex mutex_;
  bool open_ = false;
};

TEST_CASE("limits of queue and destination; cancel and delete",
          "[job_service]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  options.max_running_jobs = 1;
  options.max_queued_jobs = 2;
  InProcessServer server(options);
  JobClient jobs(server.NewChannel());
  Blockage blockage(server);
  const auto running = jobs.Create(JobRequest(folders, "a"));
  REQUIRE(WaitUntil([&] {
    return jobs.Get(running->name())->progress().phase() ==
           v1::JobProgress::QUANTIZING;
  }));
  const auto queued = jobs.Create(JobRequest(folders, "b"));
  REQUIRE(queued.ok());
  RequireError(jobs.Create(JobRequest(folders, "b")).status(), kExists,
               "DESTINATION_IN_USE");
  REQUIRE(jobs.Create(JobRequest(folders, "c")).ok());
  RequireError(jobs.Create(JobRequest(folders, "d")).status(),
               absl::StatusCode::kResourceExhausted, "QUEUE_FULL");
  RequireError(jobs.Delete(running->name()),
               absl::StatusCode::kFailedPrecondition, "BAD_STATE");
  RequireError(jobs.Delete(queued->name()),
               absl::StatusCode::kFailedPrecondition, "BAD_STATE");
  REQUIRE(jobs.Cancel(queued->name())->state() == v1::Job::CANCELLED);
  REQUIRE(jobs.Delete(queued->name()).ok());
  RequireError(jobs.Get(queued->name()).status(), kNotFound, "JOB_NOT_FOUND");
  RequireError(jobs.Cancel(queued->name()).status(), kNotFound,
               "JOB_NOT_FOUND");
  REQUIRE(jobs.List("state=QUEUED")->jobs_size() == 1);
  const auto cancelled = jobs.Cancel(running->name());
  REQUIRE(cancelled->cancelling());
  blockage.Open();
  REQUIRE(WaitDone(jobs, running->name()).state() == v1::Job::CANCELLED);
}

TEST_CASE("a project runs as many jobs at once as its option says",
          "[job_service]") {
  for (const int64_t in_project : {0, 1}) {
    INFO(in_project);
    JobFolders folders;
    ServerOptions options = JobServerTestOptions(folders);
    options.max_running_jobs = 2;
    options.max_running_jobs_per_project = in_project;
    InProcessServer server(options);
    JobClient jobs(server.NewChannel());
    Blockage blockage(server);
    std::vector<std::string> names;
    for (const char* name : {"a", "b", "c"}) {
      names.push_back(jobs.Create(JobRequest(folders, name))->name());
    }
    const auto quantizing = [&] {
      int count = 0;
      for (const std::string& name : names) {
        const auto phase = jobs.Get(name)->progress().phase();
        if (phase == v1::JobProgress::QUANTIZING) ++count;
      }
      return count;
    };
    const int most = in_project == 0 ? 2 : 1;
    REQUIRE(WaitUntil([&] { return quantizing() == most; }));
    // They stay there; the scheduler has time to start one too many.
    absl::SleepFor(absl::Milliseconds(200));
    REQUIRE(jobs.List("state=RUNNING")->jobs_size() == most);
    REQUIRE(jobs.List("state=QUEUED")->jobs_size() == 3 - most);
    blockage.Open();
    for (const std::string& name : names) {
      REQUIRE(WaitDone(jobs, name).state() == v1::Job::SUCCEEDED);
    }
  }
}

TEST_CASE_METHOD(JobFixture, "names and roles", "[job_service]") {
  RequireError(jobs.Get("jobs/1").status(), kInvalid, "BAD_FIELD");
  RequireError(jobs.Get("projects/other/jobs/1").status(), kDenied,
               "PROJECT_NOT_ALLOWED");
  RequireError(jobs.Get("projects/-/jobs/1").status(), kNotFound,
               "JOB_NOT_FOUND");
  JobWatch watch(jobs, "projects/-/jobs/1");
  REQUIRE(watch.ReadAll().empty());
  RequireError(watch.Finish(), kNotFound, "JOB_NOT_FOUND");
  JobWatch other(jobs, "projects/other/jobs/1");
  REQUIRE(other.ReadAll().empty());
  RequireError(other.Finish(), kDenied, "PROJECT_NOT_ALLOWED");
}

TEST_CASE("lists: filters and pages", "[job_service]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  options.max_running_jobs = 1;
  InProcessServer server(options);
  JobClient jobs(server.NewChannel());
  Blockage blockage(server);
  for (int i = 0; i < 5; ++i) {
    v1::CreateJobRequest request = JobRequest(folders, absl::StrCat(i));
    (*request.mutable_job()->mutable_labels())["n"] = absl::StrCat(i % 2);
    REQUIRE(jobs.Create(request).ok());
  }
  const auto first = jobs.List("", 3);
  REQUIRE(first->jobs_size() == 3);
  REQUIRE(first->jobs(0).destination().uri() == folders.OutUri("4"));
  REQUIRE_FALSE(first->jobs(0).has_plan());
  // One that comes and one that goes between the pages shift nothing.
  REQUIRE(jobs.Create(JobRequest(folders, "5")).ok());
  REQUIRE(jobs.Cancel(first->jobs(0).name()).ok());
  REQUIRE(jobs.Delete(first->jobs(0).name()).ok());
  const auto second = jobs.List("", 3, first->next_page_token());
  REQUIRE(second->jobs_size() == 2);
  REQUIRE(second->jobs(0).destination().uri() == folders.OutUri("1"));
  REQUIRE(second->jobs(1).destination().uri() == folders.OutUri("0"));
  REQUIRE(second->next_page_token().empty());
  REQUIRE(jobs.List("labels.n=0")->jobs_size() == 2);
  REQUIRE(jobs.List("labels.n=1")->jobs_size() == 2);
  REQUIRE(jobs.List("labels.n=0 state=QUEUED labels.n=1")->jobs().empty());
  // Jobs 5, 3, 2, 1 and 0 are left; times as answers have them.
  const std::string middle =
      google::protobuf::util::TimeUtil::ToString(first->jobs(2).create_time());
  REQUIRE(jobs.List("create_time>" + middle)->jobs_size() == 2);
  REQUIRE(jobs.List("create_time<" + middle)->jobs_size() == 2);
  REQUIRE(jobs.List("labels.n=0 create_time<" + middle)->jobs_size() == 1);
  for (const char* filter :
       {"state=DONE", "state=", "n=1", "state", "name=x", "create_time>x"}) {
    RequireError(jobs.List(filter).status(), kInvalid, "BAD_FIELD");
  }
  RequireError(jobs.List("", 1001).status(), kInvalid, "BAD_FIELD");
  RequireError(jobs.List("", -1).status(), kInvalid, "BAD_FIELD");
  RequireError(jobs.List("state=QUEUED", 3, first->next_page_token()).status(),
               kInvalid, "BAD_FIELD");
  RequireError(jobs.List("", 3, "x").status(), kInvalid, "BAD_FIELD");
}

TEST_CASE_METHOD(JobFixture, "a watch resumes, and ends after the end",
                 "[job_service]") {
  const std::string name = jobs.Create(JobRequest(folders, "a"))->name();
  const v1::Job done = WaitDone(jobs, name);
  const auto events = [&](int64_t from) {
    JobWatch watch(jobs, name, from);
    auto all = watch.ReadAll();
    REQUIRE(watch.Finish().ok());
    return all;
  };
  const auto all = events(1);
  REQUIRE(all.size() == 2);
  REQUIRE(all[0].change().state() == v1::Job::RUNNING);
  REQUIRE(all[0].revision() == 2);
  REQUIRE(all[1].change().job().SerializeAsString() ==
          done.SerializeAsString());
  REQUIRE(events(2).size() == 1);
  REQUIRE(events(3).empty());
  REQUIRE(events(0).size() == 1);
  REQUIRE(events(0)[0].has_snapshot());
  for (const int64_t from : {int64_t{4}, int64_t{-1}}) {
    JobWatch watch(jobs, name, from);
    REQUIRE(watch.ReadAll().empty());
    RequireError(watch.Finish(), kInvalid, "BAD_FIELD");
  }
}

TEST_CASE_METHOD(JobFixture,
                 "cancelled in every phase: nothing is left, within a second",
                 "[job_service]") {
  int cancelled = 0;
  for (int wait = 0; wait < 24; ++wait) {
    const std::string out = absl::StrCat("out", wait);
    v1::CreateJobRequest request = JobRequest(folders, out, "W4A16-hqq");
    const auto made = jobs.Create(request);
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    absl::SleepFor(absl::Milliseconds(wait * 5));
    const absl::Time asked = absl::Now();
    REQUIRE(jobs.Cancel(made->name()).ok());
    const v1::Job job = WaitDone(jobs, made->name());
    REQUIRE(absl::Now() - asked < absl::Seconds(1));
    const bool done = job.state() == v1::Job::SUCCEEDED;
    REQUIRE((done || job.state() == v1::Job::CANCELLED));
    REQUIRE(fs::exists(folders.Out(out)) == done);
    REQUIRE_FALSE(
        fs::exists(folders.Out("." + out + "." + made->name().substr(22))));
    cancelled += done ? 0 : 1;
  }
  REQUIRE(cancelled > 0);
  REQUIRE(server.context().budget().reserved() == 0);
  // The thread of the last task leaves the pool behind the news of its end.
  REQUIRE(WaitUntil([&] { return server.context().pool().running() == 0; },
                    absl::Seconds(1)));
}

TEST_CASE("a drain ends watches and gives jobs back", "[job_service]") {
  JobFolders folders;
  std::string running;
  std::string queued;
  {
    ServerOptions options = JobServerTestOptions(folders);
    options.max_running_jobs = 1;
    InProcessServer server(options);
    JobClient jobs(server.NewChannel());
    auto blockage = std::make_unique<Blockage>(server);
    running = jobs.Create(JobRequest(folders, "a"))->name();
    REQUIRE(WaitUntil([&] {
      return jobs.Get(running)->progress().phase() ==
             v1::JobProgress::QUANTIZING;
    }));
    queued = jobs.Create(JobRequest(folders, "b"))->name();
    std::vector<std::unique_ptr<JobWatch>> watches;
    for (int i = 0; i < 50; ++i) {
      watches.push_back(
          std::make_unique<JobWatch>(jobs, i % 2 == 0 ? running : queued));
      v1::JobEvent event;
      REQUIRE(watches.back()->Read(&event));
    }
    std::jthread opener([&] {
      absl::SleepFor(absl::Milliseconds(100));
      blockage->Open();
    });
    server.server().Drain();
    for (const auto& watch : watches) {
      watch->ReadAll();
      RequireError(watch->Finish(), absl::StatusCode::kUnavailable, "DRAINING");
    }
  }
  InProcessServer server(JobServerTestOptions(folders));
  JobClient jobs(server.NewChannel());
  for (const std::string& name : {running, queued}) {
    const v1::Job job = WaitDone(jobs, name);
    INFO(job.ShortDebugString());
    REQUIRE(job.state() == v1::Job::SUCCEEDED);
    REQUIRE(job.attempt() == 1);
  }
}

TEST_CASE("a server without a data directory has no jobs", "[job_service]") {
  JobFolders folders;
  InProcessServer server;
  JobClient jobs(server.NewChannel());
  REQUIRE(jobs.Create(JobRequest(folders, "a")).status().code() ==
          absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace qs::testing

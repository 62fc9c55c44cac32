// jobs_bench [--jobs N] [--watchers N] [--source DIR]: a server with a long
// queue, and many watchers of one job, over loopback connections of the same
// process. One JSON line a row:
//   {"name":"restart","jobs","seconds"}            until the server answers
//   {"name":"page","size","filter","ms" (median)}  one ListJobs
//   {"name":"watch","watchers","ms" (median), "most_ms"}  from CancelJob until
//                                                  the last watcher knows
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "service/access/file_uri.h"
#include "service/server/log.h"
#include "service/server/server.h"

namespace qs {
namespace {

namespace fs = std::filesystem;
namespace v1 = quant::v1;
using Clock = std::chrono::steady_clock;

constexpr int kWatchersAConnection = 50;

void Require(bool ok, const std::string& what) {
  if (ok) return;
  std::fprintf(stderr, "jobs_bench: %s\n", what.c_str());
  std::exit(1);
}

double Milliseconds(Clock::time_point since) {
  return std::chrono::duration<double, std::milli>(Clock::now() - since)
      .count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Setting {
  int jobs = 10'000;
  int watchers = 1000;
  std::string source;
  std::string folder;
};

ServerOptions OptionsOf(const Setting& setting) {
  ServerOptions options;
  options.listen = "127.0.0.1:0";
  options.data_dir = setting.folder + "/data";
  options.read_roots = {fs::path(setting.source).parent_path().string()};
  options.write_roots = {setting.folder + "/out"};
  options.max_running_jobs = 1;
  options.max_queued_jobs = 1'000'000;
  options.drain_timeout = 5;
  return options;
}

// A server whose workers are busy, so that its queue stays as it is.
class Held {
 public:
  explicit Held(const Setting& setting) {
    auto started = Server::Start(OptionsOf(setting));
    Require(started.ok(), started.status().ToString());
    server_ = *std::move(started);
    WorkerPool& pool = server_->context().pool();
    const auto lane = pool.NewLane();
    for (int i = 0; i < pool.threads(); ++i) {
      pool.Submit(lane, [this](Backend&) { release_.WaitForNotification(); });
    }
  }
  ~Held() { release_.Notify(); }

  std::shared_ptr<grpc::Channel> NewChannel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(
        absl::StrCat("127.0.0.1:", server_->port()),
        grpc::InsecureChannelCredentials(), arguments);
  }

 private:
  absl::Notification release_;
  std::unique_ptr<Server> server_;
};

std::string Create(v1::JobService::Stub& stub, const Setting& setting, int i) {
  v1::CreateJobRequest request;
  v1::Job* job = request.mutable_job();
  job->mutable_source()->set_uri(FileUriOf(setting.source));
  job->mutable_quantization()->set_preset("NF4");
  job->mutable_destination()->set_uri(
      absl::StrCat("file://", setting.folder, "/out/", i));
  (*job->mutable_labels())["team"] = absl::StrCat("t", i % 10);
  grpc::ClientContext context;
  v1::Job made;
  const grpc::Status status = stub.CreateJob(&context, request, &made);
  Require(status.ok(), status.error_message());
  return made.name();
}

void TimePages(v1::JobService::Stub& stub) {
  for (const int size : {50, 1000}) {
    for (const char* filter : {"", "state=QUEUED", "labels.team=t3"}) {
      std::vector<double> times;
      for (int i = 0; i < 15; ++i) {
        v1::ListJobsRequest request;
        request.set_page_size(size);
        request.set_filter(filter);
        grpc::ClientContext context;
        v1::ListJobsResponse page;
        const auto began = Clock::now();
        Require(stub.ListJobs(&context, request, &page).ok(), "ListJobs");
        times.push_back(Milliseconds(began));
        Require(page.jobs_size() > 0, "an empty page");
      }
      std::printf(
          "{\"name\":\"page\",\"size\":%d,\"filter\":\"%s\","
          "\"ms\":%.2f}\n",
          size, filter, Median(times));
    }
  }
}

class Watcher final : public grpc::ClientReadReactor<v1::JobEvent> {
 public:
  Watcher(v1::JobService::Stub& stub, const std::string& name,
          absl::BlockingCounter& joined, absl::BlockingCounter& told)
      : joined_(joined), told_(told) {
    request_.set_name(name);
    stub.async()->WatchJob(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (event_.has_snapshot()) joined_.DecrementCount();
    if (event_.change().state() == v1::Job::CANCELLED) told_.DecrementCount();
    StartRead(&event_);
  }
  void OnDone(const grpc::Status&) override { done_.Notify(); }
  void Wait() { done_.WaitForNotification(); }

 private:
  grpc::ClientContext context_;
  v1::WatchJobRequest request_;
  v1::JobEvent event_;
  absl::BlockingCounter& joined_;
  absl::BlockingCounter& told_;
  absl::Notification done_;
};

void TimeWatches(const Held& server, const Setting& setting,
                 v1::JobService::Stub& stub) {
  std::vector<std::unique_ptr<v1::JobService::Stub>> stubs;
  for (int i = 0; i < setting.watchers; i += kWatchersAConnection) {
    stubs.push_back(v1::JobService::NewStub(server.NewChannel()));
  }
  std::vector<double> times;
  for (int round = 0; round < 5; ++round) {
    const std::string name = Create(stub, setting, setting.jobs + round);
    absl::BlockingCounter joined(setting.watchers);
    absl::BlockingCounter told(setting.watchers);
    std::vector<std::unique_ptr<Watcher>> watchers;
    for (int i = 0; i < setting.watchers; ++i) {
      watchers.push_back(std::make_unique<Watcher>(
          *stubs[static_cast<size_t>(i / kWatchersAConnection)], name, joined,
          told));
    }
    joined.Wait();
    v1::CancelJobRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    v1::Job job;
    const auto began = Clock::now();
    Require(stub.CancelJob(&context, request, &job).ok(), "CancelJob");
    told.Wait();
    times.push_back(Milliseconds(began));
    for (const auto& watcher : watchers) watcher->Wait();
  }
  std::printf(
      "{\"name\":\"watch\",\"watchers\":%d,\"ms\":%.1f,"
      "\"most_ms\":%.1f}\n",
      setting.watchers, Median(times),
      *std::max_element(times.begin(), times.end()));
}

void Run(const Setting& setting) {
  {
    const Held server(setting);
    const auto stub = v1::JobService::NewStub(server.NewChannel());
    for (int i = 0; i < setting.jobs; ++i) Create(*stub, setting, i);
    TimePages(*stub);
    TimeWatches(server, setting, *stub);
  }
  const auto began = Clock::now();
  const Held server(setting);
  const auto stub = v1::JobService::NewStub(server.NewChannel());
  v1::ListJobsRequest request;
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  v1::ListJobsResponse page;
  Require(stub->ListJobs(&context, request, &page).ok(), "ListJobs");
  std::printf("{\"name\":\"restart\",\"jobs\":%d,\"seconds\":%.3f}\n",
              setting.jobs, Milliseconds(began) / 1000);
}

}  // namespace
}  // namespace qs

int main(int argc, char** argv) {
  qs::Setting setting;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--jobs") == 0) setting.jobs = atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--watchers") == 0) {
      setting.watchers = atoi(argv[i + 1]);
    }
    if (std::strcmp(argv[i], "--source") == 0) setting.source = argv[i + 1];
  }
  qs::Require(!setting.source.empty(), "--source: got none, allowed a path");
  std::string folder =
      (qs::fs::temp_directory_path() / "jobs_bench.XXXXXX").string();
  qs::Require(mkdtemp(folder.data()) != nullptr, "no temporary folder");
  setting.folder = folder;
  qs::fs::create_directory(folder + "/out");
  qs::Require(qs::SetLogLevel("off").ok(), "log level");
  qs::Server::PrepareProcess(false);
  qs::Run(setting);
  qs::fs::remove_all(folder);
}

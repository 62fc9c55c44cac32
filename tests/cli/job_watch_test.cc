// quantctl's watch of a job on a real server: what it says of a job that waits
// for sites, as lines and with a bar, and how it ends.
#include "service/cli/job_watch.h"

#include <sstream>
#include <string>
#include <thread>

#include "service/cli/exit_code.h"
#include "tests/service/jobs/calibration_client.h"

namespace qs::testing {
namespace {

// A watch on its own thread, with a stub of its own.
class Watcher {
 public:
  Watcher(const std::shared_ptr<grpc::Channel>& channel, const std::string& job,
          int columns)
      : stub_(v1::JobService::NewStub(channel)), thread_([this, job, columns] {
          const cli::Console console{out_, error_, columns};
          done_ = cli::WatchToEnd(*stub_, job, "server", console, control_);
        }) {}

  // Returns the job when the watch has ended.
  absl::StatusOr<v1::Job> Join() {
    thread_.join();
    return done_;
  }
  cli::RunControl& control() { return control_; }
  std::string text() const { return error_.str(); }  // once it has ended

 private:
  std::unique_ptr<v1::JobService::Stub> stub_;
  cli::RunControl control_;
  std::ostringstream out_;
  std::ostringstream error_;
  absl::StatusOr<v1::Job> done_ = absl::InternalError("it watches");
  std::jthread thread_;
};

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != text.npos;
       at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

TEST_CASE_METHOD(CalibrationFixture, "a watch tells when a job waits",
                 "[job_watch]") {
  calibration.Upload("0");
  const std::string name =
      RequireMade(jobs, NamedRequest(folders, "out")).name();
  Watcher lines(server.NewChannel(), name, 0);
  Watcher bar(server.NewChannel(), name, 70);
  REQUIRE(WaitsForSites(jobs, name));
  // Long enough for a tick of progress.
  absl::SleepFor(absl::Milliseconds(600));
  calibration.Seal(SiteNames("123"));
  for (Watcher* const watcher : {&lines, &bar}) {
    const absl::StatusOr<v1::Job> done = watcher->Join();
    INFO(done.status().ToString());
    REQUIRE(done.ok());
    INFO(watcher->text());
    CHECK(done->state() == v1::Job::SUCCEEDED);
    CHECK(cli::CheckSucceeded(*done).ok());
    const std::string waits = absl::StrCat(
        "  waiting for sites that ", TensorCount("123"), " tensors read\n");
    CHECK(Count(watcher->text(), waits) == 1);
    CHECK(watcher->text().ends_with("SUCCEEDED\n"));
  }
  CHECK(Count(lines.text(), "\r") == 0);
  CHECK(Count(bar.text(), "\r") > 0);
}

TEST_CASE_METHOD(CalibrationFixture, "a watch that ends before its job",
                 "[job_watch]") {
  calibration.Upload();
  const std::string name =
      RequireMade(jobs, NamedRequest(folders, "out")).name();
  Watcher stopped(server.NewChannel(), name, 0);
  stopped.control().Fail(absl::CancelledError("interrupted"));
  CHECK(stopped.Join().status() == absl::CancelledError("interrupted"));
  Watcher watcher(server.NewChannel(), name, 0);
  REQUIRE(jobs.Cancel(name).ok());
  const absl::StatusOr<v1::Job> done = watcher.Join();
  REQUIRE(done.ok());
  CHECK(done->state() == v1::Job::CANCELLED);
  const absl::Status ended = cli::CheckSucceeded(*done);
  CHECK(cli::ExitCodeOf(ended) == cli::ExitCode::kJobEnded);
  Watcher lost(server.NewChannel(), name + "0", 0);
  CHECK(absl::IsNotFound(lost.Join().status()));
}

}  // namespace
}  // namespace qs::testing

// The state machine: every change from every state; and what a job's messages
// say.
#include "service/jobs/job.h"

#include <cmath>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "quant/v1/jobs.pb.h"
#include "service/jobs/job_messages.h"
#include "service/jobs/job_summary.h"
#include "service/server/error.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

namespace v1 = quant::v1;

const absl::Time kNow = absl::FromUnixSeconds(500);

struct NamedChange {
  std::string name;
  std::function<absl::Status(JobRecord&)> change;
};

const std::vector<NamedChange>& Changes() {
  static const auto* const changes = new std::vector<NamedChange>{
      {"start", [](JobRecord& j) { return StartJob(j, kNow); }},
      {"publish", [](JobRecord& j) { return PublishJob(j, "s"); }},
      {"succeed", [](JobRecord& j) { return SucceedJob(j, kNow); }},
      {"fail",
       [](JobRecord& j) {
         return FailJob(j, kNow,
                        RpcError(absl::StatusCode::kAborted, "WHY", "text"));
       }},
      {"cancel", [](JobRecord& j) { return CancelJob(j, kNow); }},
      {"stopped", [](JobRecord& j) { return StoppedJob(j, kNow); }},
      {"release", [](JobRecord& j) { return ReleaseJob(j, kNow); }},
      {"crash", [](JobRecord& j) { return CrashJob(j, kNow); }}};
  return *changes;
}

JobRecord InState(JobState state) {
  JobRecord job;
  job.key = {"default", "a"};
  job.state = state;
  if (state != JobState::kQueued) job.started = absl::FromUnixSeconds(100);
  if (IsTerminal(state)) job.ended = absl::FromUnixSeconds(200);
  if (state == JobState::kFailed) job.error = "e";
  if (state == JobState::kSucceeded) job.summary = "s";
  return job;
}

// What the change made of it; "-": it was refused.
std::string After(JobRecord job, const NamedChange& change) {
  const JobRecord before = job;
  const absl::Status status = change.change(job);
  if (!status.ok()) {
    REQUIRE(ErrorReason(status) == "BAD_STATE");
    REQUIRE(job.state == before.state);
    REQUIRE(job.attempt == before.attempt);
    return "-";
  }
  std::string text =
      v1::Job::State_Name(static_cast<v1::Job::State>(job.state));
  if (job.cancel_requested) text += " cancelling";
  if (job.publishing) text += " publishing";
  return text;
}

using Outcomes = std::vector<std::string>;

Outcomes AllAfter(const JobRecord& job) {
  Outcomes out;
  for (const NamedChange& change : Changes()) out.push_back(After(job, change));
  return out;
}

TEST_CASE("a job waits until it ends, also when it runs and goes back",
          "[job]") {
  const absl::Time now = absl::UnixEpoch();
  JobRecord job;
  job.waiting = {{1}, "text", {{1}}};
  CHECK(ErrorReason(StartJob(job, now)) == "BAD_STATE");
  CHECK(job.state == JobState::kQueued);
  // A part of it can begin.
  const JobWait some = {{1}, "text"};
  job.waiting = some;
  REQUIRE(StartJob(job, now).ok());
  CHECK(job.waiting == some);
  REQUIRE(ReleaseJob(job, now).ok());
  CHECK(job.waiting == some);
  REQUIRE(StartJob(job, now).ok());
  REQUIRE(CrashJob(job, now).ok());
  CHECK(job.waiting == some);
  REQUIRE(CancelJob(job, now).ok());
  CHECK(job.state == JobState::kCancelled);
  CHECK(job.waiting == JobWait{});
}

TEST_CASE("every change from every state", "[job]") {
  // start, publish, succeed, fail, cancel, stopped, release, crash
  REQUIRE(AllAfter(InState(JobState::kQueued)) ==
          Outcomes{"RUNNING", "-", "-", "FAILED", "CANCELLED", "-", "-", "-"});
  REQUIRE(AllAfter(InState(JobState::kRunning)) ==
          Outcomes{"-", "RUNNING publishing", "-", "FAILED",
                   "RUNNING cancelling", "-", "QUEUED", "QUEUED"});
  JobRecord cancelling = InState(JobState::kRunning);
  cancelling.cancel_requested = true;
  REQUIRE(AllAfter(cancelling) == Outcomes{"-", "-", "-", "FAILED",
                                           "RUNNING cancelling", "CANCELLED",
                                           "CANCELLED", "CANCELLED"});
  JobRecord publishing = InState(JobState::kRunning);
  publishing.publishing = true;
  REQUIRE(AllAfter(publishing) ==
          Outcomes{"-", "RUNNING publishing", "SUCCEEDED", "FAILED",
                   "RUNNING publishing", "-", "QUEUED", "QUEUED"});
  for (const JobState state :
       {JobState::kSucceeded, JobState::kFailed, JobState::kCancelled}) {
    const std::string same =
        v1::Job::State_Name(static_cast<v1::Job::State>(state));
    REQUIRE(AllAfter(InState(state)) ==
            Outcomes{"-", "-", "-", "-", same, "-", "-", "-"});
  }
}

TEST_CASE("crashes are counted, a drain is not", "[job]") {
  JobRecord job = InState(JobState::kRunning);
  REQUIRE(ReleaseJob(job, kNow).ok());
  REQUIRE(job.attempt == 1);
  REQUIRE(job.crashes == 0);
  for (int i = 1; i < kMaxCrashes; ++i) {
    REQUIRE(StartJob(job, kNow).ok());
    REQUIRE(CrashJob(job, kNow).ok());
    REQUIRE(job.state == JobState::kQueued);
    REQUIRE(job.attempt == i + 1);
    REQUIRE(job.crashes == i);
  }
  REQUIRE(StartJob(job, kNow).ok());
  REQUIRE(CrashJob(job, kNow).ok());
  REQUIRE(job.state == JobState::kFailed);
  REQUIRE(job.ended == kNow);
  const v1::Job message = JobToProto(job);
  google::rpc::ErrorInfo info;
  REQUIRE(message.error().code() == 13);
  REQUIRE(message.error().details(0).UnpackTo(&info));
  REQUIRE(info.reason() == "WORKER_CRASHED");
  REQUIRE(info.metadata().at("crashes") == "3");
}

TEST_CASE("the time in the queue is counted from each time it is queued",
          "[job]") {
  v1::Job spec;
  spec.mutable_queue_timeout()->set_seconds(10);
  JobRecord job = InState(JobState::kRunning);
  job.spec = spec.SerializeAsString();
  REQUIRE(ReleaseJob(job, kNow).ok());
  REQUIRE(job.queue_deadline == kNow + absl::Seconds(10));
  REQUIRE(StartJob(job, kNow).ok());
  REQUIRE(job.queue_deadline == absl::InfiniteFuture());
  job.spec = v1::Job().SerializeAsString();
  REQUIRE(ReleaseJob(job, kNow).ok());
  REQUIRE(job.queue_deadline == absl::InfiniteFuture());
}

TEST_CASE("an event of the end holds the job, others do not", "[job]") {
  const JobRecord job = InState(JobState::kCancelled);
  const JobEventRecord end = {7, kNow, JobState::kCancelled, 2, false};
  const v1::JobEvent event = EventToProto(end, &job);
  REQUIRE(event.revision() == 7);
  REQUIRE(event.change().time().seconds() == 500);
  REQUIRE(event.change().job().name() == "projects/default/jobs/a");
  REQUIRE(event.change().job().has_end_time());
  const JobEventRecord run = {6, kNow, JobState::kRunning, 2, true};
  REQUIRE_FALSE(EventToProto(run, &job).change().has_job());
  REQUIRE(EventToProto(run, &job).change().cancelling());
}

TEST_CASE("errors of records have reasons", "[job]") {
  REQUIRE(ErrorReason(FromRecords(absl::NotFoundError("x"))) ==
          "JOB_NOT_FOUND");
  REQUIRE(ErrorReason(FromRecords(absl::ResourceExhaustedError("x"))) ==
          "DISK_FULL");
  REQUIRE(ErrorReason(FromRecords(absl::InternalError("x"))) == "STORE_FAILED");
  REQUIRE(FromRecords(absl::OkStatus()).ok());
  const absl::Status own = RpcError(absl::StatusCode::kNotFound, "OWN", "x");
  REQUIRE(ErrorReason(FromRecords(own)) == "OWN");
}

v1::TensorReport Report(int64_t count, double mse, double relative) {
  v1::TensorReport report;
  report.set_bytes_in(2 * count);
  report.set_bytes_out(count / 2);
  report.mutable_error()->set_count(count);
  report.mutable_error()->set_mean_squared_error(mse);
  report.mutable_error()->set_max_absolute_error(mse * 3);
  report.mutable_error()->set_relative_frobenius_error(relative);
  report.mutable_rtn()->set_count(count);
  report.mutable_rtn()->set_mean_squared_error(2 * mse);
  return report;
}

TEST_CASE("a summary weighs tensors by their weights", "[job]") {
  ReportSums sums;
  REQUIRE_FALSE(SummaryOf(sums).has_error());
  sums.Add(Report(100, 1, 0.5));  // energy 400
  v1::TensorReport second = Report(300, 2, 0.5);
  second.set_output_error(0.2);
  second.set_rtn_output_error(0.4);
  second.add_warnings("NO_CHANGE");
  sums.Add(second);
  v1::TensorReport folded;  // no statistics
  folded.set_bytes_in(8);
  sums.Add(folded);
  const v1::JobSummary summary = SummaryOf(sums);
  REQUIRE(summary.tensors() == 3);
  REQUIRE(summary.bytes_in() == 808);
  REQUIRE(summary.bytes_out() == 200);
  REQUIRE(summary.error().count() == 400);
  REQUIRE(summary.error().mean_squared_error() == 1.75);
  REQUIRE(summary.error().max_absolute_error() == 6);
  REQUIRE(summary.error().relative_frobenius_error() == 0.5);
  REQUIRE(summary.rtn().mean_squared_error() == 3.5);
  REQUIRE(summary.output_error() == 0.2);
  REQUIRE(summary.rtn_output_error() == 0.4);
  REQUIRE(summary.warnings() == 1);
  REQUIRE(summary.totals().warnings() == 1);
  REQUIRE(summary.totals().mse_ratio_to_rtn() == 0.5);
}

// What a server wrote before reports had sums, phases and totals.
TEST_CASE("reports and summaries of an older server are read", "[job]") {
  ReportSums sums;
  v1::TensorReport old = Report(100, 1, 0.5);
  old.mutable_error()->set_cosine_similarity(0.9);
  sums.Add(old);
  v1::JobSummary summary = SummaryOf(sums);
  CHECK(summary.error().sqnr_db() == Approx(20 * std::log10(2.0)));
  CHECK(summary.error().cosine_similarity() == 0);
  CHECK_FALSE(summary.error().has_dot_product());
  CHECK_FALSE(summary.totals().has_phases());

  summary.clear_totals();
  JobRecord job = InState(JobState::kSucceeded);
  job.summary = summary.SerializeAsString();
  const v1::Job read = JobToProto(job);
  CHECK(read.summary().tensors() == 1);
  CHECK_FALSE(read.summary().has_totals());
}

}  // namespace
}  // namespace qs::testing

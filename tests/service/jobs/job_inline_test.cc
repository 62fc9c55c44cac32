// Jobs that bring their calibration in the message, over real connections.
#include "tests/service/jobs/inline_request.h"

namespace qs::testing {
namespace {

void RequireWithoutNumbers(const v1::Job& job) {
  const v1::InlineCalibration& calibration = job.calibration().inline_();
  REQUIRE(calibration.sites_size() == 1);
  REQUIRE(calibration.sites(0).inputs() == 256);
  REQUIRE(calibration.sites(0).modules_size() == 1);
  REQUIRE(calibration.sites(0).token_count() > 0);
  REQUIRE(calibration.sites(0).abs_sum_size() == 0);
  REQUIRE(calibration.sites(0).second_moment_size() == 0);
}

TEST_CASE_METHOD(JobFixture, "an inline calibration does what its file does",
                 "[job_inline]") {
  v1::CreateJobRequest request = OneLayer(folders, "file");
  request.mutable_job()->mutable_calibration()->set_uri(DataUri(kCalibration));
  const v1::Job filed = RequireDone(jobs, request);
  request = InlineRequest(folders, "inline");
  request.set_validate_only(true);
  RequireWithoutNumbers(RequireMade(jobs, request));
  request.set_validate_only(false);
  request.set_request_id("r");
  const v1::Job made = RequireMade(jobs, request);
  RequireWithoutNumbers(made);
  const v1::Job job = WaitDone(jobs, made.name());
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::SUCCEEDED);
  RequireWithoutNumbers(job);
  RequireWithoutNumbers(jobs.List()->jobs(0));
  REQUIRE(job.summary().digest() == filed.summary().digest());
  REQUIRE(job.summary().output_error() > 0);
  // The numbers are a part of what the request_id stands for.
  REQUIRE(RequireMade(jobs, request).name() == job.name());
  v1::InlineSite* const site = request.mutable_job()
                                   ->mutable_calibration()
                                   ->mutable_inline_()
                                   ->mutable_sites(0);
  site->set_abs_sum(0, site->abs_sum(0) + 1);
  RequireError(jobs.Create(request).status(), absl::StatusCode::kAlreadyExists,
               "REQUEST_ID_REUSED");
}

TEST_CASE("an accepted job has its calibration in the next process",
          "[job_inline]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  options.max_running_jobs = 1;
  std::string name;
  std::string digest;
  {
    InProcessServer server(options);
    JobClient jobs(server.NewChannel());
    digest = RequireDone(jobs, InlineRequest(folders, "a")).summary().digest();
    RequireMade(jobs, CalibratedRequest(folders, "before"));
    name = RequireMade(jobs, InlineRequest(folders, "b")).name();
  }
  InProcessServer server(options);
  JobClient jobs(server.NewChannel());
  const v1::Job job = WaitDone(jobs, name);
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::SUCCEEDED);
  REQUIRE(job.summary().digest() == digest);
}

TEST_CASE_METHOD(JobFixture, "an inline calibration that is none",
                 "[job_inline]") {
  const auto refused = [&](const v1::CreateJobRequest& request,
                           const std::string& reason, const std::string& text) {
    RequireError(jobs.Create(request).status(),
                 absl::StatusCode::kInvalidArgument, reason, text);
  };
  v1::CreateJobRequest request = InlineRequest(folders, "a");
  v1::JobCalibration* const calibration =
      request.mutable_job()->mutable_calibration();
  calibration->set_delete_after_use(true);
  refused(request, "BAD_FIELD", "job.calibration.delete_after_use");
  calibration->set_delete_after_use(false);
  v1::InlineSite* const site = calibration->mutable_inline_()->mutable_sites(0);
  const float first = site->second_moment(0);
  site->set_second_moment(0, -1);
  refused(request, "BAD_CALIBRATION", "inline calibration");
  site->set_second_moment(0, first);
  // Of another input.
  site->set_modules(0, "model.layers.1.mlp.down_proj");
  refused(request, "BAD_CALIBRATION", "got no moments for the input of");
  site->mutable_second_moment()->RemoveLast();
  refused(request, "BAD_FIELD",
          "job.calibration.inline.sites[0].second_moment");
}

// gRPC itself refuses the message; nothing was made.
TEST_CASE_METHOD(JobFixture, "a calibration above 4 MiB does not come inline",
                 "[job_inline]") {
  v1::CreateJobRequest request = InlineRequest(folders, "a");
  v1::InlineSite* const site = request.mutable_job()
                                   ->mutable_calibration()
                                   ->mutable_inline_()
                                   ->mutable_sites(0);
  site->mutable_second_moment()->Resize(1 << 20, 1);
  const absl::Status status = jobs.Create(request).status();
  INFO(status.ToString());
  REQUIRE(absl::IsResourceExhausted(status));
  REQUIRE(std::string(status.message()).find("4194304") != std::string::npos);
  REQUIRE(jobs.List()->jobs().empty());
}

}  // namespace
}  // namespace qs::testing

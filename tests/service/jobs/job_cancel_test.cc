// Cancelled in every phase, a job comes to one end, once, and gives back what
// it had; see also ~InProcessServer. The same on a device: gpu_workers_test.cc.
#include "tests/service/jobs/calibration_client.h"
#include "tests/service/jobs/cancel_loop.h"

namespace qs::testing {
namespace {

constexpr int kRounds = kSanitized ? 4 : 12;

// F21.
TEST_CASE_METHOD(JobFixture, "cancelled at any time, a job ends once",
                 "[job_cancel]") {
  for (const char* preset : {"NF4", "W4A16-gptq", "W4A16-awq"}) {
    for (const bool stored : {false, true}) {
      INFO(preset << (stored ? ", stored" : ", to a directory"));
      v1::CreateJobRequest request = FiledRequest(folders, "out");
      v1::Job* const job = request.mutable_job();
      job->mutable_quantization()->set_preset(preset);
      job->mutable_source()->clear_include();
      job->mutable_source()->add_include("*.[01].self_attn.*");
      if (std::string(preset) == "NF4") job->clear_calibration();
      if (stored) job->clear_destination();
      const absl::Time began = absl::Now();
      RequireDone(jobs, request);
      const absl::Duration whole = absl::Now() - began;
      std::filesystem::remove_all(folders.Out("out"));
      REQUIRE(CancelLoop(jobs, folders, request, whole, kRounds) > 0);
    }
  }
}

TEST_CASE_METHOD(CalibrationFixture,
                 "cancelled while it waits for sites, a job ends once",
                 "[job_cancel]") {
  calibration.Upload("01");
  for (const bool parked : {false, true}) {
    INFO(parked);
    const std::string name =
        RequireMade(jobs, NamedRequest(folders, "out")).name();
    if (parked) REQUIRE(WaitsForSites(jobs, name));
    CancelByMany(jobs, name);
    REQUIRE(WaitDone(jobs, name).state() == v1::Job::CANCELLED);
    const std::map<v1::Job::State, int> once = {{v1::Job::CANCELLED, 1}};
    REQUIRE(Ends(jobs, name) == once);
    REQUIRE(folders.OutFiles().empty());
  }
}

}  // namespace
}  // namespace qs::testing

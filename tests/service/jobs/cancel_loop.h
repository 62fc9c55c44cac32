// Jobs that are cancelled at every time of their life, each by several callers
// at once.
#ifndef QS_TESTS_SERVICE_JOBS_CANCEL_LOOP_H_
#define QS_TESTS_SERVICE_JOBS_CANCEL_LOOP_H_

#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tests/service/jobs/job_client.h"

namespace qs::testing {

inline constexpr int kCancelCallers = 3;

// Everybody is answered, and sees the end that the job has or none.
inline void CancelByMany(JobClient& client, const std::string& name) {
  std::vector<absl::StatusOr<v1::Job>> answers(kCancelCallers, v1::Job());
  {
    std::vector<std::jthread> callers;
    for (absl::StatusOr<v1::Job>& answer : answers) {
      callers.emplace_back([&] { answer = client.Cancel(name); });
    }
  }
  for (const absl::StatusOr<v1::Job>& answer : answers) {
    INFO(answer.status().ToString());
    REQUIRE(answer.ok());
  }
}

// How often each end was reached, by the job's events.
inline std::map<v1::Job::State, int> Ends(JobClient& client,
                                          const std::string& name) {
  std::map<v1::Job::State, int> ends;
  JobWatch watch(client, name, 1);
  for (const v1::JobEvent& event : watch.ReadAll()) {
    REQUIRE_FALSE(event.has_snapshot());
    if (event.has_change() && event.change().has_job()) {
      ++ends[event.change().state()];
    }
  }
  return ends;
}

// One after the other, `rounds` jobs, each cancelled a little later than the
// one before it, from at once to `whole`. Each reaches one end, once, and one
// that is CANCELLED leaves nothing. Returns how many were CANCELLED.
inline int CancelLoop(JobClient& client, const JobFolders& folders,
                      v1::CreateJobRequest request, absl::Duration whole,
                      int rounds) {
  int cancelled = 0;
  for (int round = 0; round < rounds; ++round) {
    INFO("round " << round << " of " << rounds);
    const std::string out = absl::StrCat("cancelled", round);
    const bool stored = !request.job().has_destination();
    if (!stored) {
      request.mutable_job()->mutable_destination()->set_uri(
          folders.OutUri(out));
    }
    const std::string name = RequireMade(client, request).name();
    absl::SleepFor(whole * round / rounds);
    CancelByMany(client, name);
    const v1::Job job = WaitDone(client, name);
    INFO(job.ShortDebugString());
    CancelByMany(client, name);  // changes nothing
    const std::map<v1::Job::State, int> once = {{job.state(), 1}};
    REQUIRE(Ends(client, name) == once);
    const bool succeeded = job.state() == v1::Job::SUCCEEDED;
    REQUIRE((succeeded || job.state() == v1::Job::CANCELLED));
    cancelled += static_cast<int>(!succeeded);
    const auto files = folders.OutFiles();
    REQUIRE(files == (succeeded && !stored ? std::vector<std::string>{out}
                                           : std::vector<std::string>()));
    if (!files.empty()) std::filesystem::remove_all(folders.Out(out));
  }
  return cancelled;
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_JOBS_CANCEL_LOOP_H_

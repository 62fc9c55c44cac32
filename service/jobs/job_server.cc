// Tested by tests/service/jobs/job_service_test.cc.
#include "service/jobs/job_server.h"

#include "absl/time/clock.h"
#include "kernels/base/status_macros.h"
#include "service/server/error.h"

namespace qs {

namespace {

constexpr absl::Duration kSweepInterval = absl::Milliseconds(500);

}  // namespace

JobServer::~JobServer() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (sweeper_.joinable()) sweeper_.join();
  // The last steps of calls that have ended use the records.
  while (calls_.live() > 0) absl::SleepFor(absl::Milliseconds(1));
}

absl::Status JobServer::Start() {
  QS_RETURN_IF_ERROR(scheduler_.Recover());
  if (context_.results != nullptr) {
    QS_RETURN_IF_ERROR(context_.results->Sweep(context_.records));
  }
  QS_RETURN_IF_ERROR(calibrations_.Recover());
  scheduler_.Start();
  sweeper_ = std::jthread([this] { EndStalledReads(); });
  return absl::OkStatus();
}

void JobServer::EndStalledReads() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kSweepInterval);
      if (stopping_) return;
    }
    calls_.EndStalled(absl::Now());
  }
}

void JobServer::StartDraining() {
  calls_.StartDraining();
  scheduler_.StartDraining();
  hub_.EndAll(DrainingError());
}

}  // namespace qs

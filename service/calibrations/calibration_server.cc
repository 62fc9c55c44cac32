// Tested by tests/service/calibrations/calibration_kill_test.cc.
#include "service/calibrations/calibration_server.h"

#include <utility>

#include "absl/time/clock.h"
#include "kernels/base/status_macros.h"
#include "service/store/sqlite_calibration_records.h"

namespace qs {
namespace {

constexpr absl::Duration kSweepInterval = absl::Milliseconds(500);

}  // namespace

CalibrationServer::CalibrationServer(Stores& stores,
                                     const ServerOptions& options)
    : records_(NewSqliteCalibrationRecords(stores.records())),
      store_(std::make_unique<CalibrationStore>(*records_, stores.blobs())),
      calls_(options.max_tensor_streams,
             absl::Seconds(options.stream_idle_timeout)) {}

absl::StatusOr<std::unique_ptr<CalibrationServer>> CalibrationServer::Open(
    Stores& stores, const AccessControl& access, WorkerPool& workers,
    ByteBudget& budget, const ServerOptions& options) {
  std::unique_ptr<CalibrationServer> server(
      new CalibrationServer(stores, options));
  QS_RETURN_IF_ERROR(server->store_->DiscardStaged());
  server->context_.reset(new CalibrationContext{
      *server->store_, access, stores.pool(), workers, budget, server->calls_});
  server->service_ = NewCalibrationService(*server->context_);
  server->sweeper_ =
      std::jthread([&server = *server] { server.SweepUntilStopped(); });
  return server;
}

CalibrationServer::~CalibrationServer() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (sweeper_.joinable()) sweeper_.join();
  // The last steps of calls that have ended use the store.
  while (calls_.live() > 0) absl::SleepFor(absl::Milliseconds(1));
}

void CalibrationServer::SetUsers(CalibrationUsers& users) {
  context_->users = &users;
}

void CalibrationServer::SweepUntilStopped() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kSweepInterval);
      if (stopping_) return;
    }
    calls_.EndStalled(absl::Now());
  }
}

}  // namespace qs

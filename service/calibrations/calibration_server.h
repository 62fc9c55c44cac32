// CalibrationServer: CalibrationService with what it needs — records, store,
// the list of its calls, and the thread that ends those that stall.
//
// Destroy it after the gRPC server has shut down, before the stores and the
// workers.
// Thread: thread-safe.
#ifndef QS_SERVICE_CALIBRATIONS_CALIBRATION_SERVER_H_
#define QS_SERVICE_CALIBRATIONS_CALIBRATION_SERVER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "service/calibrations/calibration_service.h"
#include "service/calibrations/calibration_users.h"
#include "service/server/stores.h"

namespace qs {

class CalibrationServer {
 public:
  // Puts the records in order. All outlive it. As many calls at once as
  // TensorService may have streams. Errors: of the stores.
  static absl::StatusOr<std::unique_ptr<CalibrationServer>> Open(
      Stores& stores, const AccessControl& access, WorkerPool& workers,
      ByteBudget& budget, const ServerOptions& options);
  ~CalibrationServer();

  grpc::Service& service() { return *service_; }
  // What jobs read calibrations from.
  CalibrationStore& store() { return *store_; }

  // Before the gRPC server starts. `users` outlives its calls.
  void SetUsers(CalibrationUsers& users);

  // New calls are refused with DRAINING.
  void StartDraining() { calls_.StartDraining(); }
  // Streams make durable what they have and end with DRAINING.
  void EndAll() { calls_.EndAll(); }
  int64_t live_streams() const { return calls_.live(); }

 private:
  CalibrationServer(Stores& stores, const ServerOptions& options);
  void SweepUntilStopped();

  std::unique_ptr<CalibrationRecords> records_;
  std::unique_ptr<CalibrationStore> store_;
  LiveCalls calls_;
  std::unique_ptr<CalibrationContext> context_;
  std::unique_ptr<grpc::Service> service_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::jthread sweeper_;
};

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_CALIBRATION_SERVER_H_

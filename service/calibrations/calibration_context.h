// CalibrationContext: what the calls of CalibrationService share, and their
// limits. Outlives all of them.
#ifndef QS_SERVICE_CALIBRATIONS_CALIBRATION_CONTEXT_H_
#define QS_SERVICE_CALIBRATIONS_CALIBRATION_CONTEXT_H_

#include <cstdint>

#include "service/access/access.h"
#include "service/base/io_pool.h"
#include "service/calibrations/calibration_users.h"
#include "service/calibrations/shard_writers.h"
#include "service/store/calibration_store.h"
#include "service/stream/byte_budget.h"
#include "service/stream/worker_pool.h"
#include "service/tensors/live_calls.h"

namespace qs {

// As calibrations.proto has them.
constexpr char kCalibrations[] = "calibrations";
constexpr int64_t kMaxCalibrationSites = 50'000;
// With what the encoding adds a request of so much stays below 4 MiB.
constexpr int64_t kMaxCalibrationText = int64_t{7} << 19;

struct CalibrationLimits {
  int64_t calibrations = 1000;  // of a project
  int64_t shards = 256;         // of a calibration
  int64_t parts = 1024;         // second moments of a site
};

struct CalibrationContext {
  CalibrationStore& store;
  const AccessControl& access;
  IoPool& pool;
  WorkerPool& workers;
  ByteBudget& budget;
  LiveCalls& calls;  // the streams, and SealSites
  CalibrationLimits limits = {};
  ShardWriters writers = {};
  CalibrationUsers* users = nullptr;  // set before calls come; may be null
};

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_CALIBRATION_CONTEXT_H_

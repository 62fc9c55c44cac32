// JobsContext: what everything about jobs shares.
#ifndef QS_SERVICE_JOBS_JOBS_CONTEXT_H_
#define QS_SERVICE_JOBS_JOBS_CONTEXT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "quant/formats/file_opener.h"
#include "service/base/io_pool.h"
#include "service/jobs/job_pace.h"
#include "service/jobs/job_results.h"
#include "service/run/checkpoint_run.h"
#include "service/store/calibration_store.h"
#include "service/store/job_records.h"
#include "service/store/tensor_records.h"
#include "service/stream/byte_budget.h"
#include "service/stream/worker_pool.h"

namespace qs {

// CheckpointRun::Prepare, or a test's own.
using RunFactory = std::function<absl::StatusOr<std::shared_ptr<CheckpointRun>>(
    CheckpointRunSpec)>;

// URIs of a project to absolute paths. May make file calls. Errors: as
// UriRoots; `field` is where the URI stands in the request.
template <typename Path>
using UriResolver = std::function<absl::StatusOr<Path>(
    const std::string& project, const std::string& uri,
    const std::string& field)>;

struct JobPaths {
  UriResolver<InputPath> existing;  // something that is read
  UriResolver<std::string> fresh;   // something that is made
};

// Everything outlives the jobs.
struct JobsContext {
  JobRecords& records;
  IoPool& io;
  WorkerPool& pool;
  ByteBudget& budget;
  RunFactory prepare;
  JobPaths paths;
  int64_t max_plan_tensors = 200'000;
  std::shared_ptr<JobPace> pace = std::make_shared<JobPace>(1);
  CalibrationStore* calibrations = nullptr;  // null: there are none by name
  TensorRecords* tensors = nullptr;          // null: nothing is uploaded
  BlobStore* blobs = nullptr;                // of `tensors`
  std::function<absl::Time()> now = [] { return absl::Now(); };
  // Held from DeleteAfterUse to the record of the job's end: of two jobs that
  // end at once the second sees that the first is done.
  std::shared_ptr<absl::Mutex> last_use = std::make_shared<absl::Mutex>();
  // Null: every job needs a destination.
  JobResults* results = nullptr;
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOBS_CONTEXT_H_

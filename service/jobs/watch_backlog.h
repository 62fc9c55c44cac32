// What a watch of a job is sent first: what happened before it began.
#ifndef QS_SERVICE_JOBS_WATCH_BACKLOG_H_
#define QS_SERVICE_JOBS_WATCH_BACKLOG_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/v1/jobs.pb.h"
#include "service/jobs/job_hub.h"
#include "service/store/job_records.h"

namespace qs {

// Changes one by one, or a snapshot.
struct WatchBacklog {
  std::deque<quant::v1::JobEvent> events;
  WatchCursor cursor;  // behind them
};

// Of one job: its events after the watch's revision, oldest first, and its
// record. Two reads, and the job may change between them.
struct WatchedRecord {
  std::function<absl::StatusOr<std::vector<JobEventRecord>>()> events;
  std::function<absl::StatusOr<JobRecord>()> job;
};

// The events after revision `from`; a snapshot where some of them are no longer
// kept, or `from` is 0. Errors: INVALID_ARGUMENT — `from` is below 0 or above
// the job's revision; those of FromRecords.
// Thread: as `record` is.
absl::StatusOr<WatchBacklog> ReadWatchBacklog(const WatchedRecord& record,
                                              int64_t from);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_WATCH_BACKLOG_H_

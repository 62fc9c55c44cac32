// Tested by tests/service/jobs/watch_backlog_test.cc.
#include "service/jobs/watch_backlog.h"

#include "absl/strings/str_cat.h"
#include "service/jobs/job_messages.h"
#include "service/server/error.h"

namespace qs {
namespace {

struct Reads {
  std::vector<JobEventRecord> events;
  JobRecord job;
};

absl::StatusOr<Reads> ReadOnce(const WatchedRecord& record) {
  // Events first: the job is not older then.
  absl::StatusOr<std::vector<JobEventRecord>> events = record.events();
  if (!events.ok()) return FromRecords(events.status());
  absl::StatusOr<JobRecord> job = record.job();
  if (!job.ok()) return FromRecords(job.status());
  return Reads{*std::move(events), *std::move(job)};
}

}  // namespace

absl::StatusOr<WatchBacklog> ReadWatchBacklog(const WatchedRecord& record,
                                              int64_t from) {
  absl::StatusOr<Reads> reads = ReadOnce(record);
  // No event, and a newer job: its first event came between the two reads.
  if (reads.ok() && reads->events.empty() && from < reads->job.revision) {
    reads = ReadOnce(record);
  }
  if (!reads.ok()) return reads.status();
  const auto& [events, job] = *reads;
  if (from < 0 || from > job.revision) {
    return BadFieldError(
        "from_revision",
        absl::StrCat("got ", from, ", allowed 0 to ", job.revision));
  }
  WatchBacklog out;
  const bool complete = events.empty() ? from == job.revision
                                       : events.front().revision == from + 1;
  if (from == 0 || !complete) {
    out.events.push_back(SnapshotToProto(job));
    out.cursor = {job.revision, 0, IsTerminal(job.state)};
    return out;
  }
  out.cursor = {from, 0, events.empty() && IsTerminal(job.state)};
  for (const JobEventRecord& event : events) {
    out.events.push_back(EventToProto(event, &job));
    out.cursor.revision = event.revision;
    out.cursor.ended = IsTerminal(event.state);
  }
  return out;
}

}  // namespace qs

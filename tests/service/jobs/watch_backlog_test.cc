// What a watch gets first, when the job changes while it is read, too.
#include "service/jobs/watch_backlog.h"

#include <algorithm>
#include <vector>

#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

// A job at `revision` whose events from `oldest` on are kept. It goes on to
// `next` behind the first read of its events.
struct FakeRecord {
  int64_t revision = 1;
  int64_t oldest = 2;
  int64_t next = 0;

  static JobState StateAt(int64_t revision) {
    return revision >= 5 ? JobState::kSucceeded : JobState::kRunning;
  }
  WatchedRecord After(int64_t from) {
    return {[this, from]() -> absl::StatusOr<std::vector<JobEventRecord>> {
              std::vector<JobEventRecord> events;
              for (int64_t r = std::max(oldest, from + 1); r <= revision; ++r) {
                events.push_back(
                    {r, absl::FromUnixSeconds(r), StateAt(r), 1, false});
              }
              revision = std::max(revision, next);
              return events;
            },
            [this]() -> absl::StatusOr<JobRecord> {
              JobRecord job;
              job.key = {"default", "a"};
              job.state = StateAt(revision);
              job.revision = revision;
              return job;
            }};
  }
};

std::vector<int64_t> Revisions(const WatchBacklog& backlog) {
  std::vector<int64_t> revisions;
  for (const auto& event : backlog.events) {
    if (!event.has_change()) return {};  // a snapshot
    revisions.push_back(event.revision());
  }
  return revisions;
}

using Expected = std::vector<int64_t>;

TEST_CASE("changes one by one, as long as they are kept", "[watch_backlog]") {
  FakeRecord record{.revision = 5, .oldest = 3};
  auto backlog = ReadWatchBacklog(record.After(2), 2);
  REQUIRE(backlog.ok());
  CHECK(Revisions(*backlog) == Expected{3, 4, 5});
  CHECK(backlog->cursor.revision == 5);
  CHECK(backlog->cursor.ended);
  for (const int64_t from : {0, 1}) {
    backlog = ReadWatchBacklog(record.After(from), from);
    REQUIRE(backlog.ok());
    REQUIRE(backlog->events.size() == 1);
    CHECK(backlog->events.front().has_snapshot());
    CHECK(backlog->cursor.revision == 5);
    CHECK(backlog->cursor.ended);
  }
  backlog = ReadWatchBacklog(record.After(5), 5);
  REQUIRE(backlog.ok());
  CHECK(backlog->events.empty());
  CHECK(backlog->cursor.ended);
  for (const int64_t from : {-1, 6}) {
    CHECK(ReadWatchBacklog(record.After(from), from).status().code() ==
          absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("a change between the two reads is a change, no snapshot",
          "[watch_backlog]") {
  for (const int64_t next : {2, 5}) {
    FakeRecord record{.next = next};
    const auto backlog = ReadWatchBacklog(record.After(1), 1);
    REQUIRE(backlog.ok());
    Expected expected;
    for (int64_t r = 2; r <= next; ++r) expected.push_back(r);
    CHECK(Revisions(*backlog) == expected);
    CHECK(backlog->cursor.revision == next);
    CHECK(backlog->cursor.ended == (next == 5));
  }
  // With a first event there is nothing to read again: what came behind it is
  // told as it happens.
  FakeRecord record{.revision = 3, .next = 5};
  const auto backlog = ReadWatchBacklog(record.After(1), 1);
  REQUIRE(backlog.ok());
  CHECK(Revisions(*backlog) == Expected{2, 3});
  CHECK(backlog->cursor.revision == 3);
  CHECK_FALSE(backlog->cursor.ended);
}

}  // namespace
}  // namespace qs::testing

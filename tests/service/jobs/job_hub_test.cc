// Topics and cursors: order, gaps, snapshots, and what a watcher costs.
#include "service/jobs/job_hub.h"

#include <atomic>
#include <memory>
#include <string>

#include "service/server/error.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

namespace v1 = quant::v1;

JobRecords::Updated Changed(int64_t revision, JobState state) {
  JobRecords::Updated out;
  out.job.key = {"default", "a"};
  out.job.state = state;
  out.job.revision = revision;
  if (IsTerminal(state)) out.job.ended = absl::FromUnixSeconds(1);
  out.event =
      JobEventRecord{revision, absl::FromUnixSeconds(1), state, 1, false};
  return out;
}

void Add(JobTopic* topic, int64_t revision,
         JobState state = JobState::kRunning) {
  const JobRecords::Updated changed = Changed(revision, state);
  topic->AddChange(*changed.event, changed.job);
}

v1::JobProgress Progress(int64_t bytes) {
  v1::JobProgress progress;
  progress.set_bytes_done(bytes);
  return progress;
}

TEST_CASE("changes come in order, whatever the order they are told in",
          "[job_hub]") {
  JobTopic topic;
  WatchCursor cursor{4, 0, false};
  REQUIRE_FALSE(topic.Next(&cursor));
  Add(&topic, 6, JobState::kSucceeded);
  REQUIRE_FALSE(topic.Next(&cursor));
  Add(&topic, 5);
  Add(&topic, 5);
  auto event = topic.Next(&cursor);
  REQUIRE(event->revision() == 5);
  REQUIRE_FALSE(cursor.ended);
  event = topic.Next(&cursor);
  REQUIRE(event->revision() == 6);
  REQUIRE(event->change().has_job());
  REQUIRE(cursor.ended);
  topic.SetProgress(Progress(9));
  REQUIRE_FALSE(topic.Next(&cursor));
}

TEST_CASE("a slow watcher gets the newest progress only", "[job_hub]") {
  JobTopic topic;
  WatchCursor fast{1, 0, false};
  WatchCursor slow{1, 0, false};
  for (int64_t i = 1; i <= 3; ++i) {
    REQUIRE(topic.SetProgress(Progress(i)));
    REQUIRE_FALSE(topic.SetProgress(Progress(i)));
    REQUIRE(topic.Next(&fast)->progress().bytes_done() == i);
    REQUIRE_FALSE(topic.Next(&fast));
  }
  REQUIRE(topic.Next(&slow)->progress().bytes_done() == 3);
  REQUIRE_FALSE(topic.Next(&slow));
  // A change goes before progress.
  topic.SetProgress(Progress(4));
  Add(&topic, 2);
  REQUIRE(topic.Next(&slow)->has_change());
  const auto progress = topic.Next(&slow);
  REQUIRE(progress->has_progress());
  REQUIRE(progress->revision() == 2);
}

TEST_CASE("one that fell too far behind gets a snapshot", "[job_hub]") {
  JobTopic topic;
  WatchCursor cursor{1, 0, false};
  const auto many = static_cast<int64_t>(JobTopic::kMaxChanges);
  for (int64_t i = 2; i <= many + 2; ++i) Add(&topic, i);
  const auto snapshot = topic.Next(&cursor);
  REQUIRE(snapshot->has_snapshot());
  REQUIRE(snapshot->revision() == many + 2);
  REQUIRE(snapshot->snapshot().revision() == many + 2);
  REQUIRE_FALSE(topic.Next(&cursor));
  // The first that is still there one by one.
  WatchCursor just{2, 0, false};
  REQUIRE(topic.Next(&just)->revision() == 3);
}

struct CountingWatcher final : JobWatcher {
  void Poke() override { ++pokes; }
  void Tick(absl::Time) override { ++ticks; }
  void End(const absl::Status& status) override { ended = status; }
  std::atomic<int> pokes = 0;
  int ticks = 0;
  absl::Status ended;
};

TEST_CASE("only who watches the job is told; a cap; an end for all",
          "[job_hub]") {
  JobHub hub(2);
  const auto mine = std::make_shared<CountingWatcher>();
  const auto other = std::make_shared<CountingWatcher>();
  const auto third = std::make_shared<CountingWatcher>();
  const JobKey key = {"default", "a"};
  REQUIRE(hub.Join(key, mine).ok());
  REQUIRE(hub.Join({"default", "b"}, other).ok());
  const absl::Status full = hub.Join(key, third).status();
  REQUIRE(ErrorReason(full) == "TOO_MANY_WATCHES");
  hub.OnChange(Changed(2, JobState::kRunning));
  JobRecords::Updated quiet = Changed(3, JobState::kRunning);
  quiet.event.reset();
  hub.OnChange(quiet);
  hub.OnProgress(key, Progress(1));
  hub.OnProgress(key, Progress(1));
  REQUIRE(mine->pokes == 2);
  REQUIRE(other->pokes == 0);
  hub.Leave(key, third.get());
  REQUIRE(hub.watches() == 2);
  hub.Leave(key, mine.get());
  hub.Leave(key, mine.get());
  REQUIRE(hub.watches() == 1);
  hub.OnChange(Changed(3, JobState::kRunning));
  REQUIRE(mine->pokes == 2);
  hub.Tick(absl::FromUnixSeconds(1));
  REQUIRE(other->ticks == 1);
  REQUIRE(mine->ticks == 0);
  hub.EndAll(DrainingError());
  REQUIRE(ErrorReason(other->ended) == "DRAINING");
  REQUIRE(ErrorReason(hub.Join(key, mine).status()) == "DRAINING");
}

}  // namespace
}  // namespace qs::testing

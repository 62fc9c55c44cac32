// JobHub: who watches which job, and what is news to them.
//
// A topic, one for each job that is watched, has the newest state and the last
// changes; a watcher has a cursor: which revision and which progress it has
// seen. There is no queue for a watcher, so a slow one costs as much as a fast
// one, and one that falls behind gets a snapshot.
//
// Thread: thread-safe. Nothing blocks.
#ifndef QS_SERVICE_JOBS_JOB_HUB_H_
#define QS_SERVICE_JOBS_JOB_HUB_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "quant/v1/jobs.pb.h"
#include "service/store/job_records.h"

namespace qs {

// What a watcher has seen.
struct WatchCursor {
  int64_t revision = 0;
  int64_t progress = 0;  // number of a progress of the topic
  bool ended = false;    // the terminal change was seen
};

class JobTopic {
 public:
  // Changes kept for those that are not quite up to date.
  static constexpr size_t kMaxChanges = 64;

  // In any order; twice is once.
  void AddChange(const JobEventRecord& event, const JobRecord& job);
  // False: it is the one that it had.
  bool SetProgress(const quant::v1::JobProgress& progress);
  std::optional<quant::v1::JobProgress> progress() const;
  // The next event after what the cursor has seen, which it then has; nullopt:
  // there is no news.
  std::optional<quant::v1::JobEvent> Next(WatchCursor* cursor) const;

 private:
  std::optional<quant::v1::JobEvent> NextChange(WatchCursor* cursor) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::map<int64_t, std::shared_ptr<const quant::v1::JobEvent>> changes_
      ABSL_GUARDED_BY(mutex_);
  int64_t trimmed_ ABSL_GUARDED_BY(mutex_) = 0;  // highest revision gone
  JobRecord newest_ ABSL_GUARDED_BY(mutex_);
  quant::v1::JobProgress progress_ ABSL_GUARDED_BY(mutex_);
  std::string progress_bytes_ ABSL_GUARDED_BY(mutex_);
  int64_t progress_number_ ABSL_GUARDED_BY(mutex_) = 0;
};

// A call of WatchJob.
class JobWatcher {
 public:
  virtual ~JobWatcher() = default;
  // There may be news.
  virtual void Poke() = 0;
  virtual void Tick(absl::Time now) = 0;
  virtual void End(const absl::Status& status) = 0;
};

class JobHub {
 public:
  // REQUIRES: max_watches >= 1.
  explicit JobHub(int64_t max_watches) : max_watches_(max_watches) {}

  void OnChange(const JobRecords::Updated& updated);
  void OnProgress(const JobKey& key, const quant::v1::JobProgress& progress);
  // Once a second or so: for bookmarks.
  void Tick(absl::Time now);
  // Ends all that watch, and whoever comes later.
  void EndAll(const absl::Status& status);

  // Before the watcher reads the job's record: what changes after that is in
  // the topic. Leave must follow. Errors: RESOURCE_EXHAUSTED TOO_MANY_WATCHES;
  // EndAll's.
  absl::StatusOr<std::shared_ptr<JobTopic>> Join(
      const JobKey& key, const std::shared_ptr<JobWatcher>& watcher);
  void Leave(const JobKey& key, const JobWatcher* watcher);

  int64_t watches() const;

 private:
  using Watchers = std::map<const JobWatcher*, std::weak_ptr<JobWatcher>>;
  struct Watched {
    std::shared_ptr<JobTopic> topic;
    Watchers watchers;
  };
  std::shared_ptr<JobTopic> TopicOf(const JobKey& key) const;
  std::vector<std::shared_ptr<JobWatcher>> WatchersOf(const JobKey& key) const;
  std::vector<std::shared_ptr<JobWatcher>> AllWatchers() const;

  const int64_t max_watches_;
  mutable absl::Mutex mutex_;
  std::map<JobKey, Watched> jobs_ ABSL_GUARDED_BY(mutex_);
  int64_t watches_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status ended_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_HUB_H_

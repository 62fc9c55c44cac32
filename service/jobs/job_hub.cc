// Tested by tests/service/jobs/job_hub_test.cc.
#include "service/jobs/job_hub.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "service/jobs/job_messages.h"
#include "service/server/error.h"

namespace qs {

namespace v1 = quant::v1;

void JobTopic::AddChange(const JobEventRecord& event, const JobRecord& job) {
  auto message =
      std::make_shared<const v1::JobEvent>(EventToProto(event, &job));
  absl::MutexLock lock(&mutex_);
  if (event.revision <= trimmed_) return;
  changes_.emplace(event.revision, std::move(message));
  if (job.revision > newest_.revision || newest_.key.id.empty()) newest_ = job;
  if (changes_.size() <= kMaxChanges) return;
  trimmed_ = changes_.begin()->first;
  changes_.erase(changes_.begin());
}

bool JobTopic::SetProgress(const v1::JobProgress& progress) {
  std::string bytes = progress.SerializeAsString();
  absl::MutexLock lock(&mutex_);
  if (bytes == progress_bytes_) return false;
  progress_ = progress;
  progress_bytes_ = std::move(bytes);
  ++progress_number_;
  return true;
}

std::optional<v1::JobProgress> JobTopic::progress() const {
  absl::MutexLock lock(&mutex_);
  if (progress_number_ == 0) return std::nullopt;
  return progress_;
}

std::optional<v1::JobEvent> JobTopic::NextChange(WatchCursor* cursor) const {
  // A later change may be here before an earlier one, which then comes soon.
  const auto found = changes_.find(cursor->revision + 1);
  if (found != changes_.end()) {
    ++cursor->revision;
    cursor->ended = found->second->change().has_job();
    return *found->second;
  }
  if (cursor->revision >= trimmed_) return std::nullopt;
  cursor->revision = newest_.revision;
  cursor->ended = IsTerminal(newest_.state);
  return SnapshotToProto(newest_);
}

std::optional<v1::JobEvent> JobTopic::Next(WatchCursor* cursor) const {
  absl::MutexLock lock(&mutex_);
  if (cursor->ended) return std::nullopt;
  if (auto change = NextChange(cursor)) return change;
  if (cursor->progress == progress_number_) return std::nullopt;
  cursor->progress = progress_number_;
  v1::JobEvent event;
  event.set_revision(cursor->revision);
  *event.mutable_progress() = progress_;
  return event;
}

void JobHub::OnChange(const JobRecords::Updated& updated) {
  if (!updated.event) return;
  const std::shared_ptr<JobTopic> topic = TopicOf(updated.job.key);
  if (topic == nullptr) return;
  topic->AddChange(*updated.event, updated.job);
  for (const auto& watcher : WatchersOf(updated.job.key)) watcher->Poke();
}

void JobHub::OnProgress(const JobKey& key, const v1::JobProgress& progress) {
  const std::shared_ptr<JobTopic> topic = TopicOf(key);
  if (topic == nullptr || !topic->SetProgress(progress)) return;
  for (const auto& watcher : WatchersOf(key)) watcher->Poke();
}

void JobHub::Tick(absl::Time now) {
  for (const auto& watcher : AllWatchers()) watcher->Tick(now);
}

void JobHub::EndAll(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    ended_ = status;
  }
  for (const auto& watcher : AllWatchers()) watcher->End(status);
}

absl::StatusOr<std::shared_ptr<JobTopic>> JobHub::Join(
    const JobKey& key, const std::shared_ptr<JobWatcher>& watcher) {
  absl::MutexLock lock(&mutex_);
  if (!ended_.ok()) return ended_;
  if (watches_ >= max_watches_) {
    return RetryableError(
        absl::StatusCode::kResourceExhausted, "TOO_MANY_WATCHES",
        absl::StrCat("watches: got ", watches_ + 1, ", allowed ", max_watches_),
        {{"allowed", absl::StrCat(max_watches_)}});
  }
  ++watches_;
  Watched& watched = jobs_[key];
  if (watched.topic == nullptr) watched.topic = std::make_shared<JobTopic>();
  watched.watchers.emplace(watcher.get(), watcher);
  return watched.topic;
}

void JobHub::Leave(const JobKey& key, const JobWatcher* watcher) {
  absl::MutexLock lock(&mutex_);
  const auto found = jobs_.find(key);
  if (found == jobs_.end() || found->second.watchers.erase(watcher) == 0) {
    return;
  }
  --watches_;
  if (found->second.watchers.empty()) jobs_.erase(found);
}

int64_t JobHub::watches() const {
  absl::MutexLock lock(&mutex_);
  return watches_;
}

std::shared_ptr<JobTopic> JobHub::TopicOf(const JobKey& key) const {
  absl::MutexLock lock(&mutex_);
  const auto found = jobs_.find(key);
  return found == jobs_.end() ? nullptr : found->second.topic;
}

std::vector<std::shared_ptr<JobWatcher>> JobHub::WatchersOf(
    const JobKey& key) const {
  std::vector<std::shared_ptr<JobWatcher>> out;
  absl::MutexLock lock(&mutex_);
  const auto found = jobs_.find(key);
  if (found == jobs_.end()) return out;
  out.reserve(found->second.watchers.size());
  for (const auto& [pointer, weak] : found->second.watchers) {
    if (auto watcher = weak.lock()) out.push_back(std::move(watcher));
  }
  return out;
}

std::vector<std::shared_ptr<JobWatcher>> JobHub::AllWatchers() const {
  std::vector<std::shared_ptr<JobWatcher>> out;
  absl::MutexLock lock(&mutex_);
  for (const auto& [key, watched] : jobs_) {
    for (const auto& [pointer, weak] : watched.watchers) {
      if (auto watcher = weak.lock()) out.push_back(std::move(watcher));
    }
  }
  return out;
}

}  // namespace qs

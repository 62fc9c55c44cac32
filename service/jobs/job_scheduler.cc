// Tested by tests/service/jobs/job_scheduler_test.cc.
#include "service/jobs/job_scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/jobs/job.h"
#include "service/jobs/job_calibrations.h"
#include "service/jobs/job_log.h"
#include "service/jobs/job_messages.h"
#include "service/jobs/job_metrics.h"
#include "service/jobs/job_output.h"
#include "service/server/error.h"
#include "service/server/log.h"

namespace qs {
namespace {

constexpr absl::Duration kHubTick = absl::Seconds(1);

// Whether the result of a job that was publishing has its name.
bool IsPublished(const JobRecord& job) {
  return job.publishing && Exists(job.destination) &&
         !Exists(StagingPath(job.destination, job.key.id));
}

void LogFailure(const char* what, const absl::Status& status) {
  Log(LogLevel::kError, "job_store",
      {{"what", what}, {"error", std::string(status.message())}});
}

}  // namespace

JobScheduler::JobScheduler(const JobsContext& context, JobHub& hub,
                           JobSchedulerOptions options)
    : context_(context), hub_(hub), options_(options) {}

JobScheduler::~JobScheduler() {
  StartDraining();
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
  for (const Live& live : LiveJobs()) live->RetryEnd(true);
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &JobScheduler::Idle));
}

absl::Status JobScheduler::Recover() {
  absl::StatusOr<std::vector<JobKey>> running = context_.records.Running();
  if (!running.ok()) return running.status();
  for (const JobKey& key : *running) QS_RETURN_IF_ERROR(RecoverOne(key));
  return absl::OkStatus();
}

absl::Status JobScheduler::RecoverOne(const JobKey& key) {
  const absl::Time now = context_.now();
  QS_ASSIGN_OR_RETURN(const JobRecord found, context_.records.Get(key));
  if (IsPublished(found)) DeleteAfterUse(context_, key, JobToProto(found));
  absl::StatusOr<JobRecords::Updated> updated =
      context_.records.Update(key, now, [now](JobRecord& job) {
        return IsPublished(job) ? SucceedJob(job, now) : CrashJob(job, now);
      });
  if (!updated.ok()) return updated.status();
  if (updated->job.state != JobState::kSucceeded) CountJobCrash();
  Settle(updated->job);
  return absl::OkStatus();
}

void JobScheduler::Settle(const JobRecord& job) {
  LogJobState(job);
  if (!IsTerminal(job.state)) return;
  CountJobEnd(job);
  // Of an attempt that did not come to its end.
  RemoveOutput(StagingPath(job.destination, job.key.id), JobLog(job));
  const bool kept = job.stored && job.state == JobState::kSucceeded;
  if (job.stored && !kept && context_.results != nullptr) {
    context_.results->Remove(job.key);
  }
  // The summary has what the reports said; of a result that is kept, they are
  // read with it.
  absl::Status status =
      kept ? absl::OkStatus() : context_.records.StartOver(job.key);
  if (status.ok()) status = context_.records.TrimHistory(options_.history);
  if (!status.ok() && !absl::IsNotFound(status)) {
    JobLog(job).WriteError("job_store", status);
  }
}

void JobScheduler::Start() {
  thread_ = std::thread([this] { Work(); });
}

void JobScheduler::Wake() {
  absl::MutexLock lock(&mutex_);
  woken_ = true;
}

bool JobScheduler::draining() const {
  absl::MutexLock lock(&mutex_);
  return draining_;
}

int64_t JobScheduler::running() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(live_.size());
}

bool JobScheduler::WaitIdle(absl::Duration limit) const {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(this, &JobScheduler::Idle),
                                 limit);
}

std::vector<JobScheduler::Live> JobScheduler::LiveJobs() const {
  absl::MutexLock lock(&mutex_);
  std::vector<Live> out;
  out.reserve(live_.size());
  for (const auto& [key, live] : live_) out.push_back(live);
  return out;
}

void JobScheduler::StartDraining() {
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
  }
  for (const Live& live : LiveJobs()) live->Stop(LiveJob::Why::kDrained);
}

void JobScheduler::SitesSealed(const CalibrationRecord& calibration) {
  std::shared_ptr<const CalibrationSource> moments;
  for (const Live& live : LiveJobs()) {
    if (live->key().project != calibration.project ||
        live->calibration() != calibration.id) {
      continue;
    }
    if (moments == nullptr) moments = SourceOf(context_, calibration);
    live->SitesSealed(moments);
  }
}

std::optional<quant::v1::JobProgress> JobScheduler::ProgressOf(
    const JobKey& key) const {
  absl::MutexLock lock(&mutex_);
  const auto found = live_.find(key);
  if (found == live_.end()) return std::nullopt;
  return found->second->progress();
}

absl::StatusOr<JobRecord> JobScheduler::Cancel(const JobKey& key) {
  const absl::Time now = context_.now();
  absl::StatusOr<JobRecords::Updated> updated = context_.records.Update(
      key, now, [now](JobRecord& job) { return CancelJob(job, now); });
  if (!updated.ok()) return FromRecords(updated.status());
  hub_.OnChange(*updated);
  const JobRecord& job = updated->job;
  if (job.cancel_requested) {
    // One that is about to be here finds it in its record.
    Live live;
    {
      absl::MutexLock lock(&mutex_);
      const auto found = live_.find(key);
      if (found != live_.end()) live = found->second;
    }
    if (live != nullptr) live->Stop(LiveJob::Why::kCancelled);
  } else if (updated->event) {
    Settle(job);
  }
  return job;
}

void JobScheduler::Work() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(this, &JobScheduler::Woken),
                              options_.tick);
      if (stopping_) return;
    }
    LookOnce();
  }
}

void JobScheduler::LookOnce() {
  const absl::Status overdue = FailOverdue();
  if (!overdue.ok()) LogFailure("queue timeouts", overdue);
  StopOverdue();
  StartMore();
  const absl::Time now = absl::Now();
  if (now - last_progress_ < options_.tick) return;
  last_progress_ = now;
  PublishProgress();
  for (const Live& live : LiveJobs()) live->RetryEnd(false);
  if (now - last_hub_tick_ < kHubTick) return;
  last_hub_tick_ = now;
  hub_.Tick(now);
}

void JobScheduler::StartMore() {
  {
    absl::MutexLock lock(&mutex_);
    if (!woken_ && !start_again_) return;
    woken_ = false;
    start_again_ = false;
  }
  while (true) {
    const absl::StatusOr<bool> started = StartOne();
    if (!started.ok()) {
      LogFailure("start", started.status());
      start_again_ = true;
      return;
    }
    if (!*started) return;
  }
}

std::optional<JobScheduler::Places> JobScheduler::FreePlaces() const {
  absl::MutexLock lock(&mutex_);
  Places places;
  std::map<std::string, int64_t> in_project;
  std::map<std::string, int64_t> open_in_project;
  int64_t running = 0;
  for (const auto& [key, live] : live_) {
    if (live->waits() &&
        ++open_in_project[key.project] >= options_.max_open_in_project) {
      places.no_more_open.insert(key.project);
    }
    if (live->parked()) continue;
    ++running;
    if (live->crashes() >= kSuspectCrashes) return std::nullopt;
    if (++in_project[key.project] >= options_.max_running_in_project) {
      places.full.insert(key.project);
    }
  }
  if (draining_ || running >= options_.max_running) return std::nullopt;
  return places;
}

// A parked job does nothing that could be blamed on another.
bool JobScheduler::StartsAlone(const JobRecord& job) const {
  absl::MutexLock lock(&mutex_);
  return job.crashes >= kSuspectCrashes &&
         std::any_of(live_.begin(), live_.end(),
                     [](const auto& one) { return !one.second->parked(); });
}

absl::StatusOr<bool> JobScheduler::StartOne() {
  const std::optional<Places> places = FreePlaces();
  if (!places) return false;
  QS_ASSIGN_OR_RETURN(
      const std::optional<JobRecord> next,
      context_.records.NextQueued(places->full, places->no_more_open));
  // A suspect waits until it is alone, and everybody behind it with it.
  if (!next || StartsAlone(*next)) return false;
  const absl::Time now = context_.now();
  absl::StatusOr<JobRecords::Updated> updated = context_.records.Update(
      next->key, now, [now](JobRecord& job) { return StartJob(job, now); });
  if (ErrorReason(updated.status()) == "BAD_STATE" ||
      absl::IsNotFound(updated.status())) {
    return true;  // it was cancelled meanwhile
  }
  QS_RETURN_IF_ERROR(updated.status());
  hub_.OnChange(*updated);
  Settle(updated->job);
  const Live live = std::make_shared<LiveJob>(
      context_, updated->job,
      LiveJob::Listener{
          [this](const JobRecords::Updated& u) { hub_.OnChange(u); },
          [this](LiveJob& l, const JobRecord& job) { Ended(l, job); },
          [this] { Wake(); }});
  bool drained = false;
  {
    absl::MutexLock lock(&mutex_);
    live_.emplace(live->key(), live);
    drained = draining_;
  }
  if (drained) live->Stop(LiveJob::Why::kDrained);
  live->Start();
  return true;
}

absl::Status JobScheduler::FailOverdue() {
  const absl::Time now = context_.now();
  QS_ASSIGN_OR_RETURN(const std::vector<JobKey> overdue,
                      context_.records.QueueTimedOut(now));
  for (const JobKey& key : overdue) {
    absl::StatusOr<JobRecords::Updated> updated =
        context_.records.Update(key, now, [now](JobRecord& job) {
          if (job.state != JobState::kQueued) return absl::OkStatus();
          return FailJob(
              job, now,
              RpcError(absl::StatusCode::kDeadlineExceeded, "QUEUE_TIMEOUT",
                       "queue_timeout: the job waited for longer"));
        });
    if (absl::IsNotFound(updated.status())) continue;
    QS_RETURN_IF_ERROR(updated.status());
    hub_.OnChange(*updated);
    if (updated->event) Settle(updated->job);
  }
  return absl::OkStatus();
}

void JobScheduler::StopOverdue() {
  const absl::Time now = context_.now();
  for (const Live& live : LiveJobs()) {
    if (now - live->started() >= live->execution_timeout()) {
      live->Stop(LiveJob::Why::kTimedOut);
    }
  }
}

void JobScheduler::PublishProgress() {
  for (const Live& live : LiveJobs()) {
    hub_.OnProgress(live->key(), live->progress());
  }
}

// On the IoPool, from the job itself.
void JobScheduler::Ended(LiveJob& live, const JobRecord& job) {
  Settle(job);
  absl::MutexLock lock(&mutex_);
  live_.erase(live.key());
  woken_ = true;
}

}  // namespace qs

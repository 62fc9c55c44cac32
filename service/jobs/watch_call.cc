// Tested by tests/service/jobs/job_service_test.cc.
#include "service/jobs/watch_call.h"

#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "service/jobs/watch_backlog.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

class WatchCall final : public WatchReactor, public JobWatcher {
 public:
  static WatchCall* New(WatchContext& context,
                        std::unique_ptr<ServedCall> served,
                        const absl::StatusOr<JobKey>& key,
                        int64_t from_revision) {
    const auto made = std::make_shared<WatchCall>(context, std::move(served),
                                                  key.ok() ? *key : JobKey());
    made->self_ = made;
    if (key.ok()) {
      made->Join(from_revision);
    } else {
      made->Refuse(key.status());
    }
    return made.get();
  }

  WatchCall(WatchContext& context, std::unique_ptr<ServedCall> served,
            JobKey key)
      : context_(context), served_(std::move(served)), key_(std::move(key)) {}

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
    }
    if (!ok) return End(absl::CancelledError("cancelled"));
    Poke();
  }

  // A write in flight is done, in vain, soon.
  void OnCancel() override { End(absl::CancelledError("cancelled")); }

  void OnDone() override {
    context_.hub.Leave(key_, this);
    served_->End(end_status_);
    const std::shared_ptr<WatchCall> last = std::move(self_);
  }

  void Poke() override {
    absl::MutexLock lock(&mutex_);
    WriteNextLocked();
  }

  void Tick(absl::Time now) override {
    absl::MutexLock lock(&mutex_);
    if (!reading_ && !writing_ &&
        now - last_write_ >= context_.bookmark_interval) {
      v1::JobEvent bookmark;
      bookmark.set_revision(cursor_.revision);
      bookmark.mutable_bookmark();
      backlog_.push_back(std::move(bookmark));
    }
    WriteNextLocked();
  }

  // After the write in flight, if there is one.
  void End(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    EndLocked(status);
    if (!writing_ && !reading_) FinishLocked();
  }

 private:
  void Join(int64_t from) {
    // The hub may poke, tick and end this before it has the topic.
    absl::StatusOr<std::shared_ptr<JobTopic>> topic =
        context_.hub.Join(key_, self_);
    if (!topic.ok()) return Refuse(topic.status());
    {
      absl::MutexLock lock(&mutex_);
      topic_ = *std::move(topic);
    }
    if (context_.io.TryRun([self = self_, from] { self->Read(from); })) return;
    Refuse(RetryableError(absl::StatusCode::kResourceExhausted, "SERVER_BUSY",
                          "too many calls wait"));
  }

  // There will be no backlog.
  void Refuse(const absl::Status& status) {
    {
      absl::MutexLock lock(&mutex_);
      reading_ = false;
    }
    End(status);
  }

  // On the IoPool.
  void Read(int64_t from) {
    absl::StatusOr<WatchBacklog> backlog =
        ReadWatchBacklog({[&] { return context_.records.Events(key_, from); },
                          [&] { return context_.records.Get(key_); }},
                         from);
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    if (!backlog.ok()) EndLocked(backlog.status());
    if (ended_) return FinishLocked();
    backlog_ = std::move(backlog->events);
    cursor_ = backlog->cursor;
    WriteNextLocked();
  }

  std::optional<v1::JobEvent> NextLocked()
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (backlog_.empty()) return topic_->Next(&cursor_);
    v1::JobEvent event = std::move(backlog_.front());
    backlog_.pop_front();
    const std::optional<v1::JobProgress> progress = topic_->progress();
    if (event.has_snapshot() && progress &&
        event.snapshot().state() == v1::Job::RUNNING) {
      *event.mutable_snapshot()->mutable_progress() = *progress;
    }
    return event;
  }

  void WriteNextLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (reading_ || writing_) return;
    if (ended_) return FinishLocked();
    std::optional<v1::JobEvent> event = NextLocked();
    if (event) {
      out_ = *std::move(event);
      served_->AddBytes(static_cast<int64_t>(out_.ByteSizeLong()));
      writing_ = true;
      last_write_ = absl::Now();
      return StartWrite(&out_);
    }
    if (!cursor_.ended) return;
    EndLocked(absl::OkStatus());
    FinishLocked();
  }

  void EndLocked(const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_) return;
    ended_ = true;
    end_status_ = status;
  }

  void FinishLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_) return;
    finished_ = true;
    Finish(ToGrpcStatus(end_status_));
  }

  // gRPC's hold on this; a read under way has one of its own.
  std::shared_ptr<WatchCall> self_;
  WatchContext& context_;
  const std::unique_ptr<ServedCall> served_;
  const JobKey key_;
  v1::JobEvent out_;  // while it is written

  absl::Mutex mutex_;
  std::shared_ptr<JobTopic> topic_ ABSL_GUARDED_BY(mutex_);
  bool reading_ ABSL_GUARDED_BY(mutex_) = true;  // the backlog is to come
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<v1::JobEvent> backlog_ ABSL_GUARDED_BY(mutex_);
  WatchCursor cursor_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_write_ ABSL_GUARDED_BY(mutex_) = absl::Now();
  absl::Status end_status_;
};

}  // namespace

WatchReactor* NewWatchCall(WatchContext& context,
                           std::unique_ptr<ServedCall> served,
                           const absl::StatusOr<JobKey>& key,
                           int64_t from_revision) {
  return WatchCall::New(context, std::move(served), key, from_revision);
}

}  // namespace qs

// ReadingCall: a call that streams messages out. The next message is made on
// the IoPool while the last one is sent; no more than those two are in memory.
//
// A class of its own gives Make; everything else is here: who calls, the place
// among the LiveCalls, stalled and cancelled clients, the end.
#ifndef QS_SERVICE_TENSORS_READING_CALL_H_
#define QS_SERVICE_TENSORS_READING_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "service/access/access.h"
#include "service/base/io_pool.h"
#include "service/server/grpc_status.h"
#include "service/server/served_call.h"
#include "service/tensors/live_calls.h"
#include "service/tensors/read_step.h"

namespace qs {

// What a ReadingCall uses; all of it outlives the call.
struct ReadingParts {
  const AccessControl& access;
  IoPool& pool;
  LiveCalls& calls;
};

template <typename Response>
class ReadingCall : public grpc::ServerWriteReactor<Response>, public LiveCall {
 public:
  using Reactor = grpc::ServerWriteReactor<Response>;

  // Hands the call to gRPC, which drives it from now on. Readers may make it.
  template <typename Call>
  static Reactor* Launch(const std::shared_ptr<Call>& call) {
    ReadingCall& base = *call;
    {
      absl::MutexLock lock(&base.mutex_);
      base.self_ = call;
    }
    base.Start();
    return call.get();
  }

  void OnWriteDone(bool ok) final {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) EndLocked(absl::CancelledError("cancelled"));
    SendLocked();
  }

  void OnCancel() final { End(absl::CancelledError("cancelled")); }

  void OnDone() final {
    std::shared_ptr<ReadingCall> self;
    {
      absl::MutexLock lock(&mutex_);
      self = std::move(self_);
      served_.End(status_);
    }
    // Behind the last step, which may use what the service has.
    strand_.Run([self] {
      self->OnGone();
      self->parts_.calls.Remove(self.get());
    });
  }

  // LiveCall. What was not sent is left out.
  void End(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    EndLocked(status);
    // A client that takes nothing takes no status either, and the write in
    // flight would never be done. gRPC runs no reaction inside of this call,
    // and the context is there until OnDone, which takes self_.
    if (writing_ && self_ != nullptr && absl::IsDeadlineExceeded(status)) {
      context_->TryCancel();
    }
  }

  absl::Time waiting_since() const final {
    absl::MutexLock lock(&mutex_);
    return writing_ && !ended_ ? sent_ : absl::InfiniteFuture();
  }

 protected:
  ReadingCall(const char* rpc, grpc::CallbackServerContext* call,
              const ReadingParts& parts)
      : parts_(parts),
        context_(call),
        served_(rpc, *call),
        strand_(parts.pool) {}

  // Makes the next message. On the pool, one at a time. An error ends the call.
  virtual absl::StatusOr<ReadStep> Make(Response* response) = 0;
  // Last, on the pool: gRPC is done with the call. Nothing of the service is
  // used after it.
  virtual void OnGone() {}

  // There may be something, after kWait. From any thread; does not block.
  void Wake() {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(waits_, false)) {
      MakeNextLocked();
    } else {
      woken_ = true;
    }
  }

  // From the first Make on.
  const Caller& caller() const { return caller_; }
  // Of this call, for who must keep it a while; null when gRPC is done with it.
  std::shared_ptr<ReadingCall> Self() const {
    absl::MutexLock lock(&mutex_);
    return self_;
  }

 private:
  void Start() {
    absl::StatusOr<Caller> caller =
        served_.Authorize(parts_.access, *context_, Role::kReader);
    absl::Status status = caller.status();
    if (status.ok()) caller_ = *std::move(caller);
    if (status.ok()) status = parts_.calls.Admit(Self());
    absl::MutexLock lock(&mutex_);
    if (!status.ok()) return EndLocked(status);
    MakeNextLocked();
  }

  void MakeNextLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    strand_.Run([self = self_] { self->MakeNext(); });
  }

  void MakeNext() {
    {
      absl::MutexLock lock(&mutex_);
      if (ended_) return;
      woken_ = false;
    }
    Response response;
    const absl::StatusOr<ReadStep> made = Make(&response);
    absl::MutexLock lock(&mutex_);
    if (!made.ok()) return EndLocked(made.status());
    if (ended_) return;
    if (*made == ReadStep::kNothing || (*made == ReadStep::kWait && woken_)) {
      return MakeNextLocked();
    }
    waits_ = *made == ReadStep::kWait;
    if (waits_) return;
    ready_ = std::move(response);
    last_ = *made == ReadStep::kLast;
    SendLocked();
  }

  void SendLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    if (ended_) return FinishLocked();
    if (!ready_) return;
    sending_ = *std::move(ready_);
    ready_.reset();
    served_.AddBytes(static_cast<int64_t>(sending_.ByteSizeLong()));
    if (last_) {
      ended_ = finished_ = true;
      return this->StartWriteAndFinish(&sending_, grpc::WriteOptions(),
                                       grpc::Status::OK);
    }
    writing_ = true;
    sent_ = absl::Now();
    this->StartWrite(&sending_);
    MakeNextLocked();
  }

  void EndLocked(const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_) return;
    ended_ = true;
    status_ = status;
    if (!writing_) FinishLocked();
  }

  void FinishLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    finished_ = true;
    this->Finish(ToGrpcStatus(status_));
  }

  const ReadingParts parts_;
  grpc::CallbackServerContext* const context_;  // until OnDone
  ServedCall served_;
  Caller caller_;  // before the first step
  IoStrand strand_;

  mutable absl::Mutex mutex_;
  // gRPC's hold on this, until OnDone; steps have their own.
  std::shared_ptr<ReadingCall> self_ ABSL_GUARDED_BY(mutex_);
  std::optional<Response> ready_ ABSL_GUARDED_BY(mutex_);
  bool last_ ABSL_GUARDED_BY(mutex_) = false;  // ready_ is the last one
  Response sending_;                           // gRPC's while writing_
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool waits_ ABSL_GUARDED_BY(mutex_) = false;     // for Wake
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;     // since the last step began
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;     // with status_
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // gRPC was told
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  absl::Time sent_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
};

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_READING_CALL_H_

// SerialCall: a bidirectional call whose messages are worked off one after the
// other, each by a step that may block or go on elsewhere: the next message is
// read when the step is done. Answers go out meanwhile.
//
//   Take(message) ... StepDone(status)   for each message
//   Malformed(status) ... StepDone(status) in place of Take for bytes that are
//                                        no Request
//   Close() ... StepDone(status)         after the half-close, or before the
//                                        call is ended from outside
//   Release(done) ... done()             last, when gRPC is done with the call
//
// Thread: steps run on the strand, one at a time; StepDone, Answer and End from
// any thread. The reactions only note and queue.
#ifndef QS_SERVICE_CALIBRATIONS_SERIAL_CALL_H_
#define QS_SERVICE_CALIBRATIONS_SERIAL_CALL_H_

#include <grpcpp/server_context.h>

#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "service/calibrations/calibration_context.h"
#include "service/server/grpc_status.h"
#include "service/server/message_bytes.h"
#include "service/server/served_call.h"

namespace qs {

template <typename Request, typename Response>
class SerialCall
    : public BytesReactor,
      public LiveCall,
      public std::enable_shared_from_this<SerialCall<Request, Response>> {
 public:
  // gRPC drives `Call`, a SerialCall, from now on.
  template <typename Call>
  static Call* Start(CalibrationContext& context, const char* rpc,
                     grpc::CallbackServerContext* call) {
    auto made = std::make_shared<Call>(context, rpc, call);
    Call* const raw = made.get();
    raw->Begin(std::move(made));
    return raw;
  }

  SerialCall(CalibrationContext& context, const char* rpc,
             grpc::CallbackServerContext* call)
      : context_(context),
        served_(rpc, *call),
        call_(call),
        strand_(std::make_shared<IoStrand>(context.pool)) {}

  void OnReadDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    if (ended_) return;
    if (!ok && call_->IsCancelled()) return EndLocked(Cancelled());
    last_message_ = absl::Now();
    if (busy_) return;  // closing: what comes now is not taken
    if (ok) {
      served_.AddBytes(static_cast<int64_t>(in_.Length()));
      return RunLocked([](SerialCall& self) { self.TakeBytes(); });
    }
    closing_ = true;
    RunLocked([](SerialCall& self) { self.Close(); });
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    last_message_ = absl::Now();
    if (!ok) {
      responses_.clear();
      EndLocked(Cancelled());
    }
    SendLocked();
    ReadLocked();
  }

  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    responses_.clear();
    EndLocked(Cancelled());
  }

  void OnDone() override {
    // Until the lock is free again.
    const std::shared_ptr<SerialCall> self = Self();
    absl::MutexLock lock(&mutex_);
    served_.End(end_status_);
    done_ = true;
    if (!busy_) ReleaseLocked();
  }

  // LiveCall.

  void End(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    if (ended_ || closing_) return;
    closing_ = true;
    close_status_ = status;
    if (!busy_) RunLocked([](SerialCall& self) { self.Close(); });
  }

  absl::Time waiting_since() const override {
    absl::MutexLock lock(&mutex_);
    return busy_ || ended_ ? absl::InfiniteFuture() : last_message_;
  }

 protected:
  virtual void Take(const Request& request) = 0;
  virtual void Malformed(const absl::Status& status) { StepDone(status); }
  virtual void Close() = 0;
  // `done` holds this; what the call's context has is not used behind it.
  virtual void Release(std::function<void()> done) = 0;

  // The step is done; an error ends the call.
  void StepDone(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    busy_ = false;
    last_message_ = absl::Now();
    const bool was_close = std::exchange(in_close_, false);
    if (done_) return ReleaseLocked();
    if (ended_) return;
    if (was_close) {
      return EndLocked(close_status_.ok() ? status : close_status_);
    }
    if (!status.ok()) return EndLocked(status);
    if (closing_) return RunLocked([](SerialCall& self) { self.Close(); });
    ReadLocked();
  }

  // `replaces`: answers that were not sent yet say less.
  void Answer(Response response, bool replaces) {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    if (replaces) responses_.clear();
    responses_.push_back(std::move(response));
    SendLocked();
  }

  // The rest of a step, on the strand again.
  template <typename Step>
  void Continue(Step step) {
    strand_->Run(
        [self = Self(), strand = strand_, step = std::move(step)] { step(); });
  }
  std::shared_ptr<SerialCall> Self() { return this->shared_from_this(); }

  CalibrationContext& context() { return context_; }
  const Caller& caller() const { return caller_; }

 private:
  // Answers that may wait for the client before its messages do.
  static constexpr size_t kMaxResponses = 16;

  static absl::Status Cancelled() { return absl::CancelledError("cancelled"); }

  absl::Status Admit(const std::shared_ptr<SerialCall>& self) {
    absl::StatusOr<Caller> found =
        served_.Authorize(context_.access, *call_, Role::kUser);
    if (!found.ok()) return found.status();
    caller_ = *std::move(found);
    return context_.calls.Admit(self);
  }

  void Begin(std::shared_ptr<SerialCall> self) {
    const absl::Status admitted = Admit(self);
    absl::MutexLock lock(&mutex_);
    self_ = std::move(self);
    if (!admitted.ok()) return EndLocked(admitted);
    ReadLocked();
  }

  // A step: what was read.
  void TakeBytes() {
    const absl::Status parsed = ParseMessage(++messages_, &in_, &request_);
    parsed.ok() ? Take(request_) : Malformed(parsed);
  }

  // A step of this, which is then busy until StepDone.
  template <typename Step>
  void RunLocked(Step step) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    busy_ = true;
    in_close_ = closing_;
    strand_->Run([self = self_, strand = strand_, step] { step(*self); });
  }

  void ReadLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_ || closing_ || busy_ || reading_ ||
        responses_.size() >= kMaxResponses) {
      return;
    }
    reading_ = true;
    StartRead(&in_);
  }

  void SendLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    if (!responses_.empty()) {
      out_ = SerializeMessage(responses_.front());
      responses_.pop_front();
      served_.AddBytes(static_cast<int64_t>(out_.Length()));
      writing_ = true;
      return StartWrite(&out_);
    }
    if (!ended_) return;
    finished_ = true;
    Finish(ToGrpcStatus(end_status_));
  }

  // The first status counts. It is sent behind the answers.
  void EndLocked(const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_) return;
    ended_ = true;
    end_status_ = status;
    SendLocked();
  }

  void ReleaseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    strand_->Run([self = std::exchange(self_, nullptr), strand = strand_] {
      if (self == nullptr) return;
      self->Release([self] { self->context_.calls.Remove(self.get()); });
    });
  }

  CalibrationContext& context_;
  ServedCall served_;
  grpc::CallbackServerContext* const call_;  // until OnDone
  const std::shared_ptr<IoStrand> strand_;
  Caller caller_;         // before the first step
  grpc::ByteBuffer in_;   // of gRPC while reading_, of the step while busy_
  int64_t messages_ = 0;  // of the steps
  Request request_;       // of the steps
  grpc::ByteBuffer out_;  // of gRPC while writing_

  mutable absl::Mutex mutex_;
  // gRPC's hold on this, until it is released; steps have their own.
  std::shared_ptr<SerialCall> self_ ABSL_GUARDED_BY(mutex_);
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;      // a step runs
  bool in_close_ ABSL_GUARDED_BY(mutex_) = false;  // which is Close
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;   // no message is taken
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;     // with end_status_
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // gRPC was told
  bool done_ ABSL_GUARDED_BY(mutex_) = false;      // gRPC is done
  absl::Status close_status_ ABSL_GUARDED_BY(mutex_);
  absl::Status end_status_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_message_ ABSL_GUARDED_BY(mutex_) = absl::Now();
  std::deque<Response> responses_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_SERIAL_CALL_H_

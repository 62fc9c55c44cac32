// QuantizeSession: one Quantize stream between its transport, the workers and
// the byte budget. StreamInput says what a request means, StreamOutput what a
// result looks like; the session decides when to read, write, compute and end.
//
// Life: the transport and every queued or running task hold it. It ends once,
// by the first of: everything sent, an error, a cancelled call, a stall, the
// drain. After that workers stop at the next tile, and memory is freed as the
// last task lets go.
//
// Locks: input_mutex_ is held while a request is taken in (at most one copy of
// a chunk), mutex_ for bookkeeping; in that order; neither while a reservation
// is given back or a message is written.
// Thread: thread-safe.
#ifndef QS_SERVICE_STREAM_QUANTIZE_SESSION_H_
#define QS_SERVICE_STREAM_QUANTIZE_SESSION_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "service/stream/quantize_context.h"
#include "service/stream/stream_input.h"
#include "service/stream/stream_output.h"
#include "service/stream/tensor_job.h"
#include "service/stream/wire.h"
#include "service/stream/worker_pool.h"

namespace qs {

// What a session asks of its call. None may block or call back at once.
class SessionTransport {
 public:
  virtual ~SessionTransport() = default;
  // Leads to OnRequest or OnReadEnd. One at a time; may come from within
  // OnRequest.
  virtual void StartRead() = 0;
  // Leads to OnWriteDone. One at a time.
  virtual void StartWrite(OutMessage message) = 0;
  // Cuts the call even if the client takes no more bytes; what is in flight
  // then completes. Finish follows.
  virtual void Abort(const absl::Status& status) = 0;
  // The transport is not used after it, and may be gone.
  virtual void Finish(const absl::Status& status) = 0;
};

class QuantizeSession final
    : public std::enable_shared_from_this<QuantizeSession>,
      private StreamInput::Host {
 public:
  using Clock = std::chrono::steady_clock;

  // Admits the stream and reads its first message, or finishes it at once.
  // `transport` must live until it was told to Finish.
  static std::shared_ptr<QuantizeSession> Start(QuantizeContext& context,
                                                SessionTransport& transport);
  ~QuantizeSession() override;

  // From the transport.
  // `owner` keeps the slices; null when nobody does after the call.
  void OnRequest(std::span<const ByteSpan> slices,
                 std::shared_ptr<const void> owner = nullptr);
  void OnReadEnd();
  void OnWriteDone(bool ok);
  void OnCancel();

  // Ends the stream once a write in flight is done. The first call counts.
  void End(const absl::Status& status);
  // From the context: end now, also when the client takes no bytes.
  void Abort(const absl::Status& status);
  void EndIfStalled(Clock::time_point now);

 private:
  struct Emission {  // computed, not yet cut into frames
    std::shared_ptr<TensorJob> job;
    bool finished = false;  // else whole frames of its first output
  };
  struct Outgoing {
    OutMessage message;
    // With a tensor's last message: dropped, and so the memory given back,
    // when that message was written.
    std::shared_ptr<TensorJob> done_with;
  };

  QuantizeSession(QuantizeContext& context, SessionTransport& transport);

  // StreamInput::Host; input_mutex_ is held.
  void Accepted(const quant::v1::QuantizeConfig& config, const QuantSpec& spec,
                const std::vector<PlanOverride>& overrides) override;
  void TensorBegun() override;
  void TileDue(std::shared_ptr<TensorJob> job, TensorJob::Due due) override;
  void SiteWorkDue(std::shared_ptr<SiteJob> site) override;
  void GroupDue(std::shared_ptr<GroupJob> group) override;
  std::function<void(double done)> GroupProgress(int64_t handle) override;
  ByteBudget::Granted WhenRoom() override;

  bool TakesNoInput() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(input_mutex_) {
    return cancelled_ || input_failed_;
  }
  // Starts the next read before a message is taken in; false when that has to
  // wait for ContinueReading.
  bool ReadAhead();
  // Reads on, unless the stream is parked, ended or ahead of the workers.
  void ContinueReading();
  void OnRoom(Reservation reservation);

  // Tasks.
  void RunStep(const std::shared_ptr<TensorJob>& job, TensorJob::Due due,
               Backend& backend);
  void StartSecondRound(const std::shared_ptr<TensorJob>& job,
                        Backend& backend);
  void SubmitWork(WorkerPool::Task task, const DeviceBytes& device_bytes);
  void SolveGroup(GroupJob& group, Backend& backend);
  void FinishTensor(const std::shared_ptr<TensorJob>& job, Backend& backend);
  void Emit(Emission emission);
  void SubmitEmit();
  // Cuts one frame or none: more than a few at once would not let streams take
  // turns. False: there is no more to emit.
  bool EmitNext();
  void TileLeft();

  void Send(Outgoing outgoing);
  // Unless others wait to be written: news that is late is none. The end of it
  // always.
  void SendProgress(const quant::v1::QuantizeResponse& response);
  // Writes the next message unless one is being written; finishes the call
  // when there is nothing left to do.
  void Pump();
  void QueueSummaryIfDone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void FinishIfIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool StalledAt(Clock::time_point now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  QuantizeContext& context_;
  SessionTransport& transport_;
  const Clock::time_point started_ = Clock::now();
  const std::shared_ptr<WorkerPool::Lane> tiles_;
  // A lane of its own, so that results go out while tiles still queue.
  const std::shared_ptr<WorkerPool::Lane> emits_;
  // A stream does not read on while so many of its tiles wait or run.
  const int64_t max_tiles_queued_;
  bool admitted_ = false;
  // Set when the stream ends; tiles that run see it.
  std::atomic<bool> cancelled_{false};

  absl::Mutex input_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  StreamInput input_ ABSL_GUARDED_BY(input_mutex_);
  int64_t messages_ ABSL_GUARDED_BY(input_mutex_) = 0;
  ParsedRequest request_ ABSL_GUARDED_BY(input_mutex_);
  // What was read ahead of an error must not end the stream with another one.
  bool input_failed_ ABSL_GUARDED_BY(input_mutex_) = false;

  // Set before the first tensor, by rule: send floats, read back from this
  // form. Empty: packed.
  std::vector<QuantSpec> dequantized_as_;

  StreamOutput output_;  // whoever emits; the last emit precedes the summary

  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_status_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool aborting_ ABSL_GUARDED_BY(mutex_) = false;
  bool half_closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool summary_queued_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool read_held_ ABSL_GUARDED_BY(mutex_) = false;  // ahead of the workers
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t tiles_queued_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t tensors_pending_ ABSL_GUARDED_BY(mutex_) = 0;  // no report queued yet
  std::deque<Emission> to_emit_ ABSL_GUARDED_BY(mutex_);
  std::deque<Outgoing> to_write_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<TensorJob> writing_done_with_ ABSL_GUARDED_BY(mutex_);
  // Since when only the client can make progress.
  Clock::time_point read_since_ ABSL_GUARDED_BY(mutex_);
  Clock::time_point write_since_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_QUANTIZE_SESSION_H_

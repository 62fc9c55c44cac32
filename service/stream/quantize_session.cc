// Tested by tests/service/quantize_stream_test.cc.
#include "service/stream/quantize_session.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "service/server/error.h"
#include "service/server/message_bytes.h"
#include "service/server/spec_convert.h"
#include "service/stream/group_progress.h"
#include "service/stream/input_errors.h"

namespace qs {
namespace {

// Enough that no worker waits for bytes, and few enough that a tile's bytes are
// still in a cache when it runs, and that their memory is soon used again.
int64_t MaxTilesQueued(int workers) {
  return std::clamp<int64_t>(2 * workers, 4, TensorJob::kMaxTilesQueued);
}

}  // namespace

std::shared_ptr<QuantizeSession> QuantizeSession::Start(
    QuantizeContext& context, SessionTransport& transport) {
  const std::shared_ptr<QuantizeSession> session(
      new QuantizeSession(context, transport));
  const absl::Status admitted = context.Admit(session);
  session->admitted_ = admitted.ok();
  if (admitted.ok()) {
    session->ContinueReading();
  } else {
    session->End(admitted);
  }
  return session;
}

QuantizeSession::QuantizeSession(QuantizeContext& context,
                                 SessionTransport& transport)
    : context_(context),
      transport_(transport),
      tiles_(context.pool().NewLane()),
      emits_(context.pool().NewLane()),
      max_tiles_queued_(MaxTilesQueued(context.pool().threads())),
      input_(*this, context.limits(), context.budget(), context.pool().kinds(),
             cancelled_) {}

QuantizeSession::~QuantizeSession() {
  if (admitted_) context_.Remove(this);
}

// ------------------------------------------------------------------- reading

void QuantizeSession::OnRequest(std::span<const ByteSpan> slices,
                                std::shared_ptr<const void> owner) {
  {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
  }
  absl::Status status;
  bool reads_on = false;
  {
    absl::MutexLock lock(&input_mutex_);
    if (TakesNoInput()) return;
    ++messages_;
    const bool parsed = ParseRequest(slices, &request_);
    // The next message may travel while this one is copied: it is taken in
    // after this one, by the lock. A chunk never parks the stream.
    reads_on = parsed && request_.is_chunk && ReadAhead();
    request_.chunk.owner = std::move(owner);
    status = parsed ? input_.OnRequest(request_)
                    : MalformedMessageError(messages_, "QuantizeRequest");
    request_.chunk.owner = nullptr;
    input_failed_ = !status.ok();
    if (status.ok() && input_.parked()) return;
  }
  if (!status.ok()) return End(status);
  if (!reads_on) ContinueReading();
}

bool QuantizeSession::ReadAhead() {
  absl::MutexLock lock(&mutex_);
  if (ended_ || tiles_queued_ >= max_tiles_queued_) return false;
  reading_ = true;
  read_since_ = Clock::now();
  transport_.StartRead();
  return true;
}

void QuantizeSession::OnReadEnd() {
  absl::Status status;
  {
    absl::MutexLock lock(&input_mutex_);
    if (TakesNoInput()) return;
    status = input_.OnHalfClose();
    input_failed_ = !status.ok();
  }
  if (!status.ok()) return End(status);
  {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    half_closed_ = true;
    QueueSummaryIfDone();
  }
  Pump();
}

void QuantizeSession::ContinueReading() {
  absl::MutexLock lock(&mutex_);
  if (ended_) return;
  read_held_ = tiles_queued_ >= max_tiles_queued_;
  if (read_held_) return;
  reading_ = true;
  read_since_ = Clock::now();
  transport_.StartRead();
}

ByteBudget::Granted QuantizeSession::WhenRoom() {
  return [weak = weak_from_this()](Reservation reservation) {
    if (const auto session = weak.lock()) {
      session->OnRoom(std::move(reservation));
    }
  };
}

void QuantizeSession::OnRoom(Reservation reservation) {
  absl::Status status;
  {
    absl::MutexLock lock(&input_mutex_);
    // An ended stream has left the line; the bytes go to the next one.
    if (TakesNoInput()) return;
    status = input_.OnRoom(std::move(reservation));
    input_failed_ = !status.ok();
  }
  if (!status.ok()) return End(status);
  ContinueReading();
}

void QuantizeSession::Accepted(const quant::v1::QuantizeConfig& config,
                               const QuantSpec& spec,
                               const std::vector<PlanOverride>& overrides) {
  // Before the first tensor, so nobody works or emits yet.
  if (config.skip_digest()) output_.LeaveOutDigest();
  if (config.view() == quant::v1::QuantizeConfig::DEQUANTIZED) {
    dequantized_as_ = SpecsByRule(spec, overrides);
  }
  quant::v1::QuantizeResponse response;
  *response.mutable_accepted()->mutable_resolved() = SpecToProto(spec);
  *response.mutable_accepted()->mutable_overrides() =
      OverridesToProto(overrides);
  *response.mutable_accepted()->mutable_limits() = context_.limits();
  Send({EncodeResponse(response), nullptr});
}

void QuantizeSession::TensorBegun() {
  absl::MutexLock lock(&mutex_);
  ++tensors_pending_;
}

// ----------------------------------------------------------------- computing

void QuantizeSession::SubmitWork(WorkerPool::Task task,
                                 const DeviceBytes& device_bytes) {
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    ++tiles_queued_;
  }
  context_.pool().Submit(tiles_, std::move(task), device_bytes);
}

void QuantizeSession::TileDue(std::shared_ptr<TensorJob> job,
                              TensorJob::Due due) {
  const DeviceBytes device_bytes = job->device_bytes();
  SubmitWork(
      [self = shared_from_this(), job = std::move(job),
       due = std::move(due)](Backend& backend) mutable {
        self->RunStep(job, std::move(due), backend);
      },
      device_bytes);
}

void QuantizeSession::SiteWorkDue(std::shared_ptr<SiteJob> site) {
  const DeviceBytes device_bytes = site->device_bytes();
  SubmitWork(
      [self = shared_from_this(), site = std::move(site)](Backend& backend) {
        const absl::Status status = site->Work(backend);
        if (!status.ok()) return self->End(ComputeError(status));
        self->TileLeft();
      },
      device_bytes);
}

void QuantizeSession::GroupDue(std::shared_ptr<GroupJob> group) {
  const DeviceBytes device_bytes = group->solve_device_bytes();
  SubmitWork([self = shared_from_this(), group = std::move(group)](
                 Backend& backend) { self->SolveGroup(*group, backend); },
             device_bytes);
}

// Called by work of this session only, which holds it.
std::function<void(double)> QuantizeSession::GroupProgress(int64_t handle) {
  const auto progress = std::make_shared<qs::GroupProgress>(handle);
  return [this, progress](double done) {
    const auto response = progress->Next(done, absl::Now());
    if (response) SendProgress(*response);
  };
}

void QuantizeSession::SolveGroup(GroupJob& group, Backend& backend) {
  if (cancelled_) return;
  const absl::Status status = group.Solve(backend);
  if (!status.ok()) return End(ComputeError(status));
  for (const std::shared_ptr<TensorJob>& job : group.TakeWaiting()) {
    while (std::optional<TensorJob::Due> tile = job->NextDueTile()) {
      TileDue(job, *std::move(tile));
    }
  }
  TileLeft();
}

void QuantizeSession::RunStep(const std::shared_ptr<TensorJob>& job,
                              TensorJob::Due due, Backend& backend) {
  if (cancelled_) return;
  const TensorJob::Outcome outcome = job->RunStep(std::move(due), backend);
  if (!outcome.error.ok()) return End(ComputeError(outcome.error));
  if (outcome.frame_due) Emit({job});
  if (outcome.round_done) StartSecondRound(job, backend);
  if (outcome.all_done) FinishTensor(job, backend);
  TileLeft();
}

// Bounded by the tensor's own tiles; nothing is read on while many queue.
void QuantizeSession::StartSecondRound(const std::shared_ptr<TensorJob>& job,
                                       Backend& backend) {
  const absl::Status status = job->BetweenRounds(backend);
  if (!status.ok()) return End(ComputeError(status));
  for (int64_t tile = 0; tile < job->num_tiles(); ++tile) {
    TileDue(job, {job->num_tiles() + tile, {}});
  }
}

void QuantizeSession::TileLeft() {
  absl::MutexLock lock(&mutex_);
  --tiles_queued_;
  read_since_ = Clock::now();
  if (ended_ || !read_held_ || tiles_queued_ > max_tiles_queued_ / 2) return;
  read_held_ = false;
  reading_ = true;
  transport_.StartRead();
}

void QuantizeSession::FinishTensor(const std::shared_ptr<TensorJob>& job,
                                   Backend& backend) {
  const QuantSpec* const floats_of =
      dequantized_as_.empty()
          ? nullptr
          : &dequantized_as_[static_cast<size_t>(job->rule())];
  const absl::Status status = job->Finish(backend, floats_of);
  if (!status.ok()) return End(ComputeError(status));
  Emit({job, /*finished=*/true});
}

void QuantizeSession::Emit(Emission emission) {
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    to_emit_.push_back(std::move(emission));
    if (to_emit_.size() > 1) return;  // somebody emits
  }
  // By the worker that has the bytes in its cache.
  if (EmitNext() && EmitNext()) SubmitEmit();
}

void QuantizeSession::SubmitEmit() {
  context_.pool().Submit(emits_, [self = shared_from_this()](Backend&) {
    if (self->EmitNext()) self->SubmitEmit();
  });
}

bool QuantizeSession::EmitNext() {
  Emission emission;
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return false;
    emission = to_emit_.front();
  }
  StreamOutput::Step step;
  bool sends = true;
  if (emission.finished) {
    step = output_.Next(emission.job);
  } else if (auto frame = output_.Early(emission.job)) {
    step.message = *std::move(frame);
  } else {
    sends = false;
  }
  bool more = true;
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return false;
    if (sends) {
      to_write_.push_back({std::move(step.message),
                           step.report ? std::move(emission.job) : nullptr});
    }
    if (step.report || !sends) {
      to_emit_.pop_front();
      more = !to_emit_.empty();
    }
    if (step.report) {
      --tensors_pending_;
      QueueSummaryIfDone();
    }
  }
  if (sends) Pump();
  return more;
}

// ------------------------------------------------------------------- writing

void QuantizeSession::QueueSummaryIfDone() {
  if (!half_closed_ || tensors_pending_ > 0 || summary_queued_ || ended_) {
    return;
  }
  summary_queued_ = true;
  const std::chrono::duration<double> elapsed = Clock::now() - started_;
  to_write_.push_back({output_.Summary(elapsed.count()), nullptr});
}

void QuantizeSession::Send(Outgoing outgoing) {
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    to_write_.push_back(std::move(outgoing));
  }
  Pump();
}

void QuantizeSession::SendProgress(
    const quant::v1::QuantizeResponse& response) {
  if (response.progress().done() < 1) {
    absl::MutexLock lock(&mutex_);
    if (writing_ || !to_write_.empty()) return;
  }
  Send({EncodeResponse(response), nullptr});
}

void QuantizeSession::Pump() {
  OutMessage message;
  {
    absl::MutexLock lock(&mutex_);
    if (writing_ || ended_) return;
    if (to_write_.empty()) {
      if (!summary_queued_) return;
      ended_ = true;
      return FinishIfIdle();
    }
    message = std::move(to_write_.front().message);
    writing_done_with_ = std::move(to_write_.front().done_with);
    to_write_.pop_front();
    writing_ = true;
    write_since_ = Clock::now();
  }
  transport_.StartWrite(std::move(message));
}

void QuantizeSession::OnWriteDone(bool ok) {
  std::shared_ptr<TensorJob> done_with;  // dropped without the lock
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    done_with = std::move(writing_done_with_);
    read_since_ = Clock::now();
    FinishIfIdle();
  }
  done_with.reset();
  if (!ok) return OnCancel();
  Pump();
}

// -------------------------------------------------------------------- ending

void QuantizeSession::OnCancel() { End(absl::CancelledError("cancelled")); }

void QuantizeSession::End(const absl::Status& status) {
  // Freed without the locks, since that may wake other streams.
  std::deque<Emission> to_emit;
  std::deque<Outgoing> to_write;
  StreamInput::Held held;
  std::optional<ByteBudget::Ticket> ticket;
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    ended_ = true;
    cancelled_ = true;
    end_status_ = status;
    to_emit.swap(to_emit_);
    to_write.swap(to_write_);
    FinishIfIdle();
  }
  {
    absl::MutexLock lock(&input_mutex_);
    held = input_.TakeJobs();
    ticket = input_.TakeTicket();
  }
  if (ticket) context_.budget().Abandon(*ticket);
  context_.pool().Drop(tiles_);
  context_.pool().Drop(emits_);
}

void QuantizeSession::FinishIfIdle() {
  // A write in flight completes first: gRPC allows no Finish beside it.
  if (!ended_ || finished_ || writing_ || aborting_) return;
  finished_ = true;
  transport_.Finish(end_status_);
}

void QuantizeSession::Abort(const absl::Status& status) {
  End(status);
  {
    absl::MutexLock lock(&mutex_);
    if (finished_ || aborting_) return;
    aborting_ = true;
  }
  transport_.Abort(status);
  absl::MutexLock lock(&mutex_);
  aborting_ = false;
  FinishIfIdle();
}

bool QuantizeSession::StalledAt(Clock::time_point now) const {
  const auto limit = absl::ToChronoNanoseconds(context_.stream_idle_timeout());
  if (finished_) return false;
  if (writing_) return now - write_since_ > limit;
  const bool only_reading = reading_ && !ended_ && tiles_queued_ == 0 &&
                            to_emit_.empty() && to_write_.empty();
  return only_reading && now - read_since_ > limit;
}

void QuantizeSession::EndIfStalled(Clock::time_point now) {
  {
    absl::MutexLock lock(&mutex_);
    if (!StalledAt(now)) return;
  }
  Abort(RpcError(
      absl::StatusCode::kDeadlineExceeded, "STREAM_STALLED",
      absl::StrCat("stream: the client neither sent nor took a message for ",
                   absl::FormatDuration(context_.stream_idle_timeout()))));
}

}  // namespace qs

// Tested by tests/service/checkpoint_run_test.cc.
#include "service/run/checkpoint_run.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/status_macros.h"
#include "service/checkpoint/checkpoint_writer.h"
#include "service/checkpoint/fault.h"
#include "service/run/batch_queue.h"
#include "service/run/batch_run.h"
#include "service/run/run_plan.h"
#include "service/run/unwritten_shards.h"
#include "service/server/error.h"
#include "service/server/proto_convert.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

// Batches in flight beyond one a worker, so that no worker waits for a batch's
// last step.
constexpr int kBatchesAhead = 2;

absl::Status NeedFits(const std::string& name, int64_t bytes,
                      int64_t capacity) {
  if (bytes <= capacity) return absl::OkStatus();
  return RpcError(absl::StatusCode::kFailedPrecondition, "NO_WORKER_FITS",
                  absl::StrCat(name, ": got a need of ", bytes,
                               " bytes of memory at once, allowed ", capacity,
                               ", the server's --memory-budget"),
                  {{"group", name},
                   {"needed", absl::StrCat(bytes)},
                   {"allowed", absl::StrCat(capacity)}});
}

size_t OpenCount(const CalibrationSource& moments) {
  return static_cast<size_t>(
      std::count_if(moments.sites().begin(), moments.sites().end(),
                    [](const CalibrationSite& site) { return site.open; }));
}

class Run final : public CheckpointRun,
                  public std::enable_shared_from_this<Run> {
 public:
  explicit Run(std::unique_ptr<const RunPlan> plan)
      : plan_(std::move(plan)),
        least_open_(plan_->spec.moments == nullptr
                        ? 0
                        : OpenCount(*plan_->spec.moments)) {}

  const CheckpointRunSpec& spec() const override { return plan_->spec; }
  const v1::PlanSummary& plan() const override { return plan_->answer.summary; }
  const RunSize& size() const override { return plan_->size; }
  std::vector<v1::Finding> findings() const override {
    return plan_->answer.findings;
  }
  std::vector<size_t> open_sites() const override {
    return plan_->work->OpenSites();
  }
  std::vector<std::vector<size_t>> first_sites() const override {
    return plan_->work->FirstSites();
  }
  const std::string& fingerprint() const override { return plan_->fingerprint; }

  void Start(const RunPlace& place, const std::set<int>& committed,
             CheckpointRunObserver& observer,
             std::function<void(absl::Status)> done) override;
  void SitesSealed(std::shared_ptr<const CalibrationSource> moments) override;
  void Stop() override { Fail(absl::CancelledError("stopped")); }

 private:
  bool writes() const { return !plan_->spec.output.empty(); }
  size_t shards() const { return static_cast<size_t>(plan_->size.shards); }

  // On the strand.
  void Begin(const std::set<int>& committed);
  absl::Status Prepare(const std::set<int>& committed);
  void WriteShard(int shard);
  absl::Status WriteShardNow(int shard);
  void Wait();
  void Look();
  absl::Status Renew(std::shared_ptr<const CalibrationSource> moments);
  void Park();
  void TellWaiting();
  void End();

  // From workers, and from whoever gives memory back.
  void StartBatches();
  std::optional<BatchQueue::Batch> NextBatch() ABSL_LOCKS_EXCLUDED(mutex_);
  void RunBatch(const BatchQueue::Batch& batch, Reservation reservation);
  void BatchDone(const absl::Status& status);
  absl::Status TakeTensor(size_t tensor, QuantizedTensor result);
  absl::Status Keep(size_t tensor, QuantizedTensor result);
  absl::Status SpillHeld();
  bool WaitsForMemory() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return ticket_.has_value();
  }
  bool IsIdle() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return waits_ && !queue_.has_next() && !starting_ && in_flight_ == 0;
  }
  void ParkIfIdle();

  void Fail(const absl::Status& status);
  // The run ends when nothing holds it: batches, a place in the line for
  // memory, shards that are to be written, the beginning, open sites.
  void Hold(int count = 1) { holds_ += count; }
  void LetGo();

  const std::unique_ptr<const RunPlan> plan_;
  std::optional<RunPlace> place_;
  CheckpointRunObserver* observer_ = nullptr;
  std::function<void(absl::Status)> done_;
  std::shared_ptr<WorkerPool::Lane> lane_;
  std::optional<IoStrand> strand_;
  std::optional<BatchRun::Host> host_;
  std::optional<CheckpointWriter> writer_;  // the strand's
  // Since Prepare, which is before any batch.
  std::optional<UnwrittenShards> unwritten_;

  std::atomic<bool> cancelled_ = false;
  std::atomic<int> holds_ = 0;

  absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  BatchQueue queue_ ABSL_GUARDED_BY(mutex_);
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  bool starting_ ABSL_GUARDED_BY(mutex_) = false;  // somebody starts a batch
  std::optional<ByteBudget::Ticket> ticket_ ABSL_GUARDED_BY(mutex_);

  // Begin has made the queue; batches of it wait, and hold the run; nothing
  // else is left to do.
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
  bool waits_ ABSL_GUARDED_BY(mutex_) = false;
  bool parked_ ABSL_GUARDED_BY(mutex_) = false;
  // What was sealed and is yet to be looked at; Look is on the strand.
  std::shared_ptr<const CalibrationSource> newest_ ABSL_GUARDED_BY(mutex_);
  bool looking_ ABSL_GUARDED_BY(mutex_) = false;
  size_t least_open_ ABSL_GUARDED_BY(mutex_);  // sites of the newest
};

void Run::Start(const RunPlace& place, const std::set<int>& committed,
                CheckpointRunObserver& observer,
                std::function<void(absl::Status)> done) {
  place_.emplace(place);
  observer_ = &observer;
  done_ = std::move(done);
  lane_ = place.pool.NewLane();
  strand_.emplace(place.io);
  host_.emplace(
      BatchRun::Host{place.pool, lane_, *plan_, cancelled_,
                     [this](int64_t bytes) { observer_->OnBytes(bytes); },
                     [this](size_t tensor, QuantizedTensor result) {
                       return TakeTensor(tensor, std::move(result));
                     }});
  Hold();
  strand_->Run(
      [self = shared_from_this(), committed] { self->Begin(committed); });
}

void Run::Begin(const std::set<int>& committed) {
  const absl::Status status = Prepare(committed);
  if (!status.ok()) Fail(status);
  Wait();
  StartBatches();
  ParkIfIdle();
  LetGo();
}

absl::Status Run::Prepare(const std::set<int>& committed) {
  std::vector<bool> is_committed(shards());
  if (writes()) {
    std::error_code error;
    std::filesystem::create_directories(plan_->spec.output, error);
    if (error) {
      return OutputFault(
          PosixError(error.value(), "create", plan_->spec.output));
    }
    writer_.emplace(
        *plan_->shards, plan_->answer, plan_->totals.fold_only,
        plan_->spec.output,
        plan_->shards->is_directory()
            ? ""
            : std::filesystem::path(plan_->spec.input).filename().string());
    for (const int shard : committed) {
      QS_RETURN_IF_ERROR(writer_->AdoptShard(shard));
      is_committed[static_cast<size_t>(shard)] = true;
    }
  }
  std::vector<int64_t> missing(shards());
  std::vector<bool> left(plan_->input->tensors().size());
  for (const WorkBatch& batch : plan_->work->batches) {
    for (const BatchTensor& tensor : batch.tensors) {
      const auto shard =
          static_cast<size_t>(plan_->input->tensors()[tensor.tensor].shard);
      if (is_committed[shard]) continue;
      ++missing[shard];
      left[tensor.tensor] = true;
    }
  }
  std::vector<int> complete;
  for (size_t s = 0; s < shards(); ++s) {
    if (missing[s] == 0 && !is_committed[s]) {
      complete.push_back(static_cast<int>(s));
    }
  }
  unwritten_.emplace(plan_->spec.output, place_->budget, std::move(missing));
  {
    absl::MutexLock lock(&mutex_);
    queue_ = BatchQueue(plan_->work, std::move(left));
  }
  for (const int shard : complete) WriteShard(shard);
  return absl::OkStatus();
}

// One at a time: who finds somebody starting leaves it to that one.
void Run::StartBatches() {
  while (const std::optional<BatchQueue::Batch> batch = NextBatch()) {
    absl::StatusOr<int64_t> bytes =
        plan_->BytesOf(**batch, place_->pool.threads());
    absl::Status fits = bytes.status();
    if (bytes.ok()) {
      fits = NeedFits((**batch).name, *bytes, place_->budget.capacity());
    }
    if (!fits.ok()) {
      Fail(fits);
      absl::MutexLock lock(&mutex_);
      starting_ = false;
      return;
    }
    Hold();
    std::optional<Reservation> room;
    {
      // Held until the ticket is kept, which the callback takes away.
      absl::MutexLock lock(&mutex_);
      ByteBudget::Ticket ticket;
      room = place_->budget.ReserveOrWait(
          *bytes,
          [self = shared_from_this(), b = *batch](Reservation granted) {
            {
              absl::MutexLock inner(&self->mutex_);
              self->ticket_.reset();
            }
            self->RunBatch(b, std::move(granted));
            self->StartBatches();
          },
          &ticket);
      if (!room) ticket_ = ticket;
    }
    if (!room) {
      const absl::Status spilled = SpillHeld();
      if (!spilled.ok()) Fail(spilled);
      return;
    }
    RunBatch(*batch, *std::move(room));
  }
}

std::optional<BatchQueue::Batch> Run::NextBatch() {
  absl::MutexLock lock(&mutex_);
  if (starting_ || cancelled_ || !queue_.has_next() ||
      in_flight_ >= place_->pool.threads() + kBatchesAhead) {
    return std::nullopt;
  }
  starting_ = true;
  return queue_.Next();
}

void Run::RunBatch(const BatchQueue::Batch& batch, Reservation reservation) {
  {
    absl::MutexLock lock(&mutex_);
    starting_ = false;
    ++in_flight_;
  }
  BatchRun::Start(*host_, batch, std::move(reservation),
                  [self = shared_from_this()](const absl::Status& status) {
                    self->BatchDone(status);
                  });
}

void Run::BatchDone(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    --in_flight_;
  }
  if (!status.ok()) Fail(status);
  StartBatches();
  ParkIfIdle();
  LetGo();
}

void Run::SitesSealed(std::shared_ptr<const CalibrationSource> moments) {
  const size_t open = OpenCount(*moments);
  {
    absl::MutexLock lock(&mutex_);
    if (open >= least_open_) return;
    least_open_ = open;
    newest_ = std::move(moments);
    // Begin and a Look that is to come take it; who does not wait needs none.
    if (!begun_ || looking_ || !waits_) return;
    looking_ = true;
    Hold();
  }
  strand_->Run([self = shared_from_this()] {
    self->Look();
    self->LetGo();
  });
}

// What waits now, with what was sealed since the plan was made.
void Run::Wait() {
  bool waits = false;
  {
    absl::MutexLock lock(&mutex_);
    begun_ = true;
    waits = waits_ = !cancelled_ && queue_.waiting_batches() > 0;
    if (waits) Hold();
  }
  if (waits) return Look();
  if (!open_sites().empty()) TellWaiting();
}

void Run::Look() {
  std::shared_ptr<const CalibrationSource> moments;
  {
    absl::MutexLock lock(&mutex_);
    looking_ = false;
    if (!waits_) return;
    moments = std::exchange(newest_, nullptr);
  }
  if (moments != nullptr) {
    const absl::Status status = Renew(std::move(moments));
    if (!status.ok()) return Fail(status);
  }
  TellWaiting();
  bool all_there = false;
  {
    absl::MutexLock lock(&mutex_);
    all_there = waits_ && queue_.waiting_batches() == 0;
    if (all_there) waits_ = false;
  }
  StartBatches();
  ParkIfIdle();
  if (all_there) LetGo();
}

// Only here is the queue's work replaced.
absl::Status Run::Renew(std::shared_ptr<const CalibrationSource> moments) {
  std::shared_ptr<const RunWork> work;
  {
    absl::MutexLock lock(&mutex_);
    work = queue_.work();
  }
  QS_ASSIGN_OR_RETURN(work, plan_->Renewed(*work, std::move(moments)));
  absl::MutexLock lock(&mutex_);
  queue_.Renew(std::move(work));
  if (queue_.has_next()) parked_ = false;
  return absl::OkStatus();
}

// Behind the shards that are written.
void Run::ParkIfIdle() {
  {
    absl::MutexLock lock(&mutex_);
    if (!IsIdle() || parked_) return;
    Hold();
  }
  strand_->Run([self = shared_from_this()] {
    self->Park();
    self->LetGo();
  });
}

void Run::Park() {
  {
    absl::MutexLock lock(&mutex_);
    if (!IsIdle() || parked_) return;
    parked_ = true;
  }
  const absl::Status spilled = SpillHeld();
  if (!spilled.ok()) return Fail(spilled);
  TellWaiting();
}

void Run::TellWaiting() {
  int64_t tensors = 0;
  bool parked = false;
  {
    absl::MutexLock lock(&mutex_);
    tensors = queue_.waiting_tensors();
    parked = parked_;
  }
  observer_->OnWaiting(tensors, parked);
}

absl::Status Run::TakeTensor(size_t tensor, QuantizedTensor result) {
  v1::TensorReport report = ReportToProto(result.report);
  report.set_rule(plan_->answer.entries[tensor].rule());
  for (const OutputTensor& output : result.tensors) {
    report.add_output_tensors(output.name);
  }
  QS_RETURN_IF_ERROR(observer_->OnTensor(plan_->input->tensors()[tensor].shard,
                                         report, result));
  return writes() ? Keep(tensor, std::move(result)) : absl::OkStatus();
}

// Written once when it can be: outputs stay in memory until their shard is
// complete. A run that waits for memory holds none, or it and another might
// wait for each other: then outputs go to a file first.
absl::Status Run::Keep(size_t tensor, QuantizedTensor result) {
  const auto shard = static_cast<size_t>(plan_->input->tensors()[tensor].shard);
  QS_ASSIGN_OR_RETURN(const bool complete,
                      unwritten_->Keep(shard, std::move(result.tensors),
                                       /*may_hold=*/!WaitsForMemory()));
  if (complete) WriteShard(static_cast<int>(shard));
  // It may wait since then.
  return WaitsForMemory() ? SpillHeld() : absl::OkStatus();
}

absl::Status Run::SpillHeld() {
  QS_ASSIGN_OR_RETURN(const std::vector<size_t> complete, unwritten_->Spill());
  for (const size_t shard : complete) WriteShard(static_cast<int>(shard));
  return absl::OkStatus();
}

void Run::WriteShard(int shard) {
  if (!writes()) return;
  Hold();
  strand_->Run([self = shared_from_this(), shard] {
    if (!self->cancelled_) {
      const absl::Status status = self->WriteShardNow(shard);
      if (!status.ok()) self->Fail(status);
    }
    self->LetGo();
  });
}

absl::Status Run::WriteShardNow(int shard) {
  UnwrittenShards::Taken taken = unwritten_->Take(static_cast<size_t>(shard));
  const int64_t before = writer_->data_bytes();
  QS_RETURN_IF_ERROR(writer_->WriteShard(shard, std::move(taken.shard)));
  return observer_->OnShard(shard, plan_->shards->shard_name(shard),
                            writer_->data_bytes() - before);
}

void Run::Fail(const absl::Status& status) {
  std::optional<ByteBudget::Ticket> ticket;
  bool waited = false;
  {
    absl::MutexLock lock(&mutex_);
    if (status_.ok()) status_ = status;
    cancelled_ = true;
    ticket = std::exchange(ticket_, std::nullopt);
    waited = std::exchange(waits_, false);
  }
  if (ticket && place_->budget.Abandon(*ticket)) LetGo();
  if (waited) LetGo();
}

void Run::LetGo() {
  if (--holds_ > 0) return;
  strand_->Run([self = shared_from_this()] { self->End(); });
}

void Run::End() {
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    status = status_;
  }
  if (unwritten_) unwritten_->Clear();
  if (status.ok() && writes()) status = writer_->WriteRest();
  done_(RunError(status));
}

}  // namespace

absl::Status CheckFits(const RunSize& size, int64_t capacity) {
  return NeedFits(size.largest_batch, size.largest_batch_bytes, capacity);
}

absl::StatusOr<std::shared_ptr<CheckpointRun>> CheckpointRun::Prepare(
    CheckpointRunSpec spec) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<const RunPlan> plan,
                      RunPlan::Make(std::move(spec)));
  return std::make_shared<Run>(std::move(plan));
}

}  // namespace qs

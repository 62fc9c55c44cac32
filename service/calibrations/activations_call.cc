// Tested by tests/service/calibrations/calibration_service_test.cc.
#include "service/calibrations/activations_call.h"

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/device_estimate.h"
#include "quant/v1/calibrations.pb.h"
#include "service/calibrations/calibration_errors.h"
#include "service/calibrations/calibration_messages.h"
#include "service/calibrations/serial_call.h"
#include "service/server/proto_convert.h"
#include "service/store/calibration_shard.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Request = v1::WriteActivationsRequest;
using Response = v1::WriteActivationsResponse;

// A checkpoint costs 4 n^2 bytes a site: it is made when three quarters of what
// the sites take came in (6 n^2, with a GPU among the workers 12 n^2, and of
// the rows that may wait), at least this, or when the last one is so long ago.
constexpr int64_t kMinPendingBytes = int64_t{64} << 20;
constexpr absl::Duration kMaxPendingTime = absl::Seconds(30);

// What a batch is, once it was looked at.
struct Batch {
  const CalibrationSiteRecord* site = nullptr;
  DType dtype = DType::kF32;
  int64_t tokens = 0;
};

class ActivationsCall final : public SerialCall<Request, Response> {
 public:
  using SerialCall::SerialCall;

 protected:
  void Take(const Request& request) override {
    const absl::Status status = Prepare(request);
    if (!status.ok()) return Fail(status);
    if (batch_) return AddBatch(request);
    if (!request.flush()) return StepDone(status);
    MakeDurable(/*asked=*/true,
                [this](const absl::Status& durable) { EndStep(durable); });
  }

  void Malformed(const absl::Status& status) override { Fail(status); }

  void Close() override {
    MakeDurable(/*asked=*/true, [this](const absl::Status& status) {
      if (!status.ok()) return Fail(status);
      LetGo();
      StepDone(status);
    });
  }

  // What came until the connection was lost counts, too.
  void Release(std::function<void()> done) override {
    if (!usable_) {
      LetGo();
      return done();
    }
    MakeDurable(/*asked=*/false, [this, done](const absl::Status&) {
      LetGo();
      done();
    });
  }

 private:
  // On the strand.
  using Then = std::function<void(const absl::Status&)>;

  // Of an open site.
  struct Room {
    Reservation reservation;
    int64_t runs = 1;
    DeviceBytes device_bytes;
  };

  const std::shared_ptr<WorkerPool::Lane>& lane() {
    if (lane_ == nullptr) lane_ = context().workers.NewLane();
    return lane_;
  }

  // Before the client hears of it: it may open the shard again at once.
  void LetGo() {
    usable_ = false;
    shard_ = nullptr;
    rooms_.clear();
    token_ = nullptr;
  }

  void EndStep(const absl::Status& status) {
    status.ok() ? StepDone(status) : Fail(status);
  }

  void Fail(const absl::Status& status) {
    if (!usable_) return FailNow(status);
    MakeDurable(/*asked=*/false,
                [this, status](const absl::Status&) { FailNow(status); });
  }

  void FailNow(const absl::Status& status) {
    const absl::Status told = WithSeq(status);
    LetGo();
    StepDone(told);
  }

  absl::Status WithSeq(const absl::Status& status) const {
    if (shard_ == nullptr) return status;
    return WithReason(status, ErrorReason(status),
                      {{"durable_seq", absl::StrCat(shard_->durable_seq())},
                       {"expected", absl::StrCat(shard_->durable_seq() + 1)}});
  }

  // On the strand: what the request is. No batch_: there is nothing to add.
  absl::Status Prepare(const Request& request) {
    batch_.reset();
    if (shard_ == nullptr) {
      QS_RETURN_IF_ERROR(Open(request));
      AnswerSeq();
    } else {
      QS_RETURN_IF_ERROR(CheckSame(request));
    }
    if (request.seq() == 0 || request.seq() <= shard_->last_seq()) {
      if (request.seq() < 0) {
        return BadFieldError(
            "seq", absl::StrCat("got ", request.seq(), ", allowed at least 1"));
      }
      return absl::OkStatus();
    }
    QS_ASSIGN_OR_RETURN(batch_, Look(request));
    return absl::OkStatus();
  }

  absl::Status Open(const Request& request) {
    QS_ASSIGN_OR_RETURN(id_, IdFromName(caller(), "calibration", kCalibrations,
                                        request.calibration()));
    QS_RETURN_IF_ERROR(CheckShardId(request.shard_id()));
    shard_id_ = request.shard_id();
    absl::StatusOr<CalibrationRecord> found =
        context().store.records().Get(caller().project, id_);
    if (!found.ok()) return CalibrationError(found.status());
    const auto calibration =
        std::make_shared<const CalibrationRecord>(*std::move(found));
    QS_ASSIGN_OR_RETURN(
        token_, context().writers.Take(calibration->key, shard_id_, Self()));
    auto shard = CalibrationShard::Open(context().store, calibration, shard_id_,
                                        context().limits.shards);
    if (!shard.ok()) return CalibrationError(shard.status());
    shard_ = *std::move(shard);
    usable_ = true;
    return absl::OkStatus();
  }

  absl::Status CheckSame(const Request& request) const {
    if (!request.shard_id().empty() && request.shard_id() != shard_id_) {
      return BadFieldError("shard_id",
                           "got another one than in the first request");
    }
    if (request.calibration().empty()) return absl::OkStatus();
    QS_ASSIGN_OR_RETURN(
        const std::string id,
        IdFromName(const_cast<ActivationsCall*>(this)->caller(), "calibration",
                   kCalibrations, request.calibration()));
    if (id == id_) return absl::OkStatus();
    return BadFieldError("calibration",
                         "got another one than in the first request");
  }

  absl::StatusOr<Batch> Look(const Request& request) const {
    if (request.seq() != shard_->last_seq() + 1) {
      return RpcError(absl::StatusCode::kFailedPrecondition, "SEQUENCE_GAP",
                      absl::StrCat("seq: got ", request.seq(), ", allowed ",
                                   shard_->last_seq() + 1));
    }
    Batch batch;
    batch.site = shard_->FindSite(request.site());
    if (batch.site == nullptr) {
      return BadFieldError("site", absl::StrCat("got \"", request.site(),
                                                "\", allowed the sites that "
                                                "the calibration declares"));
    }
    if (batch.site->sealed) {
      return RpcError(
          absl::StatusCode::kFailedPrecondition, "SITE_SEALED",
          absl::StrCat("site: got \"", request.site(), "\", which is sealed"));
    }
    QS_ASSIGN_OR_RETURN(batch.dtype, ActivationsDType(request.dtype()));
    const uint32_t crc = request.crc32c();
    QS_RETURN_IF_ERROR(
        CheckChunk(request.data(), request.has_crc32c() ? &crc : nullptr));
    const auto bytes = static_cast<int64_t>(request.data().size());
    const int64_t row = batch.site->inputs * DTypeBytes(batch.dtype);
    batch.tokens = bytes / row;
    if (bytes == 0 || bytes % row != 0) {
      return BadFieldError(
          "data",
          absl::StrCat("got ", bytes, " bytes, allowed whole rows of ", row));
    }
    return batch;
  }

  // The rest of Take, with batch_.
  void AddBatch(const Request& request) {
    if (shard_->IsOpen(batch_->site->name)) return Sum(request);
    const bool first = rooms_.empty();
    std::optional<Room> room = TakeRoom(/*least=*/first);
    if (room || first) return OpenSite(std::move(room), request);
    MakeDurable(/*asked=*/false, [this, &request](const absl::Status& status) {
      if (!status.ok()) return Fail(status);
      CloseSites();
      OpenSite(TakeRoom(/*least=*/true), request);
    });
  }

  // Several runs where half of the budget is left to others, which may wait as
  // long as this call takes. `least`: one run at a time will do; it does, too,
  // where to let the open sites go is not worth it.
  std::optional<Room> TakeRoom(bool least) {
    const int64_t inputs = batch_->site->inputs;
    Room room;
    room.runs = large_ ? SiteAccumulator::LargeRuns(inputs, batch_->dtype) : 1;
    std::optional<Reservation> reserved;
    if (room.runs > 1) {
      reserved = context().budget.TryReserveSpare(BytesOf(room.runs));
    }
    if (!reserved && (room.runs == 1 || least || !much_added())) {
      room.runs = 1;
      reserved = context().budget.TryReserve(BytesOf(1));
    }
    if (!reserved) return std::nullopt;
    room.reservation = *std::move(reserved);
    room.device_bytes =
        DeviceClaimFor(SiteDeviceBytes(inputs, batch_->dtype, room.runs));
    return room;
  }

  int64_t BytesOf(int64_t runs) const {
    return CalibrationShard::MemoryBytes(batch_->site->inputs, batch_->dtype,
                                         runs, workers_.any_gpu);
  }

  // To write sums and read them again takes longer than small calls where
  // little came in between: with these more sites are open at once.
  bool much_added() const { return added_bytes_ >= open_bytes_; }
  void CloseSites() {
    if (!much_added()) large_ = false;
    shard_->CloseSites();
    rooms_.clear();
    open_bytes_ = 0;
    added_bytes_ = 0;
  }

  // Then the batch is summed.
  void OpenSite(std::optional<Room> room, const Request& request) {
    if (!room) {
      return Fail(MemoryBudgetError(BytesOf(1), context().budget.capacity()));
    }
    const absl::Status opened =
        shard_->OpenSite(*batch_->site, batch_->dtype, room->runs);
    if (absl::IsInvalidArgument(opened)) {
      return Fail(BadFieldError("dtype", std::string(opened.message())));
    }
    if (!opened.ok()) return Fail(CalibrationError(opened));
    open_bytes_ += room->reservation.bytes();
    rooms_[batch_->site->name] = *std::move(room);
    Sum(request);
  }

  void Sum(const Request& request) {
    context().workers.Submit(
        lane(),
        [this, self = Self(), &request](Backend& backend) {
          const absl::Status added = shard_->Add(
              batch_->site->name, batch_->dtype,
              reinterpret_cast<const uint8_t*>(request.data().data()),
              batch_->tokens, backend);
          Continue([this, added, &request] { Added(added, request); });
        },
        rooms_.at(batch_->site->name).device_bytes);
  }

  // On the strand.
  void Added(const absl::Status& added, const Request& request) {
    if (!added.ok()) {
      usable_ = shard_->usable();
      return Fail(AddError(added));
    }
    added_bytes_ += static_cast<int64_t>(request.data().size());
    const bool due = shard_->pending_bytes() >=
                         std::max(kMinPendingBytes, open_bytes_ * 3 / 4) ||
                     absl::Now() - checkpointed_ > kMaxPendingTime;
    if (!request.flush() && !due) return StepDone(added);
    MakeDurable(/*asked=*/true,
                [this](const absl::Status& status) { EndStep(status); });
  }

  static absl::Status AddError(const absl::Status& added) {
    if (!absl::IsInvalidArgument(added)) return CalibrationError(added);
    const std::string text(added.message());
    if (text.find("as in the batches before") != std::string::npos) {
      return BadFieldError("dtype", text);
    }
    return RpcError(added.code(), "NON_FINITE_INPUT", text);
  }

  // A checkpoint, once what waits is summed. `asked`: with an answer.
  void MakeDurable(bool asked, Then then) {
    if (shard_ == nullptr) return then(absl::OkStatus());
    if (!shard_->has_whole_runs()) return then(Checkpoint(asked));
    DeviceBytes device_bytes;
    for (const auto& [unused, room] : rooms_) {
      device_bytes = MostOf(device_bytes, room.device_bytes);
    }
    context().workers.Submit(
        lane(),
        [this, self = Self(), asked, then](Backend& backend) {
          const absl::Status summed = shard_->SumWholeRuns(backend);
          Continue([this, asked, summed, then] {
            if (summed.ok()) return then(Checkpoint(asked));
            usable_ = shard_->usable();
            then(AddError(summed));
          });
        },
        device_bytes);
  }

  // On the strand. REQUIRES: no whole runs wait.
  absl::Status Checkpoint(bool asked) {
    const int64_t before = shard_->durable_seq();
    const absl::Status status = shard_->Checkpoint();
    checkpointed_ = absl::Now();
    if (absl::IsOutOfRange(status)) {
      return RpcError(
          absl::StatusCode::kResourceExhausted, "TOO_MANY_SHARDS",
          absl::StrCat("shard_id: got a new one, allowed ",
                       context().limits.shards, " of a calibration"));
    }
    if (!status.ok()) return CalibrationError(status);
    if (asked || shard_->durable_seq() != before) AnswerSeq();
    return absl::OkStatus();
  }

  void AnswerSeq() {
    Response response;
    response.set_durable_seq(shard_->durable_seq());
    Answer(std::move(response), /*replaces=*/true);
  }

  // Of the steps alone.
  std::string id_;
  std::string shard_id_;
  std::unique_ptr<ShardWriters::Token> token_;
  std::unique_ptr<CalibrationShard> shard_;
  bool usable_ = false;                // its sums are of whole batches
  std::map<std::string, Room> rooms_;  // of the open sites
  int64_t open_bytes_ = 0;             // in them
  int64_t added_bytes_ = 0;            // of batches, since the first was opened
  const WorkerKinds workers_ = context().workers.kinds();
  // Whether calls should be of several runs.
  bool large_ = workers_.prefer_large;
  std::optional<Batch> batch_;
  absl::Time checkpointed_ = absl::Now();
  std::shared_ptr<WorkerPool::Lane> lane_;
};

}  // namespace

BytesReactor* NewActivationsCall(CalibrationContext& context,
                                 grpc::CallbackServerContext* call) {
  return SerialCall<Request, Response>::Start<ActivationsCall>(
      context, "WriteActivations", call);
}

}  // namespace qs

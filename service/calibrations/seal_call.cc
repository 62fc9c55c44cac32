// Tested by tests/service/calibrations/calibration_service_test.cc.
#include "service/calibrations/seal_call.h"

#include <grpcpp/server_context.h>

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/base/status_macros.h"
#include "quant/device_estimate.h"
#include "service/calibrations/calibration_errors.h"
#include "service/calibrations/calibration_messages.h"
#include "service/server/grpc_status.h"
#include "service/server/served_call.h"
#include "service/store/calibration_sealing.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

// Syncing files takes most of the time that a small site needs, and the syncs
// of several go together. Not as many as the server has IO threads, and of
// large sites one: they need the memory of others.
constexpr int kSitesAtOnce = 6;
constexpr int64_t kBytesAtOnce = int64_t{64} << 20;
// Jobs begin with what is sealed; each time all their sites are looked at.
constexpr absl::Duration kTellInterval = absl::Seconds(1);

absl::Status SealError(const absl::Status& status) {
  if (!absl::IsAborted(status)) return CalibrationError(status);
  return RetryableError(status.code(), "SITE_CHANGED",
                        std::string(status.message()));
}

// One site on its way. Holds itself while it runs: on its strand, but Merge and
// Check on a worker.
class SiteSeal final : public std::enable_shared_from_this<SiteSeal> {
 public:
  // `done` is called once, on the strand, with the memory given back.
  SiteSeal(CalibrationContext& context, std::shared_ptr<WorkerPool::Lane> lane,
           std::unique_ptr<CalibrationSealing> sealing, Reservation room,
           std::function<void(const absl::Status&)> done)
      : workers_(context.workers),
        lane_(std::move(lane)),
        strand_(std::make_shared<IoStrand>(context.pool)),
        sealing_(std::move(sealing)),
        room_(std::move(room)),
        done_(std::move(done)) {}

  void Start() {
    OnStrand([](SiteSeal& site) { site.NextPart(); });
  }

 private:
  template <typename Step>
  void OnStrand(Step step) {
    strand_->Run(
        [self = shared_from_this(), strand = strand_, step] { step(*self); });
  }

  void NextPart() {
    const bool more = sealing_->has_next();
    const absl::Status loaded = more ? sealing_->Load() : absl::OkStatus();
    if (!loaded.ok()) return End(SealError(loaded));
    workers_.Submit(
        lane_,
        [self = shared_from_this(), more](Backend& backend) {
          const absl::Status status =
              more ? self->sealing_->Merge(backend) : self->sealing_->Check();
          self->OnStrand([more, status](SiteSeal& site) {
            more&& status.ok() ? site.NextPart() : site.Store(status);
          });
        },
        // What a shard left is less than a run.
        more ? DeviceClaimFor(
                   SiteDeviceBytes(sealing_->inputs(), DType::kF32, 1))
             : DeviceBytes());
  }

  void Store(const absl::Status& checked) {
    if (!checked.ok()) {
      return End(absl::IsInvalidArgument(checked)
                     ? WithReason(checked, "BAD_CALIBRATION")
                     : CalibrationError(checked));
    }
    const absl::Status stored = sealing_->Store();
    End(stored.ok() ? stored : SealError(stored));
  }

  void End(const absl::Status& status) {
    sealing_ = nullptr;
    room_.Reset();
    done_(status);
  }

  WorkerPool& workers_;
  const std::shared_ptr<WorkerPool::Lane> lane_;
  const std::shared_ptr<IoStrand> strand_;
  std::unique_ptr<CalibrationSealing> sealing_;
  Reservation room_;
  const std::function<void(const absl::Status&)> done_;
};

// Holds itself while it runs. Steps run one after the other, on the strand.
class SealCall final : public LiveCall,
                       public std::enable_shared_from_this<SealCall> {
 public:
  SealCall(CalibrationContext& context, grpc::CallbackServerContext* call,
           const v1::SealSitesRequest* request, v1::Calibration* response)
      : context_(context),
        served_("SealSites", *call),
        call_(call),
        request_(*request),
        response_(*response),
        reactor_(call->DefaultReactor()),
        strand_(std::make_shared<IoStrand>(context.pool)),
        lane_(context.workers.NewLane()) {}

  grpc::ServerUnaryReactor* Start() {
    grpc::ServerUnaryReactor* const reactor = reactor_;
    const absl::Status admitted = Admit();
    if (!admitted.ok()) {
      Finish(admitted);
    } else {
      OnStrand([](SealCall& self) { self.Open(); });
    }
    return reactor;
  }

  // LiveCall. It stops behind the sites under way.
  void End(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    if (stop_.ok()) stop_ = status;
  }
  absl::Time waiting_since() const override { return absl::InfiniteFuture(); }

 private:
  absl::Status Admit() {
    QS_ASSIGN_OR_RETURN(
        caller_, served_.Authorize(context_.access, *call_, Role::kUser));
    return context_.calls.Admit(shared_from_this());
  }

  template <typename Step>
  void OnStrand(Step step) {
    strand_->Run(
        [self = shared_from_this(), strand = strand_, step] { step(*self); });
  }

  absl::Status Stopped() {
    absl::MutexLock lock(&mutex_);
    if (!stop_.ok()) return stop_;
    return call_->IsCancelled() ? absl::CancelledError("cancelled")
                                : absl::OkStatus();
  }

  void Open() {
    const absl::Status status = Find();
    if (!status.ok()) return Finish(status);
    StartSites();
  }

  absl::Status Find() {
    QS_ASSIGN_OR_RETURN(
        id_, IdFromName(caller_, "name", kCalibrations, request_.name()));
    auto found = context_.store.records().Get(caller_.project, id_);
    if (!found.ok()) return CalibrationError(found.status());
    key_ = found->key;
    std::set<std::string> names;
    for (const std::string& name : request_.sites()) {
      const CalibrationSiteRecord* site = FindSite(*found, name);
      if (site == nullptr) {
        return BadFieldError("sites", "got \"" + name +
                                          "\", allowed the sites that the "
                                          "calibration declares");
      }
      if (names.insert(name).second) sites_.push_back(*site);
    }
    if (request_.sites().empty()) sites_ = std::move(found->sites);
    return absl::OkStatus();
  }

  // As many as there is room for. Ends the call when there is nothing more.
  void StartSites() {
    while (failed_.ok() && running_ < kSitesAtOnce) {
      while (next_ < sites_.size() && sites_[next_].sealed) ++next_;
      if (next_ == sites_.size()) break;
      const absl::StatusOr<bool> started = StartSite(next_);
      if (!started.ok()) Fail(next_, started.status());
      if (!started.ok() || !*started) break;
      ++next_;
    }
    if (running_ == 0) Finish(failed_.ok() ? Respond() : failed_);
  }

  // False: when another one has given its memory back.
  absl::StatusOr<bool> StartSite(size_t at) {
    QS_RETURN_IF_ERROR(Stopped());
    auto sealing = CalibrationSealing::Open(context_.store, key_, sites_[at]);
    if (!sealing.ok()) return CalibrationError(sealing.status());
    const int64_t bytes =
        (*sealing)->MemoryBytes(context_.workers.kinds().any_gpu);
    if (running_ > 0 && running_bytes_ + bytes > kBytesAtOnce) return false;
    std::optional<Reservation> room = context_.budget.TryReserve(bytes);
    if (!room && running_ > 0) return false;
    if (!room) return MemoryBudgetError(bytes, context_.budget.capacity());
    ++running_;
    running_bytes_ += bytes;
    const auto done = [self = shared_from_this(), at,
                       bytes](const absl::Status& status) {
      self->OnStrand([at, bytes, status](SealCall& call) {
        call.Ended(at, bytes, status);
      });
    };
    std::make_shared<SiteSeal>(context_, lane_, *std::move(sealing),
                               *std::move(room), done)
        ->Start();
    return true;
  }

  void Ended(size_t at, int64_t bytes, const absl::Status& status) {
    --running_;
    running_bytes_ -= bytes;
    if (status.ok()) {
      sealed_ = true;
      if (absl::Now() - told_ >= kTellInterval) TellUsers();
    } else {
      Fail(at, status);
    }
    StartSites();
  }

  void TellUsers() {
    if (!sealed_ || context_.users == nullptr) return;
    context_.users->Sealed(caller_.project, id_);
    sealed_ = false;
    told_ = absl::Now();
  }

  // The first site's error is the call's: those before it are sealed.
  void Fail(size_t at, const absl::Status& status) {
    if (!failed_.ok() && failed_at_ < at) return;
    failed_ = status;
    failed_at_ = at;
  }

  absl::Status Respond() {
    const auto found = context_.store.records().Get(caller_.project, id_);
    if (!found.ok()) return CalibrationError(found.status());
    response_ = CalibrationToProto(*found);
    return absl::OkStatus();
  }

  void Finish(const absl::Status& status) {
    TellUsers();
    served_.End(status);
    context_.calls.Remove(this);
    reactor_->Finish(ToGrpcStatus(status));
  }

  CalibrationContext& context_;
  ServedCall served_;
  grpc::CallbackServerContext* const call_;  // until Finish, as the next two
  const v1::SealSitesRequest& request_;
  v1::Calibration& response_;
  grpc::ServerUnaryReactor* const reactor_;
  const std::shared_ptr<IoStrand> strand_;
  const std::shared_ptr<WorkerPool::Lane> lane_;
  Caller caller_;
  std::string id_;
  int64_t key_ = 0;
  std::vector<CalibrationSiteRecord> sites_;
  size_t next_ = 0;  // of sites_, to be started
  int running_ = 0;
  int64_t running_bytes_ = 0;
  bool sealed_ = false;  // at least one site that no user was told of
  absl::Time told_ = absl::InfinitePast();
  absl::Status failed_;
  size_t failed_at_ = 0;

  absl::Mutex mutex_;
  absl::Status stop_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerUnaryReactor* StartSealCall(CalibrationContext& context,
                                        grpc::CallbackServerContext* call,
                                        const v1::SealSitesRequest* request,
                                        v1::Calibration* response) {
  return std::make_shared<SealCall>(context, call, request, response)->Start();
}

}  // namespace qs

// Tested by tests/service/calibrations/calibration_service_test.cc.
#include "service/calibrations/seal_call.h"

#include <grpcpp/server_context.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"
#include "service/calibrations/calibration_errors.h"
#include "service/calibrations/calibration_messages.h"
#include "service/server/grpc_status.h"
#include "service/server/served_call.h"
#include "service/store/calibration_sealing.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

// Holds itself while it runs. Steps run one after the other: on the strand, but
// Merge and Check on a worker.
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

  // LiveCall. It stops behind a site.
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
    NextSite();
  }

  absl::Status Find() {
    QS_ASSIGN_OR_RETURN(
        id_, IdFromName(caller_, "name", kCalibrations, request_.name()));
    auto found = context_.store.records().Get(caller_.project, id_);
    if (!found.ok()) return CalibrationError(found.status());
    key_ = found->key;
    for (const std::string& name : request_.sites()) {
      const CalibrationSiteRecord* site = FindSite(*found, name);
      if (site == nullptr) {
        return BadFieldError("sites", "got \"" + name +
                                          "\", allowed the sites that the "
                                          "calibration declares");
      }
      sites_.push_back(*site);
    }
    if (request_.sites().empty()) sites_ = std::move(found->sites);
    return absl::OkStatus();
  }

  void NextSite() {
    sealing_ = nullptr;
    room_.reset();
    while (next_ < sites_.size() && sites_[next_].sealed) ++next_;
    const bool last = next_ == sites_.size();
    const absl::Status status = last ? Respond() : OpenSite(sites_[next_]);
    if (last || !status.ok()) return Finish(status);
    ++next_;
    NextPart();
  }

  absl::Status OpenSite(const CalibrationSiteRecord& site) {
    QS_RETURN_IF_ERROR(Stopped());
    auto sealing = CalibrationSealing::Open(context_.store, key_, site);
    if (!sealing.ok()) return CalibrationError(sealing.status());
    sealing_ = *std::move(sealing);
    const int64_t bytes = sealing_->MemoryBytes();
    room_ = context_.budget.TryReserve(bytes);
    if (room_) return absl::OkStatus();
    return MemoryBudgetError(bytes, context_.budget.capacity());
  }

  void NextPart() {
    const bool more = sealing_->has_next();
    const absl::Status loaded = more ? sealing_->Load() : absl::OkStatus();
    if (!loaded.ok()) return Finish(SealError(loaded));
    context_.workers.Submit(
        lane_, [self = shared_from_this(), more](Backend& backend) {
          const absl::Status status =
              more ? self->sealing_->Merge(backend) : self->sealing_->Check();
          self->OnStrand([more, status](SealCall& call) {
            more&& status.ok() ? call.NextPart() : call.Store(status);
          });
        });
  }

  void Store(const absl::Status& checked) {
    if (!checked.ok()) {
      return Finish(absl::IsInvalidArgument(checked)
                        ? WithReason(checked, "BAD_CALIBRATION")
                        : CalibrationError(checked));
    }
    const absl::Status stored = sealing_->Store();
    if (!stored.ok()) return Finish(SealError(stored));
    sealed_ = true;
    NextSite();
  }

  static absl::Status SealError(const absl::Status& status) {
    if (!absl::IsAborted(status)) return CalibrationError(status);
    return RetryableError(status.code(), "SITE_CHANGED",
                          std::string(status.message()));
  }

  absl::Status Respond() {
    const auto found = context_.store.records().Get(caller_.project, id_);
    if (!found.ok()) return CalibrationError(found.status());
    response_ = CalibrationToProto(*found);
    return absl::OkStatus();
  }

  void Finish(const absl::Status& status) {
    sealing_ = nullptr;
    room_.reset();
    if (sealed_ && context_.users != nullptr) {
      context_.users->Sealed(caller_.project, id_);
    }
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
  size_t next_ = 0;
  bool sealed_ = false;  // at least one site
  std::optional<Reservation> room_;
  std::unique_ptr<CalibrationSealing> sealing_;

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

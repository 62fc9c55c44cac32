// Tested by tests/service/calibrations/calibration_service_test.cc.
#include "service/calibrations/read_site_call.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "kernels/base/status_macros.h"
#include "service/calibrations/calibration_errors.h"
#include "service/calibrations/calibration_messages.h"
#include "service/server/grpc_status.h"
#include "service/server/options.h"
#include "service/server/served_call.h"
#include "service/stream/crc32c.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Response = v1::ReadSiteResponse;

class ReadSiteCall final : public grpc::ServerWriteReactor<Response>,
                           public LiveCall {
 public:
  ReadSiteCall(CalibrationContext& context, grpc::CallbackServerContext* call,
               const v1::ReadSiteRequest* request)
      : context_(context),
        served_("ReadSite", *call),
        call_(call),
        request_(*request),
        offset_(request->offset()) {}

  void Begin(const std::shared_ptr<ReadSiteCall>& self) {
    const absl::Status admitted = Admit(self);
    absl::MutexLock lock(&mutex_);
    self_ = self;
    if (!admitted.ok()) return EndLocked(admitted);
    ReadLocked();
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    waiting_since_ = absl::InfiniteFuture();
    writing_ = false;
    if (!ok) EndLocked(absl::CancelledError("cancelled"));
    if (ended_) return FinishLocked();
    if (last_) return EndLocked(absl::OkStatus());
    ReadLocked();
  }

  void OnCancel() override { End(absl::CancelledError("cancelled")); }

  void OnDone() override {
    context_.calls.Remove(this);
    std::shared_ptr<ReadSiteCall> self;
    absl::MutexLock lock(&mutex_);
    self = std::move(self_);
    served_.End(status_);
    // The last hold goes behind the lock.
    context_.pool.Run([self] {});
  }

  // LiveCall.
  void End(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    EndLocked(status);
  }
  absl::Time waiting_since() const override {
    absl::MutexLock lock(&mutex_);
    return waiting_since_;
  }

 private:
  absl::Status Admit(const std::shared_ptr<ReadSiteCall>& self) {
    QS_ASSIGN_OR_RETURN(
        caller_, served_.Authorize(context_.access, *call_, Role::kReader));
    return context_.calls.Admit(self);
  }

  // One chunk, on the pool.
  void ReadLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    context_.pool.Run([self = self_] {
      const absl::Status status = self->MakeResponse();
      absl::MutexLock lock(&self->mutex_);
      if (!status.ok()) self->EndLocked(status);
      if (self->ended_) return;
      self->writing_ = true;
      self->waiting_since_ = absl::Now();
      self->served_.AddBytes(
          static_cast<int64_t>(self->response_.ByteSizeLong()));
      self->StartWrite(&self->response_);
    });
  }

  absl::Status MakeResponse() {
    response_.Clear();
    if (size_ < 0) QS_RETURN_IF_ERROR(Open());
    const int64_t bytes = std::min(kRecommendedChunkBytes, size_ - offset_);
    std::string& data = *response_.mutable_data();
    data.resize(static_cast<size_t>(bytes));
    const std::span<uint8_t> out(reinterpret_cast<uint8_t*>(data.data()),
                                 data.size());
    const absl::Status read = context_.store.ReadSealed(site_, offset_, out);
    if (absl::IsDataLoss(read)) QS_RETURN_IF_ERROR(CheckThere());
    if (!read.ok()) return CalibrationError(read);
    response_.set_offset(offset_);
    response_.set_crc32c(Crc32c(out));
    offset_ += bytes;
    last_ = offset_ == size_;
    response_.set_last(last_);
    return absl::OkStatus();
  }

  absl::Status Open() {
    QS_ASSIGN_OR_RETURN(
        id_, IdFromName(caller_, "name", kCalibrations, request_.name()));
    const auto found = context_.store.records().Get(caller_.project, id_);
    if (!found.ok()) return CalibrationError(found.status());
    key_ = found->key;
    const CalibrationSiteRecord* site = FindSite(*found, request_.site());
    if (site == nullptr) {
      return BadFieldError("site", absl::StrCat("got \"", request_.site(),
                                                "\", allowed the sites that "
                                                "the calibration declares"));
    }
    if (!site->sealed) {
      return RpcError(
          absl::StatusCode::kFailedPrecondition, "SITE_NOT_SEALED",
          absl::StrCat("site: got \"", site->name, "\", which is open"));
    }
    site_ = *site;
    const int64_t size = CalibrationStore::MomentsBytes(site_.inputs);
    if (offset_ < 0) {
      return BadFieldError(
          "offset", absl::StrCat("got ", offset_, ", allowed at least 0"));
    }
    if (offset_ >= size) {
      return RpcError(
          absl::StatusCode::kOutOfRange, "OFFSET_TOO_LARGE",
          absl::StrCat("offset: got ", offset_, ", allowed below ", size));
    }
    size_ = size;
    *response_.mutable_site() = SiteToProto(site_);
    return absl::OkStatus();
  }

  // What was deleted is not damaged.
  absl::Status CheckThere() {
    const auto found = context_.store.records().Get(caller_.project, id_);
    if (!found.ok()) return CalibrationError(found.status());
    if (found->key == key_) return absl::OkStatus();
    return CalibrationError(absl::NotFoundError(
        absl::StrCat("calibration: ", id_, " was deleted")));
  }

  void EndLocked(const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_) return;
    ended_ = true;
    status_ = status;
    waiting_since_ = absl::InfiniteFuture();
    if (!writing_) FinishLocked();
  }

  void FinishLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (std::exchange(finished_, true)) return;
    Finish(ToGrpcStatus(status_));
  }

  CalibrationContext& context_;
  ServedCall served_;
  grpc::CallbackServerContext* const call_;  // until OnDone
  const v1::ReadSiteRequest request_;
  Caller caller_;

  // Of MakeResponse, and then of the write.
  std::string id_;
  int64_t key_ = 0;
  CalibrationSiteRecord site_;
  int64_t offset_;
  int64_t size_ = -1;  // not opened yet
  bool last_ = false;
  Response response_;

  mutable absl::Mutex mutex_;
  // gRPC's hold on this, until OnDone; a read under way has its own.
  std::shared_ptr<ReadSiteCall> self_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;     // with status_
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // gRPC was told
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  absl::Time waiting_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
};

}  // namespace

grpc::ServerWriteReactor<Response>* NewReadSiteCall(
    CalibrationContext& context, grpc::CallbackServerContext* call,
    const v1::ReadSiteRequest* request) {
  const auto made = std::make_shared<ReadSiteCall>(context, call, request);
  made->Begin(made);
  return made.get();
}

}  // namespace qs

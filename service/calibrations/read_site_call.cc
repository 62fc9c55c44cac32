// Tested by tests/service/calibrations/calibration_service_test.cc.
#include "service/calibrations/read_site_call.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/calibrations/calibration_errors.h"
#include "service/calibrations/calibration_messages.h"
#include "service/server/options.h"
#include "service/stream/crc32c.h"
#include "service/tensors/reading_call.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Response = v1::ReadSiteResponse;

class ReadSiteCall final : public ReadingCall<Response> {
 public:
  ReadSiteCall(CalibrationContext& context, grpc::CallbackServerContext* call,
               const v1::ReadSiteRequest* request)
      : ReadingCall("ReadSite", call,
                    {context.access, context.pool, context.calls}),
        context_(context),
        request_(*request),
        offset_(request->offset()) {}

 private:
  absl::StatusOr<ReadStep> Make(Response* response) override {
    if (size_ < 0) {
      QS_RETURN_IF_ERROR(Open());
      *response->mutable_site() = SiteToProto(site_);
    }
    const int64_t bytes = std::min(kRecommendedChunkBytes, size_ - offset_);
    std::string& data = *response->mutable_data();
    data.resize(static_cast<size_t>(bytes));
    const std::span<uint8_t> out(reinterpret_cast<uint8_t*>(data.data()),
                                 data.size());
    const absl::Status read = context_.store.ReadSealed(site_, offset_, out);
    if (absl::IsDataLoss(read)) QS_RETURN_IF_ERROR(CheckThere());
    if (!read.ok()) return CalibrationError(read);
    response->set_offset(offset_);
    response->set_crc32c(Crc32c(out));
    offset_ += bytes;
    response->set_last(offset_ == size_);
    return offset_ == size_ ? ReadStep::kLast : ReadStep::kMessage;
  }

  absl::Status Open() {
    QS_ASSIGN_OR_RETURN(
        id_, IdFromName(caller(), "name", kCalibrations, request_.name()));
    const auto found = context_.store.records().Get(caller().project, id_);
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
    return absl::OkStatus();
  }

  // What was deleted is not damaged.
  absl::Status CheckThere() {
    const auto found = context_.store.records().Get(caller().project, id_);
    if (!found.ok()) return CalibrationError(found.status());
    if (found->key == key_) return absl::OkStatus();
    return CalibrationError(absl::NotFoundError(
        absl::StrCat("calibration: ", id_, " was deleted")));
  }

  CalibrationContext& context_;
  const v1::ReadSiteRequest request_;

  // Of the steps alone.
  std::string id_;
  int64_t key_ = 0;
  CalibrationSiteRecord site_;
  int64_t offset_;
  int64_t size_ = -1;  // not opened yet
};

}  // namespace

grpc::ServerWriteReactor<Response>* NewReadSiteCall(
    CalibrationContext& context, grpc::CallbackServerContext* call,
    const v1::ReadSiteRequest* request) {
  return ReadSiteCall::Launch(
      std::make_shared<ReadSiteCall>(context, call, request));
}

}  // namespace qs

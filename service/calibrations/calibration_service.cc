// Tested by tests/service/calibrations/calibration_service_test.cc.
#include "service/calibrations/calibration_service.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/calibrations/activations_call.h"
#include "service/calibrations/calibration_errors.h"
#include "service/calibrations/calibration_messages.h"
#include "service/calibrations/moments_call.h"
#include "service/calibrations/read_site_call.h"
#include "service/calibrations/seal_call.h"
#include "service/tensors/unary_call.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Call = grpc::CallbackServerContext;

constexpr int32_t kDefaultPage = 100;
constexpr int32_t kMaxPage = 1000;
// Below the 4 MiB of a message: metadata may be long.
constexpr size_t kMaxPageBytes = size_t{3} << 20;

absl::Status CreateError(const absl::Status& status, bool request_id_reused,
                         int64_t limit) {
  if (absl::IsAlreadyExists(status)) {
    return request_id_reused
               ? RpcError(status.code(), "REQUEST_ID_REUSED",
                          "request_id: got one of another calibration")
               : RpcError(status.code(), "CALIBRATION_EXISTS",
                          "calibration_id: got one that is in use");
  }
  if (absl::IsOutOfRange(status)) {
    return RpcError(absl::StatusCode::kResourceExhausted,
                    "TOO_MANY_CALIBRATIONS",
                    absl::StrCat("calibrations: got ", limit + 1, ", allowed ",
                                 limit, " of a project"),
                    {{"allowed", absl::StrCat(limit)}});
  }
  return CalibrationError(status);
}

// Client streams through raw byte buffers, the rest through messages.
using Service = v1::CalibrationService;
using Base = Service::WithCallbackMethod_CreateCalibration<
    Service::WithRawCallbackMethod_WriteActivations<
        Service::WithRawCallbackMethod_WriteSecondMoments<
            Service::WithCallbackMethod_SealSites<
                Service::WithCallbackMethod_GetCalibration<
                    Service::WithCallbackMethod_ListCalibrations<
                        Service::WithCallbackMethod_DeleteCalibration<
                            Service::WithCallbackMethod_ReadSite<
                                Service::Service>>>>>>>>;

class CalibrationServiceImpl final : public Base {
 public:
  explicit CalibrationServiceImpl(CalibrationContext& context)
      : context_(context) {}

  grpc::ServerUnaryReactor* CreateCalibration(
      Call* call, const v1::CreateCalibrationRequest* request,
      v1::Calibration* response) override {
    return Run(call, "CreateCalibration", Role::kUser,
               [this, request, response](const Caller& caller) {
                 return Create(caller, *request, response);
               });
  }

  BytesReactor* WriteActivations(Call* call) override {
    return NewActivationsCall(context_, call);
  }

  BytesReactor* WriteSecondMoments(Call* call) override {
    return NewMomentsCall(context_, call);
  }

  grpc::ServerUnaryReactor* SealSites(Call* call,
                                      const v1::SealSitesRequest* request,
                                      v1::Calibration* response) override {
    return StartSealCall(context_, call, request, response);
  }

  grpc::ServerUnaryReactor* GetCalibration(
      Call* call, const v1::GetCalibrationRequest* request,
      v1::Calibration* response) override {
    return Run(call, "GetCalibration", Role::kReader,
               [this, request, response](const Caller& caller) {
                 return Get(caller, *request, response);
               });
  }

  grpc::ServerUnaryReactor* ListCalibrations(
      Call* call, const v1::ListCalibrationsRequest* request,
      v1::ListCalibrationsResponse* response) override {
    return Run(call, "ListCalibrations", Role::kReader,
               [this, request, response](const Caller& caller) {
                 return List(caller, *request, response);
               });
  }

  grpc::ServerUnaryReactor* DeleteCalibration(
      Call* call, const v1::DeleteCalibrationRequest* request,
      google::protobuf::Empty*) override {
    return Run(call, "DeleteCalibration", Role::kUser,
               [this, request](const Caller& caller) {
                 return Delete(caller, *request);
               });
  }

  grpc::ServerWriteReactor<v1::ReadSiteResponse>* ReadSite(
      Call* call, const v1::ReadSiteRequest* request) override {
    return NewReadSiteCall(context_, call, request);
  }

 private:
  grpc::ServerUnaryReactor* Run(Call* call, const char* rpc, Role role,
                                UnaryBody body) {
    return RunUnary(call, rpc, context_.access, role, context_.pool,
                    std::move(body));
  }

  absl::Status Create(const Caller& caller,
                      const v1::CreateCalibrationRequest& request,
                      v1::Calibration* response) {
    if (context_.calls.draining()) return DrainingError();
    QS_ASSIGN_OR_RETURN(const CalibrationRecord wanted,
                        RecordFromRequest(caller.project, request));
    bool request_id_reused = false;
    const int64_t limit = context_.limits.calibrations;
    const auto made =
        context_.store.records().Create(wanted, limit, &request_id_reused);
    if (!made.ok()) {
      return CreateError(made.status(), request_id_reused, limit);
    }
    *response = CalibrationToProto(*made);
    return absl::OkStatus();
  }

  absl::Status Get(const Caller& caller,
                   const v1::GetCalibrationRequest& request,
                   v1::Calibration* response) {
    QS_ASSIGN_OR_RETURN(
        const std::string id,
        IdFromName(caller, "name", kCalibrations, request.name()));
    if (request.page_size() < 0) {
      return BadFieldError("page_size",
                           absl::StrCat("got ", request.page_size(),
                                        ", allowed at least 1, or 0"));
    }
    QS_ASSIGN_OR_RETURN(const std::string after,
                        SiteOfPageToken(request.page_token()));
    const auto found = context_.store.records().Get(caller.project, id);
    if (!found.ok()) return CalibrationError(found.status());
    const auto most = static_cast<size_t>(request.page_size());
    *response = CalibrationToProto(*found, after, most == 0 ? SIZE_MAX : most);
    return absl::OkStatus();
  }

  absl::Status List(const Caller& caller,
                    const v1::ListCalibrationsRequest& request,
                    v1::ListCalibrationsResponse* response) {
    if (request.page_size() < 0 || request.page_size() > kMaxPage) {
      return BadFieldError("page_size",
                           absl::StrCat("got ", request.page_size(),
                                        ", allowed 0 to ", kMaxPage));
    }
    std::string after;
    if (!absl::WebSafeBase64Unescape(request.page_token(), &after)) {
      return BadFieldError("page_token",
                           "got none of this call, allowed next_page_token");
    }
    const int32_t page =
        request.page_size() == 0 ? kDefaultPage : request.page_size();
    const auto found =
        context_.store.records().List(caller.project, after, page + 1);
    if (!found.ok()) return CalibrationError(found.status());
    size_t bytes = 0;
    for (const CalibrationRecord& record : *found) {
      v1::Calibration one = CalibrationToProto(record);
      bytes += one.ByteSizeLong();
      const int listed = response->calibrations_size();
      if (listed == page || (listed > 0 && bytes > kMaxPageBytes)) {
        response->set_next_page_token(absl::WebSafeBase64Escape(after));
        break;
      }
      after = record.id;
      *response->add_calibrations() = std::move(one);
    }
    return absl::OkStatus();
  }

  absl::Status Delete(const Caller& caller,
                      const v1::DeleteCalibrationRequest& request) {
    QS_ASSIGN_OR_RETURN(
        const std::string id,
        IdFromName(caller, "name", kCalibrations, request.name()));
    return CalibrationError(context_.store.Delete(caller.project, id, [&] {
      return context_.users == nullptr
                 ? absl::OkStatus()
                 : context_.users->CheckUnused(caller.project, id);
    }));
  }

  CalibrationContext& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewCalibrationService(
    CalibrationContext& context) {
  return std::make_unique<CalibrationServiceImpl>(context);
}

}  // namespace qs

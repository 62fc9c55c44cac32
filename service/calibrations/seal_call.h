// SealSites: reads parts on the IO threads, adds them on the workers.
#ifndef QS_SERVICE_CALIBRATIONS_SEAL_CALL_H_
#define QS_SERVICE_CALIBRATIONS_SEAL_CALL_H_

#include <grpcpp/support/server_callback.h>

#include "quant/v1/calibrations.pb.h"
#include "service/calibrations/calibration_context.h"

namespace qs {

grpc::ServerUnaryReactor* StartSealCall(
    CalibrationContext& context, grpc::CallbackServerContext* call,
    const quant::v1::SealSitesRequest* request,
    quant::v1::Calibration* response);

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_SEAL_CALL_H_

// ReadSite: a sealed site's moments, a chunk at a time.
#ifndef QS_SERVICE_CALIBRATIONS_READ_SITE_CALL_H_
#define QS_SERVICE_CALIBRATIONS_READ_SITE_CALL_H_

#include <grpcpp/support/server_callback.h>

#include "quant/v1/calibrations.pb.h"
#include "service/calibrations/calibration_context.h"

namespace qs {

grpc::ServerWriteReactor<quant::v1::ReadSiteResponse>* NewReadSiteCall(
    CalibrationContext& context, grpc::CallbackServerContext* call,
    const quant::v1::ReadSiteRequest* request);

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_READ_SITE_CALL_H_

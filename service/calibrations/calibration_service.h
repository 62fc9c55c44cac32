// CalibrationServiceImpl: the RPCs of quant.v1.CalibrationService, each handed
// to what implements it. Nothing here blocks.
#ifndef QS_SERVICE_CALIBRATIONS_CALIBRATION_SERVICE_H_
#define QS_SERVICE_CALIBRATIONS_CALIBRATION_SERVICE_H_

#include <memory>

#include "quant/v1/calibrations.grpc.pb.h"
#include "service/calibrations/calibration_context.h"

namespace qs {

// `context` outlives the gRPC server that the service is registered with.
std::unique_ptr<grpc::Service> NewCalibrationService(
    CalibrationContext& context);

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_CALIBRATION_SERVICE_H_

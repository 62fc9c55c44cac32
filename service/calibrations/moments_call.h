// WriteSecondMoments: sums that the client made, kept as parts of their sites.
#ifndef QS_SERVICE_CALIBRATIONS_MOMENTS_CALL_H_
#define QS_SERVICE_CALIBRATIONS_MOMENTS_CALL_H_

#include <grpcpp/support/server_callback.h>

#include "quant/v1/calibrations.pb.h"
#include "service/calibrations/calibration_context.h"

namespace qs {

grpc::ServerBidiReactor<quant::v1::WriteSecondMomentsRequest,
                        quant::v1::WriteSecondMomentsResponse>*
NewMomentsCall(CalibrationContext& context, grpc::CallbackServerContext* call);

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_MOMENTS_CALL_H_

// WriteSecondMoments: sums that the client made, kept as parts of their sites.
#ifndef QS_SERVICE_CALIBRATIONS_MOMENTS_CALL_H_
#define QS_SERVICE_CALIBRATIONS_MOMENTS_CALL_H_

#include <grpcpp/server_context.h>

#include "service/calibrations/calibration_context.h"
#include "service/server/message_bytes.h"

namespace qs {

BytesReactor* NewMomentsCall(CalibrationContext& context,
                             grpc::CallbackServerContext* call);

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_MOMENTS_CALL_H_

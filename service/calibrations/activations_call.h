// WriteActivations: one shard's batches, summed by the server's workers.
#ifndef QS_SERVICE_CALIBRATIONS_ACTIVATIONS_CALL_H_
#define QS_SERVICE_CALIBRATIONS_ACTIVATIONS_CALL_H_

#include <grpcpp/support/server_callback.h>

#include "quant/v1/calibrations.pb.h"
#include "service/calibrations/calibration_context.h"

namespace qs {

grpc::ServerBidiReactor<quant::v1::WriteActivationsRequest,
                        quant::v1::WriteActivationsResponse>*
NewActivationsCall(CalibrationContext& context,
                   grpc::CallbackServerContext* call);

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_ACTIVATIONS_CALL_H_

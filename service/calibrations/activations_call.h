// WriteActivations: one shard's batches, summed by the server's workers.
#ifndef QS_SERVICE_CALIBRATIONS_ACTIVATIONS_CALL_H_
#define QS_SERVICE_CALIBRATIONS_ACTIVATIONS_CALL_H_

#include <grpcpp/server_context.h>

#include "service/calibrations/calibration_context.h"
#include "service/server/message_bytes.h"

namespace qs {

BytesReactor* NewActivationsCall(CalibrationContext& context,
                                 grpc::CallbackServerContext* call);

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_ACTIVATIONS_CALL_H_

// ReadCall: one ReadTensor call. The next message is read and checked on the
// IoPool while the last one is sent.
#ifndef QS_SERVICE_TENSORS_READ_CALL_H_
#define QS_SERVICE_TENSORS_READ_CALL_H_

#include <grpcpp/support/server_callback.h>

#include "quant/v1/tensors.pb.h"
#include "service/tensors/tensor_context.h"

namespace qs {

// The reactor for one call; gRPC drives it from now on.
grpc::ServerWriteReactor<quant::v1::ReadTensorResponse>* NewReadCall(
    TensorContext& context, grpc::CallbackServerContext* call,
    const quant::v1::ReadTensorRequest& request);

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_READ_CALL_H_

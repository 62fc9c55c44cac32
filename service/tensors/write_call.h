// WriteCall: one WriteTensor call. Raw byte buffers: messages are parsed,
// checked and written on the IoPool, in their order, while gRPC receives the
// next ones.
#ifndef QS_SERVICE_TENSORS_WRITE_CALL_H_
#define QS_SERVICE_TENSORS_WRITE_CALL_H_

#include <grpcpp/server_context.h>

#include "service/server/message_bytes.h"
#include "service/tensors/tensor_context.h"

namespace qs {

// Of one call: read from the network and not written yet, before the server
// stops reading. One more message may come.
constexpr int64_t kWriteAheadBytes = int64_t{4} << 20;

// The reactor for one call; gRPC drives it from now on.
BytesReactor* NewWriteCall(TensorContext& context,
                           grpc::CallbackServerContext* call);

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_WRITE_CALL_H_

// QuantizeReactor: the gRPC end of a QuantizeSession.
//
// Raw byte buffers both ways: a chunk is parsed where it lies, a frame's data
// goes out from the tensor's own memory.
// Thread: created in the handler; deletes itself when gRPC is done with it.
#ifndef QS_SERVICE_STREAM_QUANTIZE_REACTOR_H_
#define QS_SERVICE_STREAM_QUANTIZE_REACTOR_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "service/server/served_call.h"
#include "service/stream/quantize_context.h"

namespace qs {

// The reactor for one Quantize call; gRPC drives it from now on.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* NewQuantizeReactor(
    QuantizeContext& context, grpc::CallbackServerContext* call,
    std::unique_ptr<ServedCall> served);

}  // namespace qs

#endif  // QS_SERVICE_STREAM_QUANTIZE_REACTOR_H_

// The messages of a stream whose reactor takes bytes. gRPC's typed reactors
// tell of a message that they cannot parse as of the client's half-close, so
// whoever goes by the half-close reads bytes and parses them here.
// Thread: pure functions.
#ifndef QS_SERVICE_SERVER_MESSAGE_BYTES_H_
#define QS_SERVICE_SERVER_MESSAGE_BYTES_H_

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace qs {

using BytesReactor =
    grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

// INVALID_ARGUMENT MALFORMED_MESSAGE, the number in the metadata. `number`: of
// the message in its stream, from 1. `type`: that it should have had.
absl::Status MalformedMessageError(int64_t number, const std::string& type);

// `bytes`, which are empty then, as `*message`.
// Errors: MalformedMessageError; a string that is no UTF-8 is one.
absl::Status ParseMessage(int64_t number, grpc::ByteBuffer* bytes,
                          google::protobuf::Message* message);

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_MESSAGE_BYTES_H_

// Tested by tests/service/malformed_message_test.cc.
#include "service/server/message_bytes.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include "absl/strings/str_cat.h"
#include "service/server/error.h"

namespace qs {

using Traits = grpc::SerializationTraits<google::protobuf::Message>;

absl::Status MalformedMessageError(int64_t number, const std::string& type) {
  return RpcError(
      absl::StatusCode::kInvalidArgument, "MALFORMED_MESSAGE",
      absl::StrCat("message ", number, ": got bytes that are no ", type,
                   ", allowed its fields, with strings of UTF-8"),
      {{"message", absl::StrCat(number)}});
}

absl::Status ParseMessage(int64_t number, grpc::ByteBuffer* bytes,
                          google::protobuf::Message* message) {
  const bool parsed = Traits::Deserialize(bytes, message).ok();
  bytes->Clear();
  if (parsed) return absl::OkStatus();
  return MalformedMessageError(number, message->GetDescriptor()->name());
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  grpc::ByteBuffer bytes;
  bool own = false;
  Traits::Serialize(message, &bytes, &own).IgnoreError();
  return bytes;
}

}  // namespace qs

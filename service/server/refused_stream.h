// RefusedStream: a bidirectional call that ends before its first message.
#ifndef QS_SERVICE_SERVER_REFUSED_STREAM_H_
#define QS_SERVICE_SERVER_REFUSED_STREAM_H_

#include "absl/status/status.h"
#include "service/server/grpc_status.h"
#include "service/server/message_bytes.h"

namespace qs {

// Deletes itself. Thread: gRPC's.
class RefusedStream final : public BytesReactor {
 public:
  explicit RefusedStream(const absl::Status& why) { Finish(ToGrpcStatus(why)); }
  void OnDone() override { delete this; }
};

}  // namespace qs

#endif  // QS_SERVICE_SERVER_REFUSED_STREAM_H_

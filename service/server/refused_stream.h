// RefusedStream: a bidirectional call that ends before its first message.
#ifndef QS_SERVICE_SERVER_REFUSED_STREAM_H_
#define QS_SERVICE_SERVER_REFUSED_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include "absl/status/status.h"
#include "service/server/grpc_status.h"

namespace qs {

// Deletes itself. Thread: gRPC's.
template <typename Request, typename Response>
class RefusedStream final : public grpc::ServerBidiReactor<Request, Response> {
 public:
  explicit RefusedStream(const absl::Status& why) {
    this->Finish(ToGrpcStatus(why));
  }
  void OnDone() override { delete this; }
};

}  // namespace qs

#endif  // QS_SERVICE_SERVER_REFUSED_STREAM_H_

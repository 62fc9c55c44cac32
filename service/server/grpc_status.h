// The one conversion from the service's errors to what gRPC sends.
#ifndef QS_SERVICE_SERVER_GRPC_STATUS_H_
#define QS_SERVICE_SERVER_GRPC_STATUS_H_

#include <cstddef>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace qs {

// A trailer must fit the 8 KiB of metadata that clients accept by default,
// the text percent-encoded (up to 3 bytes for one) and the details in base64.
constexpr size_t kMaxErrorMessageBytes = 768;
constexpr size_t kMaxErrorDetailsBytes = 4096;

// The code, the text cut to kMaxErrorMessageBytes at a UTF-8 boundary, and a
// serialized google.rpc.Status with the details of error.h, below
// kMaxErrorDetailsBytes: long texts in details are cut, then details are left
// out, ErrorInfo last. OK gives OK. Never fails.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The way back, for clients and tests: details become payloads again.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_GRPC_STATUS_H_

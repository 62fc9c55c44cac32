// Server credentials from PEM files, checked before the first connection.
#ifndef QS_SERVICE_SERVER_TLS_H_
#define QS_SERVICE_SERVER_TLS_H_

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "absl/status/statusor.h"
#include "service/server/options.h"

namespace qs {

// TLS, or plaintext without tls_cert. Errors: INVALID_ARGUMENT — a file cannot
// be read, is no PEM of its kind, or certificate and key do not belong
// together.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const ServerOptions& options);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_TLS_H_

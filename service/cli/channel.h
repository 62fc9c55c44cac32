// Connections to quantd.
#ifndef QS_SERVICE_CLI_CHANNEL_H_
#define QS_SERVICE_CLI_CHANNEL_H_

#include <grpcpp/channel.h>

#include <memory>

#include "absl/status/statusor.h"
#include "service/cli/arguments.h"

namespace qs::cli {

// A channel with a connection of its own, made on the first call; its calls
// carry the token. Errors: kUsage — a PEM or token file that cannot be read or
// holds something else; a token without TLS for an address that is not
// loopback.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(
    const ServerArguments& server);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_CHANNEL_H_

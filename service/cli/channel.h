// Connections to quantd.
#ifndef QS_SERVICE_CLI_CHANNEL_H_
#define QS_SERVICE_CLI_CHANNEL_H_

#include <grpcpp/channel.h>

#include <memory>

#include "absl/status/statusor.h"
#include "service/cli/arguments.h"

namespace qs::cli {

// A channel with a connection of its own, made on the first call. Errors:
// kUsage — a PEM file that cannot be read.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(
    const ServerArguments& server);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_CHANNEL_H_

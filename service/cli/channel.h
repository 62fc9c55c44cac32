// Connections to quantd.
#ifndef QS_SERVICE_CLI_CHANNEL_H_
#define QS_SERVICE_CLI_CHANNEL_H_

#include <grpcpp/channel.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "service/cli/arguments.h"
#include "service/cli/run_control.h"

namespace qs::cli {

// A channel with a connection of its own, made on the first call; its calls
// carry the token. Errors: kUsage — a PEM or token file that cannot be read or
// holds something else; a token without TLS for an address that is not
// loopback.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(
    const ServerArguments& server);

// Waits `time` before another try; shorter when a connection that was lost is
// back. Connects meanwhile, which a plain pause would not: without a call in
// flight nobody looks at the connection, and the next try gets an old answer.
// False: the run failed.
bool WaitToRetry(grpc::Channel& channel, RunControl& control,
                 absl::Duration time);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_CHANNEL_H_

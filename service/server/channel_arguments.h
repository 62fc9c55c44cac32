// The gRPC settings of every quantd server: message limits, flow control,
// keepalive. In one place so that the benchmark's empty server has the same.
#ifndef QS_SERVICE_SERVER_CHANNEL_ARGUMENTS_H_
#define QS_SERVICE_SERVER_CHANNEL_ARGUMENTS_H_

#include <grpcpp/server_builder.h>

#include "service/server/options.h"

namespace qs {

// Streams that a connection may have at a time.
constexpr int kMaxStreamsPerConnection = 100;

void SetChannelArguments(const ServerOptions& options,
                         grpc::ServerBuilder* builder);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_CHANNEL_ARGUMENTS_H_

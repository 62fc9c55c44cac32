// Tested by tests/service/server_test.cc.
#include "service/server/channel_arguments.h"

#include <grpcpp/resource_quota.h>

#include <climits>
#include <utility>

namespace qs {
namespace {

constexpr int kMaxFrameBytes = 1 << 20;
// What a stream keeps of answers that more will follow.
constexpr int kWriteBufferBytes = 1 << 20;

int Milliseconds(double seconds) {
  const double ms = seconds * 1000;
  return seconds == 0 || ms > INT_MAX ? INT_MAX : static_cast<int>(ms);
}

}  // namespace

void SetChannelArguments(const ServerOptions& options,
                         grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(kMaxMessageBytes));
  builder->SetMaxSendMessageSize(static_cast<int>(kMaxMessageBytes));
  grpc::ResourceQuota quota("connections");
  quota.Resize(static_cast<size_t>(options.connection_memory));
  builder->SetResourceQuota(quota);
  const std::pair<const char*, int> arguments[] = {
      {GRPC_ARG_HTTP2_BDP_PROBE, options.bdp_probe},
      {GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kMaxFrameBytes},
      {GRPC_ARG_HTTP2_WRITE_BUFFER_SIZE, kWriteBufferBytes},
      {GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection},
      {GRPC_ARG_MAX_CONNECTION_AGE_MS,
       Milliseconds(options.max_connection_age)},
      {GRPC_ARG_MAX_CONNECTION_IDLE_MS,
       Milliseconds(options.max_connection_idle)},
      {GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
       Milliseconds(options.handshake_timeout)},
      {GRPC_ARG_KEEPALIVE_TIME_MS, 60000},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000},
      {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
      {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 20000},
      {GRPC_ARG_ALLOW_REUSEPORT, 0},
  };
  for (const auto& [name, value] : arguments) {
    builder->AddChannelArgument(name, value);
  }
}

}  // namespace qs

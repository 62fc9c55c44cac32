// Tested by tests/e2e/quantctl_test.py.
#include "service/cli/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/posix_file.h"
#include "service/cli/exit_code.h"

namespace qs::cli {
namespace {

constexpr int kMaxMessageBytes = 4 << 20;
constexpr int64_t kMaxPemBytes = int64_t{1} << 20;

absl::StatusOr<std::string> ReadPem(const char* flag, const std::string& path) {
  if (path.empty()) return std::string();
  absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxPemBytes);
  if (text.ok()) return text;
  return UsageError(absl::StrCat(flag, ": ", text.status().message()));
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const ServerArguments& server) {
  if (server.tls_ca.empty() && server.tls_cert.empty()) {
    return grpc::InsecureChannelCredentials();
  }
  grpc::SslCredentialsOptions ssl;
  QS_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadPem("--tls-ca", server.tls_ca));
  QS_ASSIGN_OR_RETURN(ssl.pem_cert_chain,
                      ReadPem("--tls-cert", server.tls_cert));
  QS_ASSIGN_OR_RETURN(ssl.pem_private_key,
                      ReadPem("--tls-key", server.tls_key));
  return grpc::SslCredentials(ssl);
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(
    const ServerArguments& server) {
  QS_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ChannelCredentials> creds,
                      MakeCredentials(server));
  grpc::ChannelArguments args;
  // Channels of one process share connections otherwise.
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A proxy for web traffic is not meant for a weight stream.
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  args.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, kMaxMessageBytes);
  // A server whose machine is gone says nothing.
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  args.SetUserAgentPrefix(absl::StrCat("quantctl/", kVersion));
  return grpc::CreateCustomChannel(server.address, creds, args);
}

}  // namespace qs::cli

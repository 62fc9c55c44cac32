// Tested by tests/e2e/quantctl_test.py.
#include "service/cli/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <map>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/posix_file.h"
#include "service/cli/exit_code.h"
#include "service/server/listen_address.h"

namespace qs::cli {
namespace {

// For a server that takes connections and drops them.
constexpr absl::Duration kLeastPause = absl::Milliseconds(200);
// A run that failed waits no longer than this.
constexpr absl::Duration kRetrySlice = absl::Milliseconds(100);
constexpr int kMaxMessageBytes = 4 << 20;
constexpr int64_t kMaxPemBytes = int64_t{1} << 20;
constexpr int64_t kMaxTokenBytes = 4096;  // headers are limited to 8 KiB

absl::StatusOr<std::string> ReadPem(const char* flag, const std::string& path) {
  if (path.empty()) return std::string();
  absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxPemBytes);
  if (text.ok()) return text;
  return UsageError(absl::StrCat(flag, ": ", text.status().message()));
}

// Adds the token to every call.
class Bearer final : public grpc::MetadataCredentialsPlugin {
 public:
  explicit Bearer(const std::string& token) : value_("Bearer " + token) {}
  bool IsBlocking() const override { return false; }
  grpc::Status GetMetadata(
      grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
      std::multimap<grpc::string, grpc::string>* metadata) override {
    metadata->emplace("authorization", value_);
    return grpc::Status::OK;
  }

 private:
  const std::string value_;
};

// The file's text without the white space around it.
absl::StatusOr<std::string> ReadToken(const std::string& path) {
  absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxTokenBytes);
  if (!text.ok()) {
    return UsageError(absl::StrCat("--token-file: ", text.status().message()));
  }
  const std::string token(absl::StripAsciiWhitespace(*text));
  const bool fits = std::all_of(token.begin(), token.end(),
                                [](char c) { return c > ' ' && c < 127; });
  if (fits && !token.empty()) return token;
  return UsageError(absl::StrCat("--token-file: got ",
                                 token.empty() ? "nothing" : "other characters",
                                 ", allowed printable ASCII without spaces"));
}

// Plaintext that reveals the token to nobody: gRPC itself refuses to connect
// when the address turns out to be another than loopback.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> LoopbackCredentials(
    const ServerArguments& server) {
  const auto address = ParseListenAddress(server.address);
  if (address.ok() && address->loopback()) {
    return grpc::experimental::LocalCredentials(LOCAL_TCP);
  }
  return UsageError(absl::StrCat("--token-file: got --server ", server.address,
                                 " without TLS, allowed loopback, or with "
                                 "--tls-ca"));
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> TlsCredentials(
    const ServerArguments& server) {
  grpc::SslCredentialsOptions ssl;
  QS_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadPem("--tls-ca", server.tls_ca));
  QS_ASSIGN_OR_RETURN(ssl.pem_cert_chain,
                      ReadPem("--tls-cert", server.tls_cert));
  QS_ASSIGN_OR_RETURN(ssl.pem_private_key,
                      ReadPem("--tls-key", server.tls_key));
  return grpc::SslCredentials(ssl);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const ServerArguments& server) {
  if (server.token_file.empty()) {
    if (server.tls()) return TlsCredentials(server);
    return grpc::InsecureChannelCredentials();
  }
  QS_ASSIGN_OR_RETURN(
      const std::shared_ptr<grpc::ChannelCredentials> connection,
      server.tls() ? TlsCredentials(server) : LoopbackCredentials(server));
  QS_ASSIGN_OR_RETURN(const std::string token, ReadToken(server.token_file));
  return grpc::CompositeChannelCredentials(
      connection, grpc::experimental::MetadataCredentialsFromPlugin(
                      std::make_unique<Bearer>(token), GRPC_SECURITY_NONE));
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

bool WaitToRetry(grpc::Channel& channel, RunControl& control,
                 absl::Duration time) {
  const absl::Time end = absl::Now() + time;
  const bool lost = channel.GetState(true) != GRPC_CHANNEL_READY;
  if (!control.Sleep(lost ? std::min(time, kLeastPause) : time)) return false;
  while (absl::Now() < end && !control.failed()) {
    const absl::Time slice = std::min(end, absl::Now() + kRetrySlice);
    if (channel.WaitForConnected(absl::ToChronoTime(slice))) break;
  }
  return !control.failed();
}

}  // namespace qs::cli

// Tested by tests/cli/exit_code_test.cc.
#include "service/cli/connection_hint.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace qs::cli {
namespace {

// "HOST", "[::1]", but no URI of gRPC's ("unix:PATH", "dns:///HOST").
bool LacksPort(const std::string& address) {
  if (absl::StartsWith(address, "unix") || absl::StrContains(address, "/")) {
    return false;
  }
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return true;
  const bool digits =
      colon + 1 < address.size() &&
      std::all_of(address.begin() + static_cast<std::ptrdiff_t>(colon) + 1,
                  address.end(), [](char c) { return absl::ascii_isdigit(c); });
  return !digits;
}

}  // namespace

std::string ConnectionHint(const absl::Status& status,
                           const ServerArguments& server) {
  if (!absl::IsUnavailable(status)) return "";
  if (LacksPort(server.address)) {
    return "; --server has no port, so gRPC took 443: quantd's own is 50051";
  }
  if (!server.tls() && absl::StrContains(status.message(), "Socket closed")) {
    return "; if the server uses TLS, give --tls-ca";
  }
  if (server.tls() &&
      absl::StrContains(status.message(), "wrong version number")) {
    return "; if the server uses no TLS, leave --tls-ca and --tls-cert out";
  }
  return "";
}

}  // namespace qs::cli

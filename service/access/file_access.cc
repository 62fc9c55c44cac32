// Tested by tests/service/access_file_test.cc and access_e2e_test.cc.
#include "service/access/file_access.h"

#include <grpcpp/security/auth_context.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/server/error.h"
#include "service/server/log.h"

namespace qs {
namespace {

constexpr absl::StatusCode kUnknown = absl::StatusCode::kUnauthenticated;
constexpr std::string_view kScheme = "bearer ";

// gRPC's property of the peer, and the kind of name that it holds.
constexpr std::pair<const char*, const char*> kProperties[] = {
    {"peer_dns", "dns:"},
    {"peer_uri", "uri:"},
    {"peer_email", "email:"},
    {"peer_ip", "ip:"},
    {"x509_common_name", "cn:"}};

std::string ToString(grpc::string_ref text) {
  return std::string(text.data(), text.size());
}

// The token of an authorization header, or nothing.
std::optional<std::string_view> BearerToken(std::string_view header) {
  if (header.size() <= kScheme.size()) return std::nullopt;
  const absl::string_view scheme(header.data(), kScheme.size());
  if (!absl::EqualsIgnoreCase(scheme, {kScheme.data(), kScheme.size()})) {
    return std::nullopt;
  }
  return header.substr(kScheme.size());
}

}  // namespace

Credentials CredentialsOf(const grpc::CallbackServerContext& call) {
  Credentials out;
  const auto [begin, end] = call.client_metadata().equal_range("authorization");
  for (auto it = begin; it != end; ++it) {
    out.authorization.push_back(ToString(it->second));
  }
  const auto peer = call.auth_context();
  if (peer == nullptr) return out;
  for (const auto& [property, kind] : kProperties) {
    for (const grpc::string_ref& value : peer->FindPropertyValues(property)) {
      out.names.push_back(kind + ToString(value));
    }
  }
  return out;
}

absl::StatusOr<Caller> FindCaller(const AccessRules& rules,
                                  const Credentials& credentials) {
  if (credentials.authorization.size() > 1) {
    return RpcError(
        kUnknown, "BAD_CREDENTIAL",
        absl::StrCat("authorization: got it ", credentials.authorization.size(),
                     " times, allowed once"));
  }
  if (!credentials.authorization.empty()) {
    const auto token = BearerToken(credentials.authorization[0]);
    if (!token) {
      return RpcError(kUnknown, "BAD_CREDENTIAL",
                      "authorization: got another form, allowed \"Bearer "
                      "TOKEN\"");
    }
    std::optional<Caller> caller = FindToken(rules, *token);
    if (caller) return *std::move(caller);
    return RpcError(kUnknown, "UNKNOWN_CREDENTIAL",
                    "authorization: got a token that the access file does not "
                    "have");
  }
  for (const std::string& name : credentials.names) {
    const auto found = rules.certificates.find(name);
    if (found != rules.certificates.end()) return found->second;
  }
  if (credentials.names.empty()) {
    return RpcError(kUnknown, "NO_CREDENTIAL",
                    "authorization: got nothing, allowed \"Bearer TOKEN\" or a "
                    "client certificate");
  }
  return RpcError(kUnknown, "UNKNOWN_CREDENTIAL",
                  "certificate: got one whose names the access file does not "
                  "have");
}

absl::StatusOr<std::shared_ptr<FileAccess>> FileAccess::Open(
    const std::string& path, bool client_certificates) {
  const std::shared_ptr<FileAccess> made(
      new FileAccess(path, client_certificates));
  QS_ASSIGN_OR_RETURN(AccessRules rules, made->Load());
  absl::MutexLock lock(&made->mutex_);
  made->rules_ = std::make_shared<const AccessRules>(std::move(rules));
  return made;
}

absl::StatusOr<AccessRules> FileAccess::Load() const {
  QS_ASSIGN_OR_RETURN(AccessRules rules, LoadAccessRules(path_));
  if (!client_certificates_ && !rules.certificates.empty()) {
    return absl::InvalidArgumentError(
        "access-file: certificates: got some, allowed with tls-client-ca");
  }
  return rules;
}

bool FileAccess::Reload() {
  absl::StatusOr<AccessRules> rules = Load();
  const std::string error(rules.status().message());
  absl::MutexLock lock(&mutex_);
  const bool repeats = error == last_error_;
  last_error_ = error;
  if (!rules.ok()) {
    if (!repeats) {
      Log(LogLevel::kError, "access_file_refused",
          {{"file", path_}, {"error", error}});
    }
    return false;
  }
  if (repeats && *rules == *rules_) return true;
  Log(LogLevel::kInfo, "access_file_taken",
      {{"file", path_},
       {"tokens", static_cast<int64_t>(rules->tokens.size())},
       {"certificates", static_cast<int64_t>(rules->certificates.size())}});
  rules_ = std::make_shared<const AccessRules>(*std::move(rules));
  return true;
}

std::shared_ptr<const AccessRules> FileAccess::rules() const {
  absl::MutexLock lock(&mutex_);
  return rules_;
}

absl::StatusOr<Caller> FileAccess::Identify(
    const grpc::CallbackServerContext& call) const {
  return FindCaller(*rules(), CredentialsOf(call));
}

}  // namespace qs

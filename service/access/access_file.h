// The access file: which bearer token or client certificate is which project in
// which role. JSON, for people to write:
//
//   {"tokens": [
//      {"sha256": "<64 hex digits>", "project": "team-a", "role": "user",
//       "comment": "nightly build"}],
//    "certificates": [
//      {"name": "dns:worker.team-b.example", "project": "team-b",
//       "role": "reader"}]}
//
// `sha256` is of the token's text, so that the file gives no token away; tokens
// must be random (32 bytes), since their hash has no salt. `name` is one that
// the certificate carries: "dns:", "uri:", "email:" or "ip:" and a subject
// alternative name, or "cn:" and the subject's common name.
// Thread: pure functions.
#ifndef QS_SERVICE_ACCESS_ACCESS_FILE_H_
#define QS_SERVICE_ACCESS_ACCESS_FILE_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "service/access/access.h"

namespace qs {

using TokenHash = std::array<uint8_t, 32>;

struct AccessRules {
  std::vector<std::pair<TokenHash, Caller>> tokens;
  std::map<std::string, Caller> certificates;  // by name
  bool operator==(const AccessRules&) const = default;
};

// Errors: INVALID_ARGUMENT "access-file: tokens[2].role: got, allowed" — no
// such JSON, an unknown or missing field, an entry that comes twice, none at
// all, more than 10,000.
absl::StatusOr<AccessRules> ParseAccessRules(std::string_view json);

// Errors: also those of reading the file.
absl::StatusOr<AccessRules> LoadAccessRules(const std::string& path);

// Nullopt: OpenSSL refused.
std::optional<TokenHash> HashToken(std::string_view token);

// Takes the same time whichever token it is, and if it is none.
std::optional<Caller> FindToken(const AccessRules& rules,
                                std::string_view token);

}  // namespace qs

#endif  // QS_SERVICE_ACCESS_ACCESS_FILE_H_

// Tested by tests/service/access_file_test.cc.
#include "service/access/access_file.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "quant/formats/posix_file.h"

namespace qs {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxFileBytes = int64_t{4} << 20;
constexpr size_t kMaxEntries = 10000;  // of each kind

absl::Status Wrong(const std::string& where, const std::string& text) {
  return absl::InvalidArgumentError(
      absl::StrCat("access-file: ", where, ": ", text));
}

// Every key must be known: a misspelt one must not open or close anything.
absl::Status CheckKeys(const Json& object, const std::string& where,
                       const std::set<std::string>& known,
                       const std::string& allowed) {
  for (const auto& [key, unused] : object.items()) {
    if (known.count(key) == 0) {
      return Wrong(where, absl::StrCat("got key ", QuoteForError(key),
                                       ", allowed ", allowed));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Text(const Json& entry, const std::string& where,
                                 const char* key, const char* allowed) {
  const auto found = entry.find(key);
  if (found != entry.end() && found->is_string()) {
    return found->get<std::string>();
  }
  return Wrong(
      absl::StrCat(where, ".", key),
      absl::StrCat("got ",
                   found == entry.end() ? "nothing" : JsonForError(*found),
                   ", allowed ", allowed));
}

bool IsProject(const std::string& text) {
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  };
  return !text.empty() && text.size() <= 63 && text[0] != '-' &&
         std::all_of(text.begin(), text.end(), fits);
}

absl::StatusOr<Caller> ParseCaller(const Json& entry,
                                   const std::string& where) {
  const char* const projects =
      "1 to 63 of a-z, 0-9 and \"-\", which is not the first";
  Caller caller;
  QS_ASSIGN_OR_RETURN(caller.project, Text(entry, where, "project", projects));
  if (!IsProject(caller.project)) {
    return Wrong(where + ".project",
                 absl::StrCat("got ", QuoteForError(caller.project),
                              ", allowed ", projects));
  }
  const char* const roles = "reader, user, admin";
  QS_ASSIGN_OR_RETURN(const std::string role,
                      Text(entry, where, "role", roles));
  if (role == "reader") {
    caller.role = Role::kReader;
  } else if (role == "user") {
    caller.role = Role::kUser;
  } else if (role == "admin") {
    caller.role = Role::kAdmin;
  } else {
    return Wrong(where + ".role", absl::StrCat("got ", QuoteForError(role),
                                               ", allowed ", roles));
  }
  return caller;
}

absl::StatusOr<TokenHash> ParseHash(const std::string& hex,
                                    const std::string& where) {
  const bool digits = std::all_of(hex.begin(), hex.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
  TokenHash hash;
  if (hex.size() != 2 * hash.size() || !digits) {
    // What was put here by mistake may be the token itself: it is not shown.
    return Wrong(where + ".sha256",
                 absl::StrCat("got ", hex.size(),
                              " characters, allowed 64 of 0-9 and a-f"));
  }
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), hash.begin());
  return hash;
}

absl::Status AddToken(const Json& entry, const std::string& where,
                      std::set<TokenHash>* seen, AccessRules* rules) {
  QS_RETURN_IF_ERROR(CheckKeys(entry, where,
                               {"sha256", "project", "role", "comment"},
                               "sha256, project, role, comment"));
  QS_ASSIGN_OR_RETURN(const std::string hex,
                      Text(entry, where, "sha256", "64 of 0-9 and a-f"));
  QS_ASSIGN_OR_RETURN(const TokenHash hash, ParseHash(hex, where));
  if (!seen->insert(hash).second) {
    return Wrong(where + ".sha256", "got it twice, allowed once");
  }
  QS_ASSIGN_OR_RETURN(Caller caller, ParseCaller(entry, where));
  rules->tokens.emplace_back(hash, std::move(caller));
  return absl::OkStatus();
}

bool IsNameKind(const std::string& kind) {
  return kind == "dns" || kind == "uri" || kind == "email" || kind == "ip" ||
         kind == "cn";
}

absl::Status AddCertificate(const Json& entry, const std::string& where,
                            AccessRules* rules) {
  const char* const names = "dns:, uri:, email:, ip: or cn: and a name";
  QS_RETURN_IF_ERROR(CheckKeys(entry, where,
                               {"name", "project", "role", "comment"},
                               "name, project, role, comment"));
  QS_ASSIGN_OR_RETURN(const std::string name,
                      Text(entry, where, "name", names));
  const size_t colon = name.find(':');
  const bool fits = colon != std::string::npos && colon + 1 < name.size() &&
                    IsNameKind(name.substr(0, colon));
  if (!fits) {
    return Wrong(where + ".name", absl::StrCat("got ", QuoteForError(name),
                                               ", allowed ", names));
  }
  QS_ASSIGN_OR_RETURN(Caller caller, ParseCaller(entry, where));
  if (!rules->certificates.emplace(name, std::move(caller)).second) {
    return Wrong(where + ".name", absl::StrCat("got ", QuoteForError(name),
                                               " twice, allowed once"));
  }
  return absl::OkStatus();
}

// Calls add(entry, "key[i]") for each entry of the list at `key`.
template <typename AddEntry>
absl::Status ForEach(const Json& file, const std::string& key,
                     const AddEntry& add) {
  const auto list = file.find(key);
  if (list == file.end()) return absl::OkStatus();
  if (!list->is_array() || list->size() > kMaxEntries) {
    return Wrong(key, absl::StrCat("got ", JsonForError(*list),
                                   ", allowed a list of up to ", kMaxEntries));
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string where = absl::StrCat(key, "[", i, "]");
    const Json& entry = (*list)[i];
    if (!entry.is_object()) {
      return Wrong(where, absl::StrCat("got ", JsonForError(entry),
                                       ", allowed an object"));
    }
    QS_RETURN_IF_ERROR(add(entry, where));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AccessRules> ParseAccessRules(std::string_view json) {
  QS_ASSIGN_OR_RETURN(const Json file, ParseJsonObject(json, "access-file"));
  QS_RETURN_IF_ERROR(CheckKeys(file, "file", {"tokens", "certificates"},
                               "tokens, certificates"));
  AccessRules rules;
  std::set<TokenHash> seen;
  QS_RETURN_IF_ERROR(
      ForEach(file, "tokens", [&](const Json& entry, const std::string& where) {
        return AddToken(entry, where, &seen, &rules);
      }));
  QS_RETURN_IF_ERROR(ForEach(file, "certificates",
                             [&](const Json& entry, const std::string& where) {
                               return AddCertificate(entry, where, &rules);
                             }));
  if (rules.tokens.empty() && rules.certificates.empty()) {
    return Wrong("file", "got no entry, allowed one or more");
  }
  return rules;
}

absl::StatusOr<AccessRules> LoadAccessRules(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxFileBytes);
  if (text.ok()) return ParseAccessRules(*text);
  return absl::InvalidArgumentError(
      absl::StrCat("access-file: ", text.status().message()));
}

std::optional<TokenHash> HashToken(std::string_view token) {
  TokenHash hash;
  if (EVP_Digest(token.data(), token.size(), hash.data(), nullptr, EVP_sha256(),
                 nullptr) != 1) {
    return std::nullopt;
  }
  return hash;
}

std::optional<Caller> FindToken(const AccessRules& rules,
                                std::string_view token) {
  const std::optional<TokenHash> hash = HashToken(token);
  if (!hash) return std::nullopt;
  const Caller* found = nullptr;
  for (const auto& [known, caller] : rules.tokens) {
    const bool same =
        CRYPTO_memcmp(known.data(), hash->data(), hash->size()) == 0;
    found = same ? &caller : found;
  }
  if (found == nullptr) return std::nullopt;
  return *found;
}

}  // namespace qs

// Tested by tests/service/access_test.cc.
#include "service/access/access.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "service/server/error.h"

namespace qs {
namespace {

const char* NameOf(Role role) {
  switch (role) {
    case Role::kReader:
      return "reader";
    case Role::kUser:
      return "user";
    case Role::kAdmin:
      return "admin";
  }
  return "";
}

}  // namespace

absl::Status RequireRole(const Caller& caller, Role needed) {
  if (caller.role >= needed) return absl::OkStatus();
  return RpcError(absl::StatusCode::kPermissionDenied, "ROLE_TOO_LOW",
                  absl::StrCat("role: got ", NameOf(caller.role),
                               ", allowed from ", NameOf(needed), " on"),
                  {{"got", NameOf(caller.role)}, {"needed", NameOf(needed)}});
}

absl::StatusOr<std::string> IdFromName(const Caller& caller,
                                       const std::string& field,
                                       const std::string& collection,
                                       const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() != 4 || parts[0] != "projects" || parts[1].empty() ||
      parts[2] != collection || parts[3].empty()) {
    return BadFieldError(
        field, absl::StrCat("got \"", name, "\", allowed \"projects/PROJECT/",
                            collection, "/ID\", PROJECT may be \"-\""));
  }
  if (parts[1] != "-" && parts[1] != caller.project) {
    return RpcError(absl::StatusCode::kPermissionDenied, "PROJECT_NOT_ALLOWED",
                    absl::StrCat(field, ": got project \"", parts[1],
                                 "\", allowed \"", caller.project, "\""),
                    {{"project", caller.project}});
  }
  return parts[3];
}

std::string NameFromId(const std::string& project,
                       const std::string& collection, const std::string& id) {
  return absl::StrCat("projects/", project, "/", collection, "/", id);
}

}  // namespace qs

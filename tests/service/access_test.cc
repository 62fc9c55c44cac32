// Roles in their order, and whose resource a name speaks of.
#include "service/access/access.h"

#include <string>
#include <vector>

#include "service/server/error.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

const Caller kCaller{"team-a", Role::kUser};

TEST_CASE("a role may do what those before it may, and no more", "[access]") {
  const std::vector<Role> roles = {Role::kReader, Role::kUser, Role::kAdmin};
  for (const Role has : roles) {
    for (const Role needed : roles) {
      const absl::Status status = RequireRole({"p", has}, needed);
      REQUIRE(status.ok() == (has >= needed));
      if (status.ok()) continue;
      REQUIRE(status.code() == absl::StatusCode::kPermissionDenied);
      REQUIRE(ErrorReason(status) == "ROLE_TOO_LOW");
    }
  }
  const absl::Status status = RequireRole({"p", Role::kReader}, Role::kUser);
  REQUIRE(status.message() == "role: got reader, allowed from user on");
  REQUIRE(ErrorMetadataValue(status, "got") == "reader");
  REQUIRE(ErrorMetadataValue(status, "needed") == "user");
}

TEST_CASE("a name of the caller's own project gives its id", "[access]") {
  const std::string name = NameFromId("team-a", "uploads", "u1");
  REQUIRE(name == "projects/team-a/uploads/u1");
  REQUIRE(*IdFromName(kCaller, "name", "uploads", name) == "u1");
  REQUIRE(*IdFromName(kCaller, "name", "uploads", "projects/-/uploads/u1") ==
          "u1");
}

TEST_CASE("another project's name is refused, an admin's too", "[access]") {
  for (const Role role : {Role::kReader, Role::kUser, Role::kAdmin}) {
    const absl::Status status = IdFromName({"team-a", role}, "name", "uploads",
                                           "projects/team-b/uploads/u1")
                                    .status();
    REQUIRE(status.code() == absl::StatusCode::kPermissionDenied);
    REQUIRE(ErrorReason(status) == "PROJECT_NOT_ALLOWED");
    REQUIRE(status.message() ==
            "name: got project \"team-b\", allowed \"team-a\"");
  }
}

TEST_CASE("what is no name of the collection is a wrong field", "[access]") {
  for (const char* name :
       {"", "u1", "projects/team-a/uploads", "projects/team-a/uploads/",
        "projects//uploads/u1", "projects/team-a/jobs/u1",
        "project/team-a/uploads/u1", "projects/team-a/uploads/u1/x",
        "/projects/team-a/uploads/u1", "projects/team-b/jobs/u1"}) {
    INFO(name);
    const absl::Status status =
        IdFromName(kCaller, "upload", "uploads", name).status();
    REQUIRE(status.code() == absl::StatusCode::kInvalidArgument);
    REQUIRE(ErrorReason(status) == "BAD_FIELD");
    REQUIRE(std::string(status.message()).find("upload: got ") == 0);
  }
}

}  // namespace
}  // namespace qs

// Who calls, and what they may do. Every RPC asks first; health and reflection,
// which gRPC itself serves, do not.
#ifndef QS_SERVICE_ACCESS_ACCESS_H_
#define QS_SERVICE_ACCESS_ACCESS_H_

#include <grpcpp/server_context.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace qs {

// Each may do what those before it may.
enum class Role { kReader, kUser, kAdmin };

struct Caller {
  std::string project;  // [a-z0-9-]{1,63}
  Role role = Role::kReader;
  bool operator==(const Caller&) const = default;
};

class AccessControl {
 public:
  virtual ~AccessControl() = default;
  // Errors: UNAUTHENTICATED — no credential, or one that is not known.
  // Thread: thread-safe; does not block.
  virtual absl::StatusOr<Caller> Identify(
      const grpc::CallbackServerContext& call) const = 0;
};

// Everybody is the admin of project "default": what a server without
// credentials does, which listens on loopback only.
class OpenAccess final : public AccessControl {
 public:
  absl::StatusOr<Caller> Identify(
      const grpc::CallbackServerContext&) const override {
    return Caller{"default", Role::kAdmin};
  }
};

// Errors: PERMISSION_DENIED ROLE_TOO_LOW — needed and got.
absl::Status RequireRole(const Caller& caller, Role needed);

// The last part of "projects/PROJECT/COLLECTION/ID". PROJECT "-" stands for the
// caller's own. Errors: INVALID_ARGUMENT BAD_FIELD (`field`) — not such a name;
// PERMISSION_DENIED PROJECT_NOT_ALLOWED — another project's, whether it is
// there or not.
absl::StatusOr<std::string> IdFromName(const Caller& caller,
                                       const std::string& field,
                                       const std::string& collection,
                                       const std::string& name);
std::string NameFromId(const std::string& project,
                       const std::string& collection, const std::string& id);

}  // namespace qs

#endif  // QS_SERVICE_ACCESS_ACCESS_H_

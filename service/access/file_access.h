// FileAccess: callers are who the access file says. A call with a token is
// known by it alone; a call without one by the certificate of its connection.
//
// Thread: thread-safe.
#ifndef QS_SERVICE_ACCESS_FILE_ACCESS_H_
#define QS_SERVICE_ACCESS_FILE_ACCESS_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "service/access/access.h"
#include "service/access/access_file.h"

namespace qs {

// What a call shows.
struct Credentials {
  std::vector<std::string> authorization;  // header values, should be one
  std::vector<std::string> names;          // of the certificate, "dns:..." etc.
};

Credentials CredentialsOf(const grpc::CallbackServerContext& call);

// Errors: UNAUTHENTICATED NO_CREDENTIAL — neither token nor certificate;
// BAD_CREDENTIAL — a header that is no bearer token, or several;
// UNKNOWN_CREDENTIAL — not in the file.
absl::StatusOr<Caller> FindCaller(const AccessRules& rules,
                                  const Credentials& credentials);

class FileAccess final : public AccessControl {
 public:
  // `client_certificates`: connections show one, so that names in the file mean
  // something. Errors: INVALID_ARGUMENT — LoadAccessRules'; the file has
  // certificates and connections show none.
  static absl::StatusOr<std::shared_ptr<FileAccess>> Open(
      const std::string& path, bool client_certificates);

  // Takes what the file says now. On an error what it said before stays; both
  // are logged, an error that repeats once. False: it could not be taken.
  bool Reload();

  absl::StatusOr<Caller> Identify(
      const grpc::CallbackServerContext& call) const override;

 private:
  FileAccess(std::string path, bool client_certificates)
      : path_(std::move(path)), client_certificates_(client_certificates) {}
  absl::StatusOr<AccessRules> Load() const;
  std::shared_ptr<const AccessRules> rules() const;

  const std::string path_;
  const bool client_certificates_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const AccessRules> rules_ ABSL_GUARDED_BY(mutex_);
  std::string last_error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_ACCESS_FILE_ACCESS_H_

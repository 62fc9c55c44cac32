// RootedOpener: opens what lies beneath a read root, and nothing else, whatever
// is put in place of it between two calls.
#ifndef QS_SERVICE_ACCESS_ROOTED_OPENER_H_
#define QS_SERVICE_ACCESS_ROOTED_OPENER_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/file_opener.h"
#include "quant/formats/posix_file.h"
#include "service/access/open_beneath.h"

namespace qs {

class RootedOpener final : public FileOpener {
 public:
  // `root` lies at `root_path`. `named` is the absolute path that a client
  // named in `field`: errors say of a path what comes below it.
  RootedOpener(std::shared_ptr<const UniqueFd> root, Links links,
               std::string root_path, std::string named, std::string field)
      : root_(std::move(root)),
        links_(links),
        root_path_(std::move(root_path)),
        named_(std::move(named)),
        field_(std::move(field)) {}

  // Resolves `path`, absolute, from the root's descriptor: links are refused,
  // or followed as long as they are relative and stay beneath the root. Errors:
  // PERMISSION_DENIED URI_NOT_ALLOWED — it leads elsewhere, over links that are
  // refused, in a circle or of /proc, or is not the server's to look at;
  // NOT_FOUND SOURCE_NOT_FOUND — nothing is there, or a link to nothing; as
  // PosixError.
  absl::StatusOr<UniqueFd> Open(const std::string& path,
                                int flags) const override;

 private:
  absl::Status ErrorOf(int error, const std::string& path) const;
  bool IsLink(const std::string& path) const;

  const std::shared_ptr<const UniqueFd> root_;  // O_PATH
  const Links links_;
  const std::string root_path_;
  const std::string named_;
  const std::string field_;
};

}  // namespace qs

#endif  // QS_SERVICE_ACCESS_ROOTED_OPENER_H_

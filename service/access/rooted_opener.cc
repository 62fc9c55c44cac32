// Tested by tests/service/uri_roots_test.cc.
#include "service/access/rooted_opener.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "quant/formats/json.h"
#include "quant/formats/safetensors.h"
#include "service/access/file_uri.h"
#include "service/access/open_beneath.h"
#include "service/server/error.h"

namespace qs {
namespace {

std::string Below(const std::string& path, const std::string& root) {
  return path == root ? "." : path.substr(root.size() + 1);
}

}  // namespace

absl::StatusOr<UniqueFd> RootedOpener::Open(const std::string& path,
                                            int flags) const {
  if (!IsBeneath(path, root_path_)) return ErrorOf(EXDEV, path);
  UniqueFd fd =
      OpenBeneath(root_->get(), Below(path, root_path_), flags, links_);
  if (fd.get() < 0) return ErrorOf(errno, path);
  return fd;
}

// What the kernel's answer means for a client, who learns nothing of what lies
// elsewhere.
absl::Status RootedOpener::ErrorOf(int error, const std::string& path) const {
  const bool below = path != named_ && IsBeneath(path, named_);
  const std::string what =
      below ? QuoteForError(Below(path, named_)) + ", which" : "a path that";
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return RpcError(absl::StatusCode::kNotFound, "SOURCE_NOT_FOUND",
                      absl::StrCat(field_, ": got ", what,
                                   IsLink(path) ? " is a link to nothing"
                                                : " leads to nothing"),
                      {{"field", field_}});
    case EXDEV:
      return UriNotAllowed(
          field_, what +
                      " leads over a link out of its read root, allowed: "
                      "relative links that stay below it");
    case ELOOP:
      if (links_ == Links::kRefused) {
        return UriNotAllowed(field_,
                             what +
                                 " leads over a link, allowed: paths without "
                                 "links (the server runs without "
                                 "--follow-links)");
      }
      return UriNotAllowed(field_,
                           what +
                               " leads over links in a circle or a link of the "
                               "system's own, allowed: plain links");
    case EACCES:
    case EPERM:
      return UriNotAllowed(field_, what + " the server may not look at");
    default:
      return PosixError(error, "open", below ? Below(path, named_) : field_);
  }
}

bool RootedOpener::IsLink(const std::string& path) const {
  const UniqueFd fd = OpenBeneath(root_->get(), Below(path, root_path_),
                                  O_PATH | O_NOFOLLOW, Links::kBeneath);
  struct stat info;
  return fd.get() >= 0 && fstat(fd.get(), &info) == 0 && S_ISLNK(info.st_mode);
}

}  // namespace qs

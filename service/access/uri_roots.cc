// Tested by tests/service/uri_roots_test.cc.
#include "service/access/uri_roots.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/safetensors.h"
#include "service/access/file_uri.h"
#include "service/access/open_beneath.h"
#include "service/access/rooted_opener.h"
#include "service/server/error.h"

namespace qs {
namespace {

constexpr char kRead[] = "read-root";
constexpr char kWrite[] = "write-root";
constexpr char kOverLink[] = "a path that leads over a link";

struct RootText {
  std::string project;
  std::string path;
};

absl::Status RootError(const std::string& option, const std::string& got,
                       const std::string& allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": got \"", got, "\", allowed ", allowed));
}

bool IsProject(const std::string& text) {
  return !text.empty() && text.size() <= 63 &&
         text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") ==
             std::string::npos;
}

bool IsPlain(const std::string& path) {
  return path.size() > 1 && path[0] == '/' && path.back() != '/' &&
         (path + "/").find("//") == std::string::npos &&
         (path + "/").find("/./") == std::string::npos &&
         (path + "/").find("/../") == std::string::npos;
}

absl::StatusOr<RootText> ParseRoot(const std::string& option,
                                   const std::string& text) {
  RootText root{"", text};
  if (!text.empty() && text[0] != '/') {
    const size_t equals = text.find('=');
    root.project = text.substr(0, equals);
    root.path = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (!IsProject(root.project)) root.path.clear();
  }
  if (!IsPlain(root.path)) {
    return RootError(option, text,
                     "PATH or PROJECT=PATH, the path absolute, not \"/\", "
                     "without empty, \".\" and \"..\" parts");
  }
  return root;
}

absl::StatusOr<std::vector<RootText>> ParseRoots(
    const std::string& option, const std::vector<std::string>& texts) {
  std::vector<RootText> roots;
  for (const std::string& text : texts) {
    QS_ASSIGN_OR_RETURN(RootText root, ParseRoot(option, text));
    roots.push_back(std::move(root));
  }
  return roots;
}

absl::Status CheckApart(const std::string& read, const std::string& write) {
  if (read == write) return absl::OkStatus();
  if (!IsBeneath(read, write) && !IsBeneath(write, read)) {
    return absl::OkStatus();
  }
  return RootError(
      kWrite, write,
      absl::StrCat("a path apart from read-root \"", read, "\", or the same"));
}

// What the kernel's answer means for a client, who learns nothing of what lies
// elsewhere.
absl::Status NewPathError(int error, const std::string& field) {
  if (error == ENOENT || error == ENOTDIR) {
    return RpcError(absl::StatusCode::kNotFound, "DESTINATION_NOT_FOUND",
                    absl::StrCat(field, ": got a path at which nothing is"),
                    {{"field", field}});
  }
  if (error == ELOOP || error == EXDEV) {
    return UriNotAllowed(field, kOverLink);
  }
  if (error == EACCES || error == EPERM) {
    return UriNotAllowed(field, "a path that the server may not look at");
  }
  return PosixError(error, "resolve", field);
}

absl::Status CheckKind(mode_t mode, const std::string& field) {
  if (S_ISREG(mode) || S_ISDIR(mode)) return absl::OkStatus();
  if (S_ISLNK(mode)) return UriNotAllowed(field, kOverLink);
  return UriNotAllowed(field, "a device, a pipe or a socket");
}

}  // namespace

absl::Status CheckUriRoots(const std::vector<std::string>& read_roots,
                           const std::vector<std::string>& write_roots) {
  QS_ASSIGN_OR_RETURN(const std::vector<RootText> read,
                      ParseRoots(kRead, read_roots));
  QS_ASSIGN_OR_RETURN(const std::vector<RootText> write,
                      ParseRoots(kWrite, write_roots));
  for (const RootText& r : read) {
    for (const RootText& w : write) {
      QS_RETURN_IF_ERROR(CheckApart(r.path, w.path));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<UriRoots::Root>> UriRoots::OpenRoots(
    const std::string& option, const std::vector<std::string>& texts) {
  QS_ASSIGN_OR_RETURN(std::vector<RootText> parsed, ParseRoots(option, texts));
  std::vector<Root> roots;
  for (RootText& text : parsed) {
    const std::unique_ptr<char, decltype(&free)> real(
        realpath(text.path.c_str(), nullptr), &free);
    if (real == nullptr) return PosixError(errno, option, text.path);
    UniqueFd fd = OpenWithoutLinks(real.get(), O_PATH | O_DIRECTORY);
    if (fd.get() < 0) return PosixError(errno, option, text.path);
    roots.push_back({std::move(text.project), std::move(text.path), real.get(),
                     std::make_shared<const UniqueFd>(std::move(fd))});
  }
  return roots;
}

absl::StatusOr<UriRoots> UriRoots::Open(
    const std::vector<std::string>& read_roots,
    const std::vector<std::string>& write_roots, Links read_links) {
  QS_RETURN_IF_ERROR(CheckUriRoots(read_roots, write_roots));
  UriRoots out;
  out.read_links_ = read_links;
  if (read_roots.empty() && write_roots.empty()) return out;
  QS_RETURN_IF_ERROR(RequireOpenBeneath());
  QS_ASSIGN_OR_RETURN(out.read_, OpenRoots(kRead, read_roots));
  QS_ASSIGN_OR_RETURN(out.write_, OpenRoots(kWrite, write_roots));
  for (const Root& r : out.read_) {
    for (const Root& w : out.write_) {
      QS_RETURN_IF_ERROR(CheckApart(r.real, w.real));
    }
  }
  return out;
}

std::vector<std::string> UriRoots::write_directories() const {
  std::vector<std::string> directories;
  for (const Root& root : write_) directories.push_back(root.real);
  return directories;
}

absl::StatusOr<InputPath> UriRoots::ResolveExisting(
    const std::string& project, const std::string& uri,
    const std::string& field) const {
  QS_ASSIGN_OR_RETURN(const std::string path, PathOfFileUri(field, uri));
  absl::Status refused = UriNotAllowed(field, "a path outside the read roots");
  for (const Root& root : read_) {
    if (!root.project.empty() && root.project != project) continue;
    if (!IsBeneath(path, root.path)) continue;
    InputPath found{root.real + path.substr(root.path.size()), nullptr};
    found.opener = std::make_shared<const RootedOpener>(
        root.fd, read_links_, root.real, found.path, field);
    const absl::StatusOr<struct stat> info =
        StatFile(found.path, found.opener.get());
    if (!info.ok()) {
      // Another root may lie within this one and lead on.
      refused = info.status();
      continue;
    }
    QS_RETURN_IF_ERROR(CheckKind(info->st_mode, field));
    return found;
  }
  return refused;
}

absl::StatusOr<std::string> UriRoots::ResolveNew(
    const std::string& project, const std::string& uri,
    const std::string& field) const {
  QS_ASSIGN_OR_RETURN(const std::string path, PathOfFileUri(field, uri));
  absl::Status refused = UriNotAllowed(field, "a path outside the write roots");
  for (const Root& root : write_) {
    if (!root.project.empty() && root.project != project) continue;
    if (path == root.path || !IsBeneath(path, root.path)) continue;
    const std::string below = path.substr(root.path.size() + 1);
    const size_t slash = below.rfind('/');
    const bool direct = slash == std::string::npos;
    const std::string name = direct ? below : below.substr(slash + 1);
    const UniqueFd parent =
        OpenBeneath(root.fd->get(), direct ? "." : below.substr(0, slash),
                    O_PATH | O_DIRECTORY, Links::kRefused);
    if (parent.get() < 0) {
      refused = NewPathError(errno, field);
      continue;
    }
    struct stat info;
    if (fstatat(parent.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
      QS_RETURN_IF_ERROR(CheckKind(info.st_mode, field));
    } else if (errno != ENOENT) {
      return NewPathError(errno, field);
    }
    if (faccessat(parent.get(), ".", W_OK | X_OK, AT_EACCESS) != 0) {
      return RpcError(
          absl::StatusCode::kPermissionDenied, "DESTINATION_NOT_WRITABLE",
          absl::StrCat(field,
                       ": got a directory that the server may not write"),
          {{"field", field}});
    }
    return absl::StrCat(root.real, "/", below);
  }
  return refused;
}

}  // namespace qs

// Tested by tests/service/uri_roots_test.cc.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "quant/formats/safetensors.h"
#include "service/access/file_uri.h"
#include "service/access/open_beneath.h"
#include "service/access/uri_roots.h"
#include "service/server/error.h"

namespace qs {
namespace {

// As deep as Checkpoint looks; what lies deeper is not read.
constexpr int kMaxDepth = 4;
// Checkpoint's own limit of side files, and as many shards.
constexpr int kMaxEntries = 20'000;
constexpr char kField[] = "source";

struct CloseFolder {
  void operator()(DIR* folder) const { closedir(folder); }
};

absl::Status NotFound() {
  return RpcError(absl::StatusCode::kNotFound, "SOURCE_NOT_FOUND",
                  absl::StrCat(kField, ": got a path at which nothing is"));
}

absl::Status CheckEntry(mode_t mode, const std::string& name) {
  if (S_ISREG(mode) || S_ISDIR(mode)) return absl::OkStatus();
  return UriNotAllowed(
      kField,
      absl::StrCat(QuoteForError(name), ", which is ",
                   S_ISLNK(mode) ? "a link" : "a device, a pipe or a socket",
                   "; allowed: regular files and directories"));
}

class TreeCheck {
 public:
  // `below` is "" or ends in "/". Takes `fd`, an open directory.
  absl::Status Visit(UniqueFd fd, const std::string& below, int depth) {
    // fdopendir owns what it is given.
    const int own = fcntl(fd.get(), F_DUPFD_CLOEXEC, 0);
    const std::unique_ptr<DIR, CloseFolder> folder(own < 0 ? nullptr
                                                           : fdopendir(own));
    if (folder == nullptr) return PosixError(errno, "list", below);
    errno = 0;
    while (const dirent* entry = readdir(folder.get())) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      QS_RETURN_IF_ERROR(VisitEntry(fd.get(), name, below + name, depth));
      errno = 0;
    }
    return errno == 0 ? absl::OkStatus() : PosixError(errno, "list", below);
  }

 private:
  absl::Status VisitEntry(int folder, const std::string& name,
                          const std::string& path, int depth) {
    if (++entries_ > kMaxEntries) {
      return RpcError(absl::StatusCode::kInvalidArgument, "BAD_CHECKPOINT",
                      absl::StrCat(kField, ": got more entries than allowed: ",
                                   kMaxEntries));
    }
    struct stat info;
    if (fstatat(folder, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
      return errno == ENOENT ? NotFound() : PosixError(errno, "stat", path);
    }
    QS_RETURN_IF_ERROR(CheckEntry(info.st_mode, path));
    if (!S_ISDIR(info.st_mode) || depth >= kMaxDepth) return absl::OkStatus();
    UniqueFd below = OpenBeneath(folder, name, O_RDONLY | O_DIRECTORY);
    if (below.get() < 0) return PosixError(errno, "open", path);
    return Visit(std::move(below), path + "/", depth + 1);
  }

  int entries_ = 0;
};

}  // namespace

absl::Status CheckCheckpointTree(const std::string& path) {
  UniqueFd at = OpenWithoutLinks(path, O_PATH);
  if (at.get() < 0 && errno == ELOOP) {
    return UriNotAllowed(kField, "a path that leads over a link");
  }
  struct stat info;
  if (at.get() < 0 || fstat(at.get(), &info) != 0) {
    return errno == ENOENT || errno == ENOTDIR
               ? NotFound()
               : PosixError(errno, "open", "the checkpoint");
  }
  QS_RETURN_IF_ERROR(CheckEntry(info.st_mode, "it"));
  if (S_ISREG(info.st_mode)) return absl::OkStatus();
  UniqueFd fd = OpenBeneath(at.get(), ".", O_RDONLY | O_DIRECTORY);
  if (fd.get() < 0) return PosixError(errno, "open", "the checkpoint");
  return TreeCheck().Visit(std::move(fd), "", 1);
}

}  // namespace qs

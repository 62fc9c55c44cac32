// Tested by tests/formats/checkpoint_test.cc and
// tests/service/uri_roots_test.cc.
#include "quant/formats/file_opener.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "kernels/base/status_macros.h"
#include "quant/formats/safetensors.h"

namespace qs {
namespace {

struct CloseFolder {
  void operator()(DIR* folder) const { closedir(folder); }
};
using Folder = std::unique_ptr<DIR, CloseFolder>;

absl::StatusOr<Folder> OpenFolder(const std::string& path,
                                  const FileOpener* opener) {
  QS_ASSIGN_OR_RETURN(const UniqueFd fd,
                      OpenFile(path, O_RDONLY | O_DIRECTORY, opener));
  // fdopendir owns what it is given.
  const int own = fcntl(fd.get(), F_DUPFD_CLOEXEC, 0);
  Folder folder(own < 0 ? nullptr : fdopendir(own));
  if (folder == nullptr) {
    const int error = errno;
    UniqueFd(own).Close();
    return PosixError(error, "list", path);
  }
  return folder;
}

}  // namespace

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags,
                                  const FileOpener* opener) {
  if (opener != nullptr) return opener->Open(path, flags);
  int fd = 0;
  do {
    fd = open(path.c_str(), flags | O_CLOEXEC);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return PosixError(errno, "open", path);
  return UniqueFd(fd);
}

absl::StatusOr<struct stat> StatFile(const std::string& path,
                                     const FileOpener* opener) {
  QS_ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path, O_PATH, opener));
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return PosixError(errno, "stat", path);
  return info;
}

absl::Status VisitFolder(
    const std::string& path, const FileOpener* opener,
    const std::function<absl::Status(const FolderEntry&)>& visit) {
  QS_ASSIGN_OR_RETURN(const Folder folder, OpenFolder(path, opener));
  errno = 0;
  while (const dirent* found = readdir(folder.get())) {
    FolderEntry entry;
    entry.name = found->d_name;
    struct stat info;
    if (entry.name == "." || entry.name == "..") continue;
    if (fstatat(dirfd(folder.get()), found->d_name, &info,
                AT_SYMLINK_NOFOLLOW) == 0) {
      entry.is_link = S_ISLNK(info.st_mode);
      entry.info = info;
      if (entry.is_link) {
        entry.info = StatFile(path + "/" + entry.name, opener);
      }
      QS_RETURN_IF_ERROR(visit(entry));
    } else if (errno != ENOENT) {
      return PosixError(errno, "stat", path + "/" + entry.name);
    }
    errno = 0;
  }
  return errno == 0 ? absl::OkStatus() : PosixError(errno, "list", path);
}

}  // namespace qs

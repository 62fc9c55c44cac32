// Tested by tests/service/jobs/job_output_test.cc.
#include "service/jobs/job_output.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/posix_file.h"
#include "quant/formats/safetensors.h"
#include "service/server/error.h"
#include "service/stream/digest.h"

namespace qs {
namespace {

namespace fs = std::filesystem;

constexpr size_t kReadBytes = size_t{1} << 20;

absl::Status OutputFailed(int error, const char* what,
                          const std::string& path) {
  const absl::Status status = PosixError(error, what, path);
  return RpcError(absl::StatusCode::kFailedPrecondition, "OUTPUT_FAILED",
                  std::string(status.message()));
}

// Paths relative to the directory, sorted byte by byte.
absl::StatusOr<std::vector<std::string>> FilesBelow(
    const std::string& directory) {
  std::vector<std::string> files;
  std::error_code error;
  fs::recursive_directory_iterator at(directory, error);
  for (; !error && at != fs::recursive_directory_iterator();
       at.increment(error)) {
    if (!fs::is_regular_file(at->symlink_status(error))) continue;
    files.push_back(at->path().lexically_relative(directory).string());
  }
  if (error) return OutputFailed(error.value(), "list", directory);
  std::sort(files.begin(), files.end());
  return files;
}

// Some file systems cannot sync a directory and say EINVAL.
absl::Status SyncFolder(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 || (::fsync(fd.get()) != 0 && errno != EINVAL)) {
    return OutputFailed(errno, "sync", path);
  }
  return absl::OkStatus();
}

// The names in it: who wrote the files has synced what is in them.
absl::Status SyncFolders(const std::string& directory) {
  QS_RETURN_IF_ERROR(SyncFolder(directory));
  std::error_code error;
  fs::recursive_directory_iterator at(directory, error);
  for (; !error && at != fs::recursive_directory_iterator();
       at.increment(error)) {
    if (!fs::is_directory(at->symlink_status(error))) continue;
    QS_RETURN_IF_ERROR(SyncFolder(at->path().string()));
  }
  return error ? OutputFailed(error.value(), "list", directory)
               : absl::OkStatus();
}

// 0 or an errno.
int RenameNew(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(),
                  RENAME_NOREPLACE) == 0) {
    return 0;
  }
  if (errno != EINVAL && errno != ENOSYS) return errno;
  // A file system that cannot: rename itself replaces an empty directory only.
  if (Exists(to)) return EEXIST;
  return ::rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
}

}  // namespace

std::string StagingPath(const std::string& destination, const std::string& id) {
  const fs::path path(destination);
  const std::string name = absl::StrCat(".", path.filename().string(), ".", id);
  return (path.parent_path() / name).string();
}

bool Exists(const std::string& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0;
}

absl::StatusOr<FileDigest> DigestFile(const std::string& path,
                                      const std::function<bool()>& stop) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (fd.get() < 0) return OutputFailed(errno, "open", path);
  FileDigest out;
  Sha256 digest;
  std::vector<uint8_t> buffer(kReadBytes);
  while (true) {
    if (stop()) return absl::CancelledError("stopped");
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return OutputFailed(errno, "read", path);
    if (got == 0) break;
    digest.Update({buffer.data(), static_cast<size_t>(got)});
    out.bytes += got;
  }
  out.digest = digest.Finish();
  return out;
}

absl::StatusOr<OutputDigest> DigestOutput(
    const std::string& directory,
    const std::map<std::string, FileDigest>& known,
    const std::function<bool()>& stop) {
  QS_ASSIGN_OR_RETURN(const std::vector<std::string> files,
                      FilesBelow(directory));
  OutputDigest out;
  Sha256 all;
  constexpr size_t kPrefix = sizeof("sha256:") - 1;
  for (const std::string& file : files) {
    FileDigest one;
    if (const auto found = known.find(file); found != known.end()) {
      one = found->second;
    } else {
      QS_ASSIGN_OR_RETURN(one, DigestFile(directory + "/" + file, stop));
    }
    out.bytes += one.bytes;
    const std::string line =
        absl::StrCat(one.digest.substr(std::min(kPrefix, one.digest.size())),
                     "  ./", file, "\n");
    all.Update({reinterpret_cast<const uint8_t*>(line.data()), line.size()});
    out.files[file] = std::move(one);
  }
  out.digest = all.Finish();
  return out;
}

absl::Status PublishOutput(const std::string& staging,
                           const std::string& destination) {
  QS_RETURN_IF_ERROR(SyncFolders(staging));
  const int error = RenameNew(staging, destination);
  if (error == EEXIST || error == ENOTEMPTY) {
    return RpcError(absl::StatusCode::kAlreadyExists, "DESTINATION_EXISTS",
                    "destination: something has its name since the job began");
  }
  if (error != 0) return OutputFailed(error, "rename", staging);
  return SyncFolder(fs::path(destination).parent_path().string());
}

void RemoveOutput(const std::string& staging, const JobLog& log) {
  std::error_code error;
  fs::remove_all(staging, error);
  if (!error) return;
  log.Write(LogLevel::kWarning, "job_output_left",
            {{"path", staging}, {"error", error.message()}});
}

}  // namespace qs

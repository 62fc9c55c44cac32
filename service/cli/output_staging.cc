// Tested by tests/cli/output_staging_test.cc.
#include "service/cli/output_staging.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace qs::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxNames = 1000;

absl::Status SyncPath(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return OutputPosixError(errno, "open", path);
  // Some file systems cannot sync a directory and say EINVAL.
  if (fsync(fd.get()) != 0 && errno != EINVAL) {
    return OutputPosixError(errno, "sync", path);
  }
  return absl::OkStatus();
}

// 0 or errno. Not every file system knows the flags.
int Rename(const std::string& from, const std::string& to, unsigned flags) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0) {
    return 0;
  }
  if (errno != EINVAL && errno != ENOSYS) return errno;
  struct stat info;
  if (flags == RENAME_NOREPLACE) {
    if (lstat(to.c_str(), &info) == 0) return EEXIST;
    return rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
  }
  if (flags == 0) return rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
  const std::string aside = from + ".replaced";
  if (rename(to.c_str(), aside.c_str()) != 0) return errno;
  if (rename(from.c_str(), to.c_str()) == 0) {
    return rename(aside.c_str(), from.c_str()) == 0 ? 0 : errno;
  }
  const int error = errno;
  return rename(aside.c_str(), to.c_str()) == 0 ? error : errno;
}

// Of the name of a staging directory of `target`; the process's number follows.
std::string StagingPrefix(const OutputTarget& target) {
  return absl::StrCat(".", fs::path(target.path).filename().string(),
                      ".quantctl-");
}

// Held for as long as it is used. Not every file system can: then it is -1.
UniqueFd LockDirectory(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() >= 0 && flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  return UniqueFd(-1);
}

// "PID" or "PID-NUMBER", of a process that is gone.
bool IsOfGoneProcess(std::string_view text) {
  const std::string_view number = text.substr(0, text.find('-'));
  const std::string_view rest = text.substr(number.size());
  int pid = 0;
  int other = 0;
  const bool exact =
      absl::SimpleAtoi(std::string(number), &pid) && pid > 0 &&
      absl::StrCat(pid) == std::string(number) &&
      (rest.empty() || (absl::SimpleAtoi(std::string(rest.substr(1)), &other) &&
                        absl::StrCat("-", other) == std::string(rest)));
  return exact && kill(pid, 0) != 0 && errno == ESRCH;
}

// What a run that was killed has left of the same output. One on another
// machine, whose number says nothing here, holds its lock.
void RemoveStale(const OutputTarget& target) {
  const std::string prefix = StagingPrefix(target);
  std::error_code error;
  fs::directory_iterator entry(fs::path(target.path).parent_path(), error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    std::error_code ignored;
    if (!name.starts_with(prefix) ||
        !IsOfGoneProcess(std::string_view(name).substr(prefix.size())) ||
        !fs::is_directory(entry->symlink_status(ignored))) {
      continue;
    }
    const UniqueFd lock = LockDirectory(entry->path().string());
    if (lock.get() >= 0) fs::remove_all(entry->path(), ignored);
  }
}

// EEXIST for what may not be replaced.
absl::StatusOr<unsigned> RenameFlags(const OutputTarget& target) {
  std::error_code error;
  const fs::file_status there = fs::symlink_status(target.path, error);
  if (!target.overwrite || !fs::exists(there)) return RENAME_NOREPLACE;
  if (target.is_directory) return RENAME_EXCHANGE;
  if (fs::is_regular_file(there)) return 0u;
  return OutputPosixError(EEXIST, "rename to", target.path);
}

}  // namespace

absl::Status SyncDirectories(const std::string& root) {
  QS_RETURN_IF_ERROR(SyncPath(root));
  std::error_code error;
  fs::recursive_directory_iterator it(root, error);
  for (; !error && it != fs::recursive_directory_iterator();
       it.increment(error)) {
    if (it->is_directory()) QS_RETURN_IF_ERROR(SyncPath(it->path().string()));
  }
  return error ? OutputPosixError(error.value(), "list", root)
               : absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<OutputStaging>> OutputStaging::Create(
    const OutputTarget& target) {
  RemoveStale(target);
  const fs::path path(target.path);
  const std::string stem = absl::StrCat(
      (path.parent_path() / StagingPrefix(target)).string(), getpid());
  for (int i = 0; i < kMaxNames; ++i) {
    const std::string name = i == 0 ? stem : absl::StrCat(stem, "-", i);
    if (mkdir(name.c_str(), 0777) == 0) {
      return std::unique_ptr<OutputStaging>(
          new OutputStaging(target, name, LockDirectory(name)));
    }
    if (errno != EEXIST) return OutputPosixError(errno, "create", name);
  }
  return OutputPosixError(EEXIST, "create", stem);
}

std::string OutputStaging::file() const {
  return directory_ + "/" + fs::path(target_.path).filename().string();
}

OutputStaging::~OutputStaging() {
  std::error_code ignored;  // nobody is left to be told
  fs::remove_all(directory_, ignored);
}

absl::Status OutputStaging::Publish() {
  QS_RETURN_IF_ERROR(SyncDirectories(directory_));
  const fs::path path(target_.path);
  const std::string from = target_.is_directory ? directory_ : file();
  QS_ASSIGN_OR_RETURN(unsigned flags, RenameFlags(target_));
  int failed = Rename(from, target_.path, flags);
  // Another run's file may have come since it was looked for.
  if (failed == EEXIST && target_.overwrite && !target_.is_directory) {
    QS_ASSIGN_OR_RETURN(flags, RenameFlags(target_));
    failed = Rename(from, target_.path, flags);
  }
  if (failed != 0) return OutputPosixError(failed, "rename to", path);
  return SyncPath(path.parent_path().string());
}

}  // namespace qs::cli

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
#include "quant/formats/checkpoint_files.h"
#include "quant/formats/json.h"
#include "quant/formats/safetensors.h"
#include "service/cli/exit_code.h"

namespace qs::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxNames = 1000;

absl::Status OutputPosixError(int error, const char* what,
                              const fs::path& path) {
  return OutputFault(PosixError(error, what, path.string()));
}

absl::Status Refused(const fs::path& path, const std::string& got,
                     const std::string& allowed) {
  return OutputFault(absl::AlreadyExistsError(
      absl::StrCat("output ", QuoteForError(path.string()), ": got ", got,
                   ", allowed: ", allowed)));
}

bool EndsAsFile(const std::string& path) {
  return path.ends_with(".safetensors");
}

// The real path of a name whose last part need not exist.
absl::StatusOr<fs::path> RealPath(std::string text) {
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  std::error_code error;
  const fs::path whole = fs::canonical(text, error);
  if (!error) return whole;
  const fs::path path = fs::absolute(text, error);
  if (error) return OutputPosixError(error.value(), "open", text);
  const fs::path parent = fs::canonical(path.parent_path(), error);
  if (error == std::errc::no_such_file_or_directory) {
    return OutputFault(absl::NotFoundError(absl::StrCat(
        "output ", QuoteForError(text), ": got the folder ",
        QuoteForError(path.parent_path().string()),
        ", which does not exist, allowed: one that does; make it first "
        "(mkdir -p)")));
  }
  if (error) {
    return OutputPosixError(error.value(), "open", path.parent_path());
  }
  return parent / path.filename();
}

bool Contains(const fs::path& outer, const fs::path& inner) {
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end())
             .first == outer.end();
}

// Whether `file` is `place` or one of the files in it, by whatever name: also a
// link to one, and what one of them links to.
bool IsIn(const fs::path& file, const fs::path& place) {
  std::error_code error;
  if (fs::equivalent(file, place, error)) return true;
  const fs::path real = fs::weakly_canonical(fs::absolute(place), error);
  const fs::path absolute = fs::absolute(file, error);
  if (Contains(real, fs::weakly_canonical(absolute, error)) ||
      Contains(real, fs::weakly_canonical(absolute.parent_path(), error) /
                         absolute.filename())) {
    return true;
  }
  if (!fs::exists(file, error) || !fs::is_directory(place, error)) return false;
  fs::recursive_directory_iterator entry(place, error);
  for (; !error && entry != fs::recursive_directory_iterator();
       entry.increment(error)) {
    std::error_code gone;
    if (fs::equivalent(file, entry->path(), gone)) return true;
  }
  return false;
}

// Replacing a directory deletes it: only what looks like earlier output.
absl::Status CheckReplaceable(const OutputTarget& target,
                              const fs::path& input) {
  if (!target.overwrite) {
    return Refused(target.path, "a name that exists",
                   "a new one, or --overwrite");
  }
  if (Contains(target.path, input)) {
    return Refused(target.path, "the input or a directory that holds it",
                   "another place");
  }
  std::error_code error;
  if (fs::is_directory(target.path, error) != target.is_directory) {
    return Refused(target.path, target.is_directory ? "a file" : "a directory",
                   target.is_directory ? "a directory" : "a file");
  }
  if (!target.is_directory || fs::is_empty(target.path, error)) {
    return absl::OkStatus();
  }
  const auto weights = ListSafetensors(target.path);
  if (!weights.ok()) return OutputFault(weights.status());
  if (!weights->empty()) return absl::OkStatus();
  return Refused(target.path, "a directory without .safetensors files",
                 "a checkpoint or an empty directory");
}

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

absl::StatusOr<OutputTarget> ResolveOutput(const std::string& output,
                                           const std::string& input,
                                           bool overwrite) {
  OutputTarget target;
  target.overwrite = overwrite;
  std::error_code error;
  target.is_directory = fs::is_directory(input, error);
  if (target.is_directory == EndsAsFile(output)) {
    return UsageError(absl::StrCat(
        "--output: got ", QuoteForError(output), ", allowed ",
        target.is_directory
            ? "a directory, because IN is one"
            : "a name that ends in .safetensors, because IN is a file"));
  }
  QS_ASSIGN_OR_RETURN(const fs::path path, RealPath(output));
  target.path = path.string();
  const fs::path source = fs::canonical(input, error);
  if (fs::exists(fs::symlink_status(path, error))) {
    QS_RETURN_IF_ERROR(CheckReplaceable(target, source));
  }
  // The next run would take it for side files of its input.
  if (target.is_directory && Contains(source, path)) {
    return Refused(path, "a place in the input", "another place");
  }
  const fs::path parent = path.parent_path();
  if (access(parent.c_str(), W_OK | X_OK) != 0) {
    return OutputPosixError(errno, "write to", parent);
  }
  return target;
}

absl::Status CheckFileTarget(const std::string& file,
                             const std::vector<std::string>& inputs,
                             const OutputTarget& output) {
  // The second is where the file's text is until it is complete.
  for (const std::string& name : {file, file + ".tmp"}) {
    for (const std::string& input : inputs) {
      if (input.empty() || !IsIn(name, input)) continue;
      return Refused(file,
                     "the input " + QuoteForError(input) + " or a place in it",
                     "a file of its own");
    }
  }
  if (!output.path.empty() && IsIn(file, output.path)) {
    return Refused(file, "the output or a place in it", "a file of its own");
  }
  std::error_code error;
  if (fs::is_directory(file, error)) {
    return OutputPosixError(EISDIR, "write", file);
  }
  const fs::path parent = fs::absolute(file, error).parent_path();
  if (access(parent.c_str(), W_OK | X_OK) != 0) {
    return OutputPosixError(errno, "write to", parent);
  }
  return absl::OkStatus();
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

OutputStaging::~OutputStaging() {
  std::error_code ignored;  // nobody is left to be told
  fs::remove_all(directory_, ignored);
}

absl::Status OutputStaging::Publish() {
  QS_RETURN_IF_ERROR(SyncDirectories(directory_));
  const fs::path path(target_.path);
  const std::string from = target_.is_directory
                               ? directory_
                               : directory_ + "/" + path.filename().string();
  std::error_code error;
  const bool replace =
      target_.overwrite && fs::exists(fs::symlink_status(path, error));
  const int failed =
      Rename(from, target_.path, replace ? RENAME_EXCHANGE : RENAME_NOREPLACE);
  if (failed != 0) return OutputPosixError(failed, "rename to", path);
  return SyncPath(path.parent_path().string());
}

}  // namespace qs::cli

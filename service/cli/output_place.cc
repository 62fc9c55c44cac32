// Tested by tests/cli/output_place_test.cc.
#include "service/cli/output_place.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/checkpoint_files.h"
#include "quant/formats/json.h"
#include "quant/formats/safetensors.h"
#include "service/cli/exit_code.h"

namespace qs::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxLinks = 40;  // as the kernel
// What OutputStaging's name adds to an output's: ".", ".quantctl-", the number
// of a process and "-999".
constexpr int kStagingBytes = 1 + 10 + 7 + 4;

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

// A file of the name without the slash is not what was asked for.
absl::Status CheckNamesFile(const std::string& text) {
  if (!text.ends_with('/')) return absl::OkStatus();
  return RefusedOutput(text, "the name of a folder",
                       "one without / at its end");
}

// What `name` names, which need not be there, behind all links, whose targets
// need not be there either; each of them may be a folder's, or not.
absl::StatusOr<fs::path> BehindLinks(const std::string& name,
                                     bool is_directory) {
  if (!is_directory) QS_RETURN_IF_ERROR(CheckNamesFile(name));
  QS_ASSIGN_OR_RETURN(fs::path path, RealPath(name));
  std::error_code error;
  for (int i = 0; fs::is_symlink(fs::symlink_status(path, error)); ++i) {
    if (i == kMaxLinks) return OutputPosixError(ELOOP, "open", name);
    const fs::path next = path.parent_path() / fs::read_symlink(path, error);
    if (error) return OutputPosixError(error.value(), "open", name);
    if (!is_directory) QS_RETURN_IF_ERROR(CheckNamesFile(next.string()));
    QS_ASSIGN_OR_RETURN(path, RealPath(next.string()));
  }
  return path;
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
  // A descriptor's name in /dev/fd has no real path.
  if (!real.empty() &&
      (Contains(real, fs::weakly_canonical(absolute, error)) ||
       Contains(real, fs::weakly_canonical(absolute.parent_path(), error) /
                          absolute.filename()))) {
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

// Whether `place` goes away with `outer`, itself or what it links to.
bool IsHeldBy(const fs::path& outer, const fs::path& place) {
  std::error_code error;
  const fs::path real = fs::canonical(place, error);
  if (error) return false;  // nothing is there
  if (Contains(outer, real)) return true;
  const fs::path absolute = fs::absolute(place, error);
  const fs::path parent = fs::canonical(absolute.parent_path(), error);
  return !error && Contains(outer, parent / absolute.filename());
}

// The same of a folder and of the files that it links to.
bool HoldsSomeOf(const fs::path& outer, const fs::path& input) {
  if (IsHeldBy(outer, input)) return true;
  std::error_code error;
  if (!fs::is_directory(input, error)) return false;
  fs::recursive_directory_iterator entry(input, error);
  for (; !error && entry != fs::recursive_directory_iterator();
       entry.increment(error)) {
    std::error_code gone;
    if (entry->is_symlink(gone) && IsHeldBy(outer, entry->path())) return true;
  }
  return false;
}

absl::Status CheckReadsStay(const OutputTarget& target,
                            const std::string& input,
                            const std::vector<std::string>& reads) {
  if (HoldsSomeOf(target.path, input)) {
    return RefusedOutput(target.path,
                         "the input or a directory that holds some of it",
                         "another place");
  }
  for (const std::string& file : reads) {
    if (file.empty() || !IsHeldBy(target.path, file)) continue;
    return RefusedOutput(
        target.path,
        absl::StrCat(target.is_directory ? "a directory that holds "
                                         : "the same file as ",
                     QuoteForError(file), ", which is read"),
        "another place");
  }
  return absl::OkStatus();
}

// Replacing a directory deletes it: only what looks like earlier output.
absl::Status CheckReplaceable(const OutputTarget& target,
                              const std::string& input,
                              const std::vector<std::string>& reads) {
  QS_RETURN_IF_ERROR(CheckReadsStay(target, input, reads));
  std::error_code error;
  if (!target.is_directory) {
    if (fs::is_regular_file(target.path, error)) return absl::OkStatus();
    return RefusedOutput(target.path,
                         fs::is_directory(target.path, error)
                             ? "a directory"
                             : "a FIFO, device or socket",
                         "a file");
  }
  if (!fs::is_directory(target.path, error)) {
    return RefusedOutput(target.path, "a file", "a directory");
  }
  if (fs::is_empty(target.path, error)) return absl::OkStatus();
  const auto weights = ListSafetensors(target.path);
  if (!weights.ok()) return OutputFault(weights.status());
  if (!weights->empty()) return absl::OkStatus();
  return RefusedOutput(target.path, "a directory without .safetensors files",
                       "a checkpoint or an empty directory");
}

// That a new name fits beside `path`, and may be made.
absl::Status CheckStagingPossible(const fs::path& path) {
  const fs::path folder = path.parent_path();
  if (access(folder.c_str(), W_OK | X_OK) != 0) {
    return OutputPosixError(errno, "write to", folder);
  }
  const auto bytes = static_cast<int64_t>(path.filename().string().size());
  const int64_t most = pathconf(folder.c_str(), _PC_NAME_MAX);
  if (most < 0 || bytes + kStagingBytes <= most) return absl::OkStatus();
  return RefusedOutput(path, absl::StrCat("a name of ", bytes, " bytes"),
                       absl::StrCat("at most ", most - kStagingBytes));
}

}  // namespace

absl::Status OutputPosixError(int error, const char* what,
                              const fs::path& path) {
  return OutputFault(PosixError(error, what, path.string()));
}

absl::Status RefusedOutput(const fs::path& path, const std::string& got,
                           const std::string& allowed) {
  return OutputFault(absl::AlreadyExistsError(
      absl::StrCat("output ", QuoteForError(path.string()), ": got ", got,
                   ", allowed: ", allowed)));
}

absl::StatusOr<OutputTarget> ResolveOutput(
    const std::string& output, const std::string& input, bool overwrite,
    const std::vector<std::string>& reads) {
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
  QS_ASSIGN_OR_RETURN(const fs::path name, RealPath(output));
  // A link to nothing is such a name, too.
  if (!overwrite && fs::exists(fs::symlink_status(name, error))) {
    return RefusedOutput(name, "a name that exists",
                         "a new one, or --overwrite");
  }
  QS_ASSIGN_OR_RETURN(const fs::path path,
                      BehindLinks(output, target.is_directory));
  target.path = path.string();
  if (fs::exists(fs::symlink_status(path, error))) {
    QS_RETURN_IF_ERROR(CheckReplaceable(target, input, reads));
  }
  // The next run would take it for side files of its input.
  if (target.is_directory && Contains(fs::canonical(input, error), path)) {
    return RefusedOutput(path, "a place in the input", "another place");
  }
  QS_RETURN_IF_ERROR(CheckStagingPossible(path));
  return target;
}

absl::StatusOr<OutputTarget> ResolveFile(const std::string& file,
                                         const std::vector<std::string>& inputs,
                                         const OutputTarget& output) {
  QS_RETURN_IF_ERROR(CheckFileTarget(file, inputs, output));
  OutputTarget target;
  target.overwrite = true;
  QS_ASSIGN_OR_RETURN(const fs::path path, BehindLinks(file, false));
  target.path = path.string();
  // A link to what is not there yet.
  QS_RETURN_IF_ERROR(CheckFileTarget(target.path, inputs, output));
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (fs::is_directory(status)) return OutputPosixError(EISDIR, "write", file);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    return RefusedOutput(file, "a FIFO, device or socket",
                         "a regular file or a new one");
  }
  QS_RETURN_IF_ERROR(CheckStagingPossible(path));
  return target;
}

absl::Status CheckFileTarget(const std::string& file,
                             const std::vector<std::string>& inputs,
                             const OutputTarget& output) {
  for (const std::string& input : inputs) {
    if (input.empty() || !IsIn(file, input)) continue;
    return RefusedOutput(
        file, "the input " + QuoteForError(input) + " or a place in it",
        "a file of its own");
  }
  if (!output.path.empty() && IsIn(file, output.path)) {
    return RefusedOutput(file, "the output or a place in it",
                         "a file of its own");
  }
  return absl::OkStatus();
}

}  // namespace qs::cli

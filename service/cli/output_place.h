// Where the output of a command may go: what a name that the user gave means,
// and whether writing there would destroy what the command reads.
// Thread: pure functions.
#ifndef QS_SERVICE_CLI_OUTPUT_PLACE_H_
#define QS_SERVICE_CLI_OUTPUT_PLACE_H_

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace qs::cli {

struct OutputTarget {
  // Absolute; what a symbolic link named, which need not be there.
  std::string path;
  bool is_directory = false;
  bool overwrite = false;
};

// Where output for `input` may go, before anything is written. `reads`: every
// other file that the command reads; those that are not there do not matter.
// Errors: kUsage — a file for a directory, or a directory for a file; kOutput —
// it exists without `overwrite`, its directory does not exist or is not
// writable, its name is too long for a temporary one beside it, it lies in the
// input, or it may not be replaced: it is or holds something of the input or of
// `reads` (also behind a link), is a directory that is no checkpoint, or
// neither a directory nor a regular file.
absl::StatusOr<OutputTarget> ResolveOutput(
    const std::string& output, const std::string& input, bool overwrite,
    const std::vector<std::string>& reads = {});

// A single file, which is replaced if it is there. Errors: kOutput — as
// CheckFileTarget; neither new nor a regular file; the name, or one that a link
// gives, ends in / or is too long for a temporary one beside it.
absl::StatusOr<OutputTarget> ResolveFile(const std::string& file,
                                         const std::vector<std::string>& inputs,
                                         const OutputTarget& output);

// kOutput when a file there would replace one of `inputs` or `output`, or a
// file in one of them, also by another name (links). An input may be "", and
// `output` without a path: none.
absl::Status CheckFileTarget(const std::string& file,
                             const std::vector<std::string>& inputs,
                             const OutputTarget& output);

// PosixError with kOutput.
absl::Status OutputPosixError(int error, const char* what,
                              const std::filesystem::path& path);
// kOutput 'output "PATH": got GOT, allowed: ALLOWED'.
absl::Status RefusedOutput(const std::filesystem::path& path,
                           const std::string& got, const std::string& allowed);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_OUTPUT_PLACE_H_

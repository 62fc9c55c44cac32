// OutputStaging: output under a temporary name beside its place, which it takes
// when it is complete. Whatever happens before that leaves nothing behind.
#ifndef QS_SERVICE_CLI_OUTPUT_STAGING_H_
#define QS_SERVICE_CLI_OUTPUT_STAGING_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/posix_file.h"

namespace qs::cli {

struct OutputTarget {
  std::string path;  // absolute; what a symbolic link named
  bool is_directory = false;
  bool overwrite = false;
};

// Where output for `input` may go, before anything is written. Errors: kUsage —
// a file for a directory, or a directory for a file; kOutput — it exists
// without `overwrite`, its directory does not exist or is not writable, it lies
// in the input, or it may not be replaced: it holds the input, or is a
// directory that is no checkpoint.
absl::StatusOr<OutputTarget> ResolveOutput(const std::string& output,
                                           const std::string& input,
                                           bool overwrite);

// kOutput when a file cannot be made there, or would replace one of `inputs` or
// `output`, or a file in one of them, also by another name (links). An input
// may be "", and `output` without a path: none.
absl::Status CheckFileTarget(const std::string& file,
                             const std::vector<std::string>& inputs,
                             const OutputTarget& output);

// Of a directory and all below it. Errors: kOutput.
absl::Status SyncDirectories(const std::string& root);

class OutputStaging {
 public:
  // Removes first what killed runs have left of the same output. Errors:
  // kOutput.
  static absl::StatusOr<std::unique_ptr<OutputStaging>> Create(
      const OutputTarget& target);
  ~OutputStaging();
  OutputStaging(const OutputStaging&) = delete;
  OutputStaging& operator=(const OutputStaging&) = delete;

  // For the files of the output; a single file goes in under its own name.
  const std::string& directory() const { return directory_; }

  // Syncs and renames: to `target.path` afterwards everything is there, or
  // nothing changed. Errors: kOutput.
  absl::Status Publish();

 private:
  OutputStaging(const OutputTarget& target, const std::string& directory,
                UniqueFd lock)
      : target_(target), directory_(directory), lock_(std::move(lock)) {}

  const OutputTarget target_;
  const std::string directory_;
  const UniqueFd lock_;  // says that it is in use
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_OUTPUT_STAGING_H_

// OutputStaging: output under a temporary name beside its place, which it takes
// when it is complete. Whatever happens before that leaves nothing behind.
#ifndef QS_SERVICE_CLI_OUTPUT_STAGING_H_
#define QS_SERVICE_CLI_OUTPUT_STAGING_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/posix_file.h"
#include "service/cli/output_place.h"

namespace qs::cli {

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
  std::string file() const;  // REQUIRES: the target is no directory.

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

// The files of a job: written beside the destination, given its name when they
// are complete. Everything blocks: on an IoPool.
#ifndef QS_SERVICE_JOBS_JOB_OUTPUT_H_
#define QS_SERVICE_JOBS_JOB_OUTPUT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/jobs/job_log.h"

namespace qs {

// "/out/.NAME.ID" of "/out/NAME".
std::string StagingPath(const std::string& destination, const std::string& id);

bool Exists(const std::string& path);

struct FileDigest {
  int64_t bytes = 0;
  std::string digest;  // "sha256:<hex>"
};
// `stop` is asked for each MiB or so. Errors: CANCELLED — stop;
// FAILED_PRECONDITION OUTPUT_FAILED.
absl::StatusOr<FileDigest> DigestFile(const std::string& path,
                                      const std::function<bool()>& stop);

struct OutputDigest {
  std::map<std::string, FileDigest> files;  // by their paths below
  int64_t bytes = 0;
  std::string digest;  // as JobSummary.digest says
};
// Of all files below `directory`. Reads those that are not in `known`, by
// their paths below it. Errors: DigestFile's.
absl::StatusOr<OutputDigest> DigestOutput(
    const std::string& directory,
    const std::map<std::string, FileDigest>& known,
    const std::function<bool()>& stop);

// Renames for good: the folders of `staging`, whose files are synced, are
// before and its parent's after. Nothing is replaced. Errors: ALREADY_EXISTS
// DESTINATION_EXISTS; FAILED_PRECONDITION OUTPUT_FAILED.
absl::Status PublishOutput(const std::string& staging,
                           const std::string& destination);

// What is left over stays, and the job's log says so.
void RemoveOutput(const std::string& staging, const JobLog& log);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_OUTPUT_H_

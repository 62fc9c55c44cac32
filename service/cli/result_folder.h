// ResultFolder: what ReadResult sends becomes a directory. Files are kept
// beside its place until all of them are there, so that a second run goes on
// where the first one was interrupted:
//
//   .OUT.quantctl-JOB/files/...  what was received
//   .OUT.quantctl-JOB/at         the path of the file that was received last
//
// Thread: one caller. Errors of all: kOutput.
#ifndef QS_SERVICE_CLI_RESULT_FOLDER_H_
#define QS_SERVICE_CLI_RESULT_FOLDER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/posix_file.h"
#include "quant/v1/jobs.pb.h"
#include "service/jobs/job_output.h"
#include "service/stream/digest.h"

namespace qs::cli {

class ResultFolder {
 public:
  // `output` is not there yet; its parent is. Nobody else may fill it now.
  static absl::StatusOr<std::unique_ptr<ResultFolder>> Open(
      const std::string& output, const std::string& job_id);

  // Where to go on: empty and 0 at the beginning.
  const std::string& file() const { return file_; }
  int64_t offset() const { return offset_; }
  const std::string& staging() const { return staging_; }

  // The next chunk. Errors: UNAVAILABLE — damaged on its way or here: go on
  // from file() and offset() as they are now; kUnexpected — not the next one,
  // or a path that leads out of the folder.
  absl::Status Take(const quant::v1::FileChunk& chunk);
  // Forgets everything.
  absl::Status StartOver();
  // Nothing of it is wanted any more; the last call.
  void Discard();
  // All files are there. False: they are not what has `digest`, nothing
  // happened. `stop`: asked while files of earlier runs are read.
  absl::StatusOr<bool> Publish(const std::string& digest,
                               const std::function<bool()>& stop);

 private:
  ResultFolder(const std::string& output, const std::string& staging)
      : output_(output), staging_(staging), files_(staging + "/files") {}

  absl::Status Lock();
  absl::Status Recall();
  absl::Status Hash(int64_t bytes);
  absl::Status OpenFile(const std::string& file, bool fresh);
  absl::Status BeginFile(const std::string& file);
  absl::Status EndFile(const quant::v1::FileChunk& chunk);

  const std::string output_;
  const std::string staging_;
  const std::string files_;
  UniqueFd lock_;
  std::string file_;
  int64_t offset_ = 0;
  bool ended_ = true;  // file_ is complete
  std::optional<UniqueFd> fd_;
  Sha256 hash_;
  std::map<std::string, FileDigest> known_;  // complete, of this run
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_RESULT_FOLDER_H_

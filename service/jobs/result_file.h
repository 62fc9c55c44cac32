// ResultFile: a file of a result that is read and checked against its digest.
// Thread: one caller at a time. Everything blocks.
#ifndef QS_SERVICE_JOBS_RESULT_FILE_H_
#define QS_SERVICE_JOBS_RESULT_FILE_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/posix_file.h"
#include "service/jobs/job_log.h"
#include "service/store/job_records.h"
#include "service/stream/digest.h"

namespace qs {

class ResultFile {
 public:
  // Bytes that one step reads at most.
  static constexpr int64_t kStepBytes = int64_t{1} << 20;

  // `record.bytes` below 0: whatever it has. `log`: of the job it is of.
  // Errors: DATA_LOSS RESULT_CORRUPT — another size.
  static absl::StatusOr<ResultFile> Make(UniqueFd fd, JobFileRecord record,
                                         JobLog log);

  const std::string& name() const { return record_.file; }
  const std::string& digest() const { return record_.digest; }
  int64_t size() const { return record_.bytes; }
  // Bytes that went into the digest so far.
  int64_t hashed() const { return hashed_; }

  // Reads the next bytes of the digest into `data`; behind the last of the file
  // compares. Errors: DATA_LOSS RESULT_CORRUPT — damaged, or too short.
  absl::Status Hash(std::span<uint8_t> data);
  // The same with up to kStepBytes that nobody wants, and not beyond `end`.
  absl::Status HashTo(int64_t end);
  // Bytes anywhere. Errors: DATA_LOSS RESULT_CORRUPT — too short.
  absl::Status ReadAt(int64_t offset, std::span<uint8_t> data) const;

 private:
  ResultFile(UniqueFd fd, JobFileRecord record, JobLog log)
      : fd_(std::move(fd)), record_(std::move(record)), log_(std::move(log)) {}

  absl::Status Corrupt(const std::string& what) const;

  UniqueFd fd_;
  JobFileRecord record_;
  JobLog log_;
  Sha256 hash_;
  int64_t hashed_ = 0;
  bool checked_ = false;
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_RESULT_FILE_H_

// Tested by tests/service/jobs/read_result_test.cc.
#include "service/jobs/result_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/server/error.h"
#include "service/tensors/store_error.h"

namespace qs {

absl::Status ResultFile::Corrupt(const std::string& what) const {
  CountDamagedRead();
  log_.Write(LogLevel::kError, "job_result_corrupt",
             {{"file", record_.file}, {"error", what}});
  return RpcError(absl::StatusCode::kDataLoss, "RESULT_CORRUPT",
                  absl::StrCat("result file \"", record_.file, "\": ", what,
                               ": delete the job and make it again"),
                  {{"file", record_.file}});
}

absl::StatusOr<ResultFile> ResultFile::Make(UniqueFd fd, JobFileRecord record,
                                            JobLog log) {
  ResultFile file(std::move(fd), std::move(record), std::move(log));
  struct stat info = {};
  if (::fstat(file.fd_.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return file.Corrupt("it is no file");
  }
  const int64_t size = info.st_size;
  if (file.record_.bytes < 0) file.record_.bytes = size;
  if (size == file.record_.bytes) return file;
  return file.Corrupt(
      absl::StrCat("got ", size, " bytes, made with ", file.record_.bytes));
}

absl::Status ResultFile::ReadAt(int64_t offset, std::span<uint8_t> data) const {
  const absl::Status status = qs::ReadAt(fd_, record_.file, offset, data);
  return status.ok() ? status : Corrupt(std::string(status.message()));
}

absl::Status ResultFile::Hash(std::span<uint8_t> data) {
  QS_RETURN_IF_ERROR(ReadAt(hashed_, data));
  hash_.Update(data);
  hashed_ += static_cast<int64_t>(data.size());
  if (hashed_ < size() || checked_) return absl::OkStatus();
  checked_ = true;
  const std::string got = hash_.Finish();
  if (got == record_.digest) return absl::OkStatus();
  return Corrupt(absl::StrCat("got ", got, ", made as ", record_.digest));
}

absl::Status ResultFile::HashTo(int64_t end) {
  std::vector<uint8_t> data(
      static_cast<size_t>(std::min(kStepBytes, end - hashed_)));
  return Hash(data);
}

}  // namespace qs

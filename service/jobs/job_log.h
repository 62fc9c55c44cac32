// JobLog: the log lines of one attempt of a job. Each names project, job and
// attempt, and the trace of the call that made the job; of a job whose record
// is not at hand, project and job.
#ifndef QS_SERVICE_JOBS_JOB_LOG_H_
#define QS_SERVICE_JOBS_JOB_LOG_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "service/server/log.h"
#include "service/store/job_records.h"

namespace qs {

// Copyable. Thread: thread-safe.
class JobLog {
 public:
  explicit JobLog(const JobRecord& job);
  explicit JobLog(const JobKey& job);

  void Write(LogLevel level, std::string_view event,
             std::vector<LogField> fields) const;
  // A call or a file that failed, with its text.
  void WriteError(std::string_view event, const absl::Status& error) const;

 private:
  std::string project_;
  std::string job_;
  int attempt_ = -1;      // not known
  std::string trace_id_;  // empty: none
};

// Event "job": the state that it came to, and of one that FAILED the reason,
// the text and, where it was one, the tensor.
void LogJobState(const JobRecord& job);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_LOG_H_

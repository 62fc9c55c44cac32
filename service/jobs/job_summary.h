// What a job did, summed over the reports of its tensors.
#ifndef QS_SERVICE_JOBS_JOB_SUMMARY_H_
#define QS_SERVICE_JOBS_JOB_SUMMARY_H_

#include "absl/status/statusor.h"
#include "quant/v1/jobs.pb.h"
#include "service/store/job_records.h"

namespace qs {

// One report after the other: memory does not grow with them. Blocks.
// Thread: one caller at a time.
class JobSums {
 public:
  void Add(const quant::v1::TensorReport& report);
  // Without files and digest.
  quant::v1::JobSummary Summary() const;

 private:
  // Sums behind the means of ErrorStats.
  struct Errors {
    int64_t count = 0;
    double squared = 0;
    double absolute = 0;
    double max = 0;
    double energy = 0;          // of the weights
    double energy_squared = 0;  // squared error where the energy is known
    void Add(const quant::v1::ErrorStats& stats);
    quant::v1::ErrorStats Stats() const;
  };

  quant::v1::JobSummary sums_;
  Errors error_;
  Errors rtn_;
  int64_t with_output_error_ = 0;
};

// Of the reports that are recorded. Errors: as JobRecords, with reasons.
absl::StatusOr<quant::v1::JobSummary> SummarizeJob(JobRecords& records,
                                                   const JobKey& key);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_SUMMARY_H_

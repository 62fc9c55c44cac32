// What a job did, summed over the reports of its tensors.
#ifndef QS_SERVICE_JOBS_JOB_SUMMARY_H_
#define QS_SERVICE_JOBS_JOB_SUMMARY_H_

#include "absl/status/statusor.h"
#include "quant/v1/jobs.pb.h"
#include "service/server/report_sums.h"
#include "service/store/job_records.h"

namespace qs {

// Without files and digest.
quant::v1::JobSummary SummaryOf(const ReportSums& sums);

// That of the reports that are recorded, read one after the other: memory does
// not grow with them. Blocks. Errors: as JobRecords, with reasons.
absl::StatusOr<quant::v1::JobSummary> SummarizeJob(JobRecords& records,
                                                   const JobKey& key);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_SUMMARY_H_

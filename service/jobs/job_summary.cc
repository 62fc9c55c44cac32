// Tested by tests/service/jobs/job_test.cc.
#include "service/jobs/job_summary.h"

#include "kernels/base/status_macros.h"
#include "service/jobs/job_messages.h"

namespace qs {

namespace v1 = quant::v1;

v1::JobSummary SummaryOf(const ReportSums& sums) {
  v1::JobSummary out;
  out.set_tensors(sums.tensors());
  out.set_bytes_in(sums.bytes_in());
  out.set_bytes_out(sums.bytes_out());
  if (sums.error().count() > 0) *out.mutable_error() = sums.error().Stats();
  if (sums.rtn().count() > 0) *out.mutable_rtn() = sums.rtn().Stats();
  if (const auto error = sums.OutputError()) out.set_output_error(*error);
  if (const auto rtn = sums.RtnOutputError()) out.set_rtn_output_error(*rtn);
  *out.mutable_totals() = sums.Totals();
  out.set_warnings(out.totals().warnings());
  return out;
}

absl::StatusOr<v1::JobSummary> SummarizeJob(JobRecords& records,
                                            const JobKey& key) {
  ReportSums sums;
  QS_RETURN_IF_ERROR(
      FromRecords(records.Tensors(key, [&](const JobTensorRecord& tensor) {
        v1::TensorReport report;
        if (!report.ParseFromString(tensor.report)) {
          return absl::DataLossError(tensor.name + ": a damaged report");
        }
        sums.Add(report);
        return absl::OkStatus();
      })));
  return SummaryOf(sums);
}

}  // namespace qs

// Tested by tests/service/jobs/job_test.cc.
#include "service/jobs/job_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/status_macros.h"
#include "service/jobs/job_messages.h"

namespace qs {

namespace v1 = quant::v1;

void JobSums::Errors::Add(const v1::ErrorStats& stats) {
  const double n = static_cast<double>(stats.count());
  count += stats.count();
  squared += stats.mean_squared_error() * n;
  absolute += stats.mean_absolute_error() * n;
  max = std::max(max, stats.max_absolute_error());
  const double relative = stats.relative_frobenius_error();
  if (relative > 0 && std::isfinite(relative)) {
    energy += stats.mean_squared_error() * n / (relative * relative);
    energy_squared += stats.mean_squared_error() * n;
  }
}

v1::ErrorStats JobSums::Errors::Stats() const {
  v1::ErrorStats stats;
  stats.set_count(count);
  if (count == 0) return stats;
  const double n = static_cast<double>(count);
  stats.set_mean_squared_error(squared / n);
  stats.set_mean_absolute_error(absolute / n);
  stats.set_max_absolute_error(max);
  const double ratio = energy > 0 ? energy_squared / energy : 0;
  stats.set_relative_frobenius_error(std::sqrt(ratio));
  stats.set_sqnr_db(ratio > 0 ? -10 * std::log10(ratio)
                              : std::numeric_limits<double>::infinity());
  return stats;
}

void JobSums::Add(const v1::TensorReport& report) {
  sums_.set_tensors(sums_.tensors() + 1);
  sums_.set_bytes_in(sums_.bytes_in() + report.bytes_in());
  sums_.set_bytes_out(sums_.bytes_out() + report.bytes_out());
  sums_.set_warnings(sums_.warnings() + report.warnings_size());
  if (report.has_error()) error_.Add(report.error());
  if (report.has_rtn()) rtn_.Add(report.rtn());
  if (!report.has_output_error()) return;
  ++with_output_error_;
  sums_.set_output_error(sums_.output_error() + report.output_error());
  sums_.set_rtn_output_error(sums_.rtn_output_error() +
                             report.rtn_output_error());
}

v1::JobSummary JobSums::Summary() const {
  v1::JobSummary out = sums_;
  if (error_.count > 0) *out.mutable_error() = error_.Stats();
  if (rtn_.count > 0) *out.mutable_rtn() = rtn_.Stats();
  if (with_output_error_ > 0) {
    const double n = static_cast<double>(with_output_error_);
    out.set_output_error(sums_.output_error() / n);
    out.set_rtn_output_error(sums_.rtn_output_error() / n);
  }
  return out;
}

absl::StatusOr<v1::JobSummary> SummarizeJob(JobRecords& records,
                                            const JobKey& key) {
  JobSums sums;
  QS_RETURN_IF_ERROR(
      FromRecords(records.Tensors(key, [&](const JobTensorRecord& tensor) {
        v1::TensorReport report;
        if (!report.ParseFromString(tensor.report)) {
          return absl::DataLossError(tensor.name + ": a damaged report");
        }
        sums.Add(report);
        return absl::OkStatus();
      })));
  return sums.Summary();
}

}  // namespace qs

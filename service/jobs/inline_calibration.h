// Inline calibrations: second moments that a job's message carries. The numbers
// are kept beside the job's record until it is done; the record, and answers,
// have the sites without them.
//
// Thread: pure functions; the source is immutable.
#ifndef QS_SERVICE_JOBS_INLINE_CALIBRATION_H_
#define QS_SERVICE_JOBS_INLINE_CALIBRATION_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/calibration/calibration_source.h"
#include "quant/v1/jobs.pb.h"

namespace qs {

// Names, modules and numbers of values. Errors: BAD_FIELD below
// job.calibration.inline.
absl::Status CheckInlineCalibration(
    const quant::v1::InlineCalibration& calibration);

// REQUIRES: CheckInlineCalibration is OK. Errors: INVALID_ARGUMENT
// BAD_CALIBRATION — a site's numbers are no moments; RESOURCE_EXHAUSTED.
absl::StatusOr<std::shared_ptr<const CalibrationSource>> NewInlineSource(
    quant::v1::InlineCalibration calibration);

// Leaves names, modules, token counts, and how many inputs each site has.
void DropNumbers(quant::v1::InlineCalibration* calibration);

}  // namespace qs

#endif  // QS_SERVICE_JOBS_INLINE_CALIBRATION_H_

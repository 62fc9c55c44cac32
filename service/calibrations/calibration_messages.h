// Messages of calibrations.proto to records and back, and what is wrong with
// them in themselves: INVALID_ARGUMENT BAD_FIELD, or as named.
// Thread: pure functions.
#ifndef QS_SERVICE_CALIBRATIONS_CALIBRATION_MESSAGES_H_
#define QS_SERVICE_CALIBRATIONS_CALIBRATION_MESSAGES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "quant/v1/calibrations.pb.h"
#include "service/store/calibration_records.h"

namespace qs {

// Without key; the id is chosen where the client chose none.
absl::StatusOr<CalibrationRecord> RecordFromRequest(
    const std::string& project,
    const quant::v1::CreateCalibrationRequest& request);
// The sites behind `after` (empty: all), at most `most` and as many as fit into
// a message.
quant::v1::Calibration CalibrationToProto(const CalibrationRecord& record,
                                          const std::string& after = "",
                                          size_t most = SIZE_MAX);
// The site behind which a page begins. Errors: INVALID_ARGUMENT BAD_FIELD.
absl::StatusOr<std::string> SiteOfPageToken(const std::string& token);
quant::v1::CalibrationSite SiteToProto(const CalibrationSiteRecord& site);

// Without blob.
absl::StatusOr<CalibrationPart> PartFromBegin(
    const quant::v1::SecondMomentsBegin& begin);
absl::Status CheckShardId(const std::string& shard_id);
absl::StatusOr<DType> ActivationsDType(quant::v1::DataType dtype);

// Null: none. `calibration` came with its sites.
const CalibrationSiteRecord* FindSite(const CalibrationRecord& calibration,
                                      const std::string& name);

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_CALIBRATION_MESSAGES_H_

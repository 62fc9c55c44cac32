// StoredCalibration: a calibration of the store as what a run reads. Its sites
// are those of the record that it was made of; sites that were not sealed then
// are open.
#ifndef QS_SERVICE_STORE_STORED_CALIBRATION_H_
#define QS_SERVICE_STORE_STORED_CALIBRATION_H_

#include <string>
#include <vector>

#include "quant/calibration/calibration_source.h"
#include "service/store/calibration_store.h"

namespace qs {

// Thread: thread-safe.
class StoredCalibration final : public CalibrationSource {
 public:
  // `name` is for errors. The store outlives it.
  StoredCalibration(CalibrationStore& store, CalibrationRecord record,
                    std::string name);

  const CalibrationRecord& record() const { return record_; }
  const std::vector<CalibrationSite>& sites() const override { return sites_; }
  // Blocks. Errors: also DATA_LOSS — damaged, or deleted.
  absl::StatusOr<SiteMoments> Read(size_t site) const override;
  std::string Identity() const override;
  absl::Status Error(const std::string& text) const override;

 private:
  CalibrationStore& store_;
  const CalibrationRecord record_;
  const std::string name_;
  std::vector<CalibrationSite> sites_;  // as record_.sites
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_STORED_CALIBRATION_H_

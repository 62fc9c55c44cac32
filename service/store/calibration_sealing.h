// CalibrationSealing: the parts of one site become its moments, which change no
// more. Parts are added in one order — sums of shards by shard_id, then moments
// by request_id — so that the same parts give the same bytes, however they
// came.
//
//   while (sealing.has_next()) { Load(); Merge(backend); }  Check(); Store();
//
// Thread: one caller at a time; Load and Store on an IO thread, Merge and Check
// on a worker.
#ifndef QS_SERVICE_STORE_CALIBRATION_SEALING_H_
#define QS_SERVICE_STORE_CALIBRATION_SEALING_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "service/store/calibration_store.h"

namespace qs {

class CalibrationSealing {
 public:
  // On an IO thread. `store` must outlive it. Errors: as PartsOf.
  static absl::StatusOr<std::unique_ptr<CalibrationSealing>> Open(
      CalibrationStore& store, int64_t calibration, CalibrationSiteRecord site);

  // Held at most: the sum, and a part. `on_gpu`: as SiteAccumulator.
  int64_t MemoryBytes(bool on_gpu) const;
  const std::string& site() const { return site_.name; }
  int64_t inputs() const { return site_.inputs; }

  bool has_next() const { return next_ < parts_.size(); }
  // Errors: ABORTED — as Store; DATA_LOSS.
  absl::Status Load();
  // Errors: INVALID_ARGUMENT — more tokens than 64 bits count.
  absl::Status Merge(Backend& backend);
  // Errors: INVALID_ARGUMENT — what SiteMoments::Check refuses.
  absl::Status Check() const;
  // Errors: ABORTED — more parts came meanwhile, or it was sealed: begin again.
  absl::Status Store();

 private:
  CalibrationSealing(CalibrationStore& store, int64_t calibration,
                     CalibrationSiteRecord site,
                     std::vector<CalibrationPart> parts)
      : store_(store),
        calibration_(calibration),
        site_(std::move(site)),
        parts_(std::move(parts)) {}

  absl::Status LoadPart(const CalibrationPart& part);

  CalibrationStore& store_;
  const int64_t calibration_;
  const CalibrationSiteRecord site_;
  const std::vector<CalibrationPart> parts_;
  size_t next_ = 0;
  // The part that was loaded: one of the two.
  std::unique_ptr<SiteAccumulator> sums_;
  std::optional<SiteMoments> moments_;
  std::optional<SiteMoments> total_;
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_CALIBRATION_SEALING_H_

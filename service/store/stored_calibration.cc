// Tested by tests/service/jobs/job_calibration_test.cc.
#include "service/store/stored_calibration.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace qs {
namespace {

// So many that no expert borrows from its pool: what a plan that is made before
// the numbers are there reckons with.
int64_t EnoughTokens(int64_t inputs) { return 4 * inputs; }

}  // namespace

StoredCalibration::StoredCalibration(CalibrationStore& store,
                                     CalibrationRecord record, std::string name)
    : store_(store), record_(std::move(record)), name_(std::move(name)) {
  for (const CalibrationSiteRecord& site : record_.sites) {
    CalibrationSite& out = sites_.emplace_back();
    out.name = site.name;
    out.inputs = site.inputs;
    out.tokens = site.sealed ? site.tokens : EnoughTokens(site.inputs);
    out.packed = true;
    out.modules = site.modules;
    out.open = !site.sealed;
    out.digest = site.digest;
  }
}

absl::StatusOr<SiteMoments> StoredCalibration::Read(size_t site) const {
  const CalibrationSiteRecord& record = record_.sites[site];
  if (record.sealed) return store_.GetSealed(record);
  return absl::FailedPreconditionError(absl::StrCat(
      "calibration ", name_, ": site \"", record.name, "\" is not sealed"));
}

// Keys are never used again; the time tells databases apart.
std::string StoredCalibration::Identity() const {
  return absl::StrCat("calibration ", record_.key, " ", record_.created_ms);
}

absl::Status StoredCalibration::Error(const std::string& text) const {
  return absl::InvalidArgumentError(
      absl::StrCat("calibration ", name_, ": ", text));
}

}  // namespace qs

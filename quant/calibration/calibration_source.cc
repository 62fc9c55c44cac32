// Tested by tests/quant/calibration_file_test.cc.
#include "quant/calibration/calibration_source.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"

namespace qs {
namespace {

bool IsZero(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float v) { return v == 0; });
}

}  // namespace

// An expert that no token reached is no error; numbers from nowhere are.
absl::Status CalibrationSource::CheckLoaded(const SiteMoments& moments) const {
  const int64_t n = moments.inputs();
  if (moments.tokens() > 0) {
    const absl::Status status = moments.Check();
    return status.ok() ? status : Error(std::string(status.message()));
  }
  if (IsZero(moments.second_moment(), n * n) && IsZero(moments.abs_sum(), n)) {
    return absl::OkStatus();
  }
  return Error(absl::StrCat(
      "tensor ", QuoteForError(moments.site() + ".token_count"),
      ": got 0 and sums that are not, allowed the number of tokens summed"));
}

absl::StatusOr<SiteMoments> CalibrationSource::Load(
    size_t site, const std::string& as) const {
  QS_ASSIGN_OR_RETURN(SiteMoments moments, Read(site));
  QS_RETURN_IF_ERROR(CheckLoaded(moments));
  if (!as.empty()) moments.set_site(as);
  return moments;
}

}  // namespace qs

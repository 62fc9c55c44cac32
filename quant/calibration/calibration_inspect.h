// What can be said of a calibration's sites before anything is solved with
// them.
#ifndef QS_QUANT_CALIBRATION_CALIBRATION_INSPECT_H_
#define QS_QUANT_CALIBRATION_CALIBRATION_INSPECT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "quant/calibration/calibration_file.h"

namespace qs {

struct SiteFacts {
  double trace = 0;          // sum of squares of all inputs
  int64_t dead_columns = 0;  // inputs that were always zero
  // Of the trace: the largest single input, and the largest direction (by a few
  // power iterations, so a lower bound). A direction near 1 is shared by all
  // inputs and makes the factorisation hard; a lone input is harmless.
  double largest_input = 0;
  double largest_direction = 0;
  // Fewer tokens than inputs: damping has to fill the rest.
  bool rank_deficient = false;
  std::string problem;  // why no solver may use it; empty: none
};

// Facts of file.sites()[site]; where there is a problem only `problem` and
// `rank_deficient` mean anything. Errors: those of reading.
absl::StatusOr<SiteFacts> InspectSite(const CalibrationFile& file, size_t site);

}  // namespace qs

#endif  // QS_QUANT_CALIBRATION_CALIBRATION_INSPECT_H_

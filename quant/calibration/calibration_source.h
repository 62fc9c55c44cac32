// CalibrationSource: second moments of input sites, wherever they are kept — a
// file, or a server's store.
//
// Names of sites are whatever their maker liked; only modules count (see
// calibration_index.h). Numbers are read when a site is loaded.
#ifndef QS_QUANT_CALIBRATION_CALIBRATION_SOURCE_H_
#define QS_QUANT_CALIBRATION_CALIBRATION_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/calibration/site_moments.h"

namespace qs {

struct CalibrationSite {
  std::string name;
  int64_t inputs = 0;
  int64_t tokens = 0;
  bool packed = false;
  std::vector<std::string> modules;
  bool activations = false;  // inputs, not their sums
  // More tokens may come: `tokens` is what a plan should reckon with, and there
  // is nothing to read yet.
  bool open = false;
  std::string digest = {};  // of the numbers; empty: unknown
};

// Thread-safe.
class CalibrationSource {
 public:
  virtual ~CalibrationSource() = default;

  virtual const std::vector<CalibrationSite>& sites() const = 0;  // by name
  // sites()[site] as it is, to see what is wrong with it. Errors:
  // RESOURCE_EXHAUSTED — no memory; FAILED_PRECONDITION — it is open; those of
  // reading.
  virtual absl::StatusOr<SiteMoments> Read(size_t site) const = 0;
  // What no other calibration has or will have, whose sealed sites never change;
  // the same while open sites are sealed. Empty: there is none, and names,
  // tokens and digests of the sites tell.
  virtual std::string Identity() const { return ""; }
  // INVALID_ARGUMENT "calibration NAME: TEXT".
  virtual absl::Status Error(const std::string& text) const = 0;

  // sites()[site], under the name `as` if that is not empty, checked. A site
  // without tokens must be all zeros. Errors: INVALID_ARGUMENT — what
  // SiteMoments::Check refuses; Read's.
  absl::StatusOr<SiteMoments> Load(size_t site,
                                   const std::string& as = "") const;

 private:
  absl::Status CheckLoaded(const SiteMoments& moments) const;
};

}  // namespace qs

#endif  // QS_QUANT_CALIBRATION_CALIBRATION_SOURCE_H_

// CalibrationUsers: who reads calibrations — the jobs, on a server that has
// them.
// Thread: thread-safe. Everything blocks: not in a reaction.
#ifndef QS_SERVICE_CALIBRATIONS_CALIBRATION_USERS_H_
#define QS_SERVICE_CALIBRATIONS_CALIBRATION_USERS_H_

#include <string>

#include "absl/status/status.h"

namespace qs {

class CalibrationUsers {
 public:
  virtual ~CalibrationUsers() = default;

  // Errors: FAILED_PRECONDITION CALIBRATION_IN_USE; those of records.
  virtual absl::Status CheckUnused(const std::string& project,
                                   const std::string& id) = 0;
  // Some of its sites were sealed.
  virtual void Sealed(const std::string& project, const std::string& id) = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_CALIBRATION_USERS_H_

// The commands of quantctl. Each prints results to `out`, messages to `error`.
#ifndef QS_SERVICE_CLI_COMMANDS_H_
#define QS_SERVICE_CLI_COMMANDS_H_

#include <ostream>

#include "absl/status/status.h"
#include "service/cli/arguments.h"

namespace qs::cli {

struct Console {
  std::ostream& out;
  std::ostream& error;
  int columns = 0;  // of a terminal that `error` is; 0: it is none
};

// After an error or a signal nothing is left of the output, except that a
// complete output stays when only the --json file could not be written or was
// not read, or for kWarning.
absl::Status RunQuantize(const Arguments& arguments, const Console& console);

absl::Status RunPlan(const Arguments& arguments, const Console& console);
// Writes no checkpoint.
absl::Status RunCompare(const Arguments& arguments, const Console& console);
absl::Status RunReportCommand(const Arguments& arguments,
                              const Console& console);
// What was sent stays, also after an error or a signal; a second run goes on.
absl::Status RunUpload(const Arguments& arguments, const Console& console);
// Neither needs a server. Exit codes kBadInput, kOutput and kUsage.
absl::Status RunCalibrationMerge(const Arguments& arguments,
                                 const Console& console);
absl::Status RunCalibrationInspect(const Arguments& arguments,
                                   const Console& console);
// A calibration file's sites into a calibration that the server keeps, and back
// into a file.
absl::Status RunCalibrateUpload(const Arguments& arguments,
                                const Console& console);
absl::Status RunCalibrateExport(const Arguments& arguments,
                                const Console& console);
absl::Status RunCapabilities(const Arguments& arguments,
                             const Console& console);
// The commands of jobs.
absl::Status RunJobs(const Arguments& arguments, const Console& console);
absl::Status RunHealth(const Arguments& arguments, const Console& console);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_COMMANDS_H_

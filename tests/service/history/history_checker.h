// Judges a history against what the service promises. Knows no server: it sees
// nothing but operations, so that a test can show that it catches a bad one.
#ifndef QS_TESTS_SERVICE_HISTORY_HISTORY_CHECKER_H_
#define QS_TESTS_SERVICE_HISTORY_HISTORY_CHECKER_H_

#include <string>
#include <vector>

#include "tests/service/history/operation.h"

namespace qs::testing {

struct Violation {
  std::string rule;  // UPPER_SNAKE
  std::string text;
};

using History = std::vector<Operation>;

// Rules, by what they are about:
//   uploads       PERSISTED_SHRANK, UPLOAD_LOST, TENSOR_LOST, TENSOR_BACK,
//                 WRONG_BYTES
//   jobs          JOB_LOST, JOB_BACK, SPEC_CHANGED, REVISION_SHRANK,
//                 REVISION_DIFFERS, TWO_ENDS, ILLEGAL_CHANGE, WATCH_SKIPPED,
//                 WATCH_UNENDED, CANCEL_FORGOTTEN, JOB_FAILED, UNFINISHED,
//                 WRONG_RESULT, RESULTS_DIFFER, LEFT_BEHIND, NOT_IDEMPOTENT
//   calibrations  DURABLE_SHRANK, CALIBRATION_LOST, ADDED_TWICE, COUNT_LOST,
//                 COUNT_INVENTED, COUNT_TWICE, COUNT_GAP, TOKENS_WRONG,
//                 SEALED_CHANGED
//   all           REQUEST_TWICE, UNEXPECTED_ERROR, BAD_EXIT, ORPHAN
std::vector<Violation> CheckHistory(const History& history);

// Those of one kind, in files of their own.
void CheckUploads(const History& history, std::vector<Violation>* out);
void CheckJobs(const History& history, std::vector<Violation>* out);
void CheckCalibrations(const History& history, std::vector<Violation>* out);

// "CreateJob of client 3 at 1.250000 s (jobs/ID)".
std::string Describe(const Operation& operation);
void Report(const std::string& rule, const Operation& operation,
            const std::string& text, std::vector<Violation>* out);

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_HISTORY_HISTORY_CHECKER_H_

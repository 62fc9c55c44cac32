// Whose fault a failure around a checkpoint is: carried inside the
// absl::Status, so that a program can turn it into an exit code and a server
// into a reason. Thread: pure functions.
#ifndef QS_SERVICE_CHECKPOINT_FAULT_H_
#define QS_SERVICE_CHECKPOINT_FAULT_H_

#include <optional>
#include <string>

#include "absl/status/status.h"

namespace qs {

enum class Fault {
  kUnexpected,  // ours
  kUsage,       // what was asked for
  kInput,       // a file that is read: malformed, changed, unreadable
  kOutput,      // not writable, exists, or disk full
};

// The status with a fault; one that has a fault keeps it, and OK stays OK.
absl::Status WithFault(absl::Status status, Fault fault);
inline absl::Status InputFault(absl::Status status) {
  return WithFault(std::move(status), Fault::kInput);
}
inline absl::Status OutputFault(absl::Status status) {
  return WithFault(std::move(status), Fault::kOutput);
}
absl::Status UsageError(const std::string& text);
absl::Status UnexpectedError(const std::string& text);

std::optional<Fault> FaultOf(const absl::Status& status);

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_FAULT_H_

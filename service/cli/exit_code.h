// What a failure of quantctl means to its caller: one exit code per kind,
// carried inside the absl::Status. Thread: pure functions.
#ifndef QS_SERVICE_CLI_EXIT_CODE_H_
#define QS_SERVICE_CLI_EXIT_CODE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"
#include "service/checkpoint/fault.h"

namespace qs::cli {

enum class ExitCode {
  kOk = 0,
  kUnexpected = 1,
  kUsage = 2,
  kRefused = 3,     // by the plan: the target engine, or quantized already
  kServerLost = 4,  // not reachable, gone, too busy, or not for us
  kBadInput = 5,
  kOutput = 6,    // not writable, exists, or disk full
  kWarning = 7,   // done, with a warning that was asked to count
  kJobEnded = 8,  // a job that was waited for failed or was cancelled
  kInterrupted = 130,
  kTerminated = 143,
};

// The status with an exit code; one that has an exit code, or a Fault, which
// says the same, keeps it, and OK stays OK.
absl::Status WithExitCode(absl::Status status, ExitCode code);
template <typename T>
absl::StatusOr<T> WithExitCode(absl::StatusOr<T> value, ExitCode code) {
  if (value.ok()) return value;
  return WithExitCode(value.status(), code);
}
// The status with `more` after its text.
absl::Status WithText(const absl::Status& status, const std::string& more);

// kUnexpected for an error without one.
ExitCode ExitCodeOf(const absl::Status& status);

// An error that came from `server`, with the exit code that its reason or code
// asks for. The text names the server.
absl::Status FromServer(const grpc::Status& status, const std::string& server);

// The same stream may go well when it is opened again.
bool IsRetryable(const absl::Status& status);
// Retryable, because others keep the server busy: worth a longer wait.
bool IsBusy(const absl::Status& status);

constexpr int kMaxRetries = 3;  // in a row, when the server may be gone
constexpr int kMaxBusyRetries = 6;
// Before retry 0, 1, ...: 0.2 s, doubled each time.
absl::Duration RetryDelay(int retry);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_EXIT_CODE_H_

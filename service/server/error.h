// Errors with the details that clients decode: an absl::Status whose payloads
// are the google.rpc messages of the .proto's error tables, keyed by their type
// URLs. grpc_status.h turns such a status into what is sent.
//
// Every error that leaves the service is made here. Text: "what: got, allowed".
// Thread: pure functions.
#ifndef QS_SERVICE_SERVER_ERROR_H_
#define QS_SERVICE_SERVER_ERROR_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace qs {

using ErrorMetadata = std::vector<std::pair<std::string, std::string>>;

// A status with ErrorInfo{reason, domain "quantd", metadata}. `reason` is
// UPPER_SNAKE and listed in the .proto. A key that comes twice keeps its last
// value.
absl::Status RpcError(absl::StatusCode code, std::string_view reason,
                      std::string_view text,
                      const ErrorMetadata& metadata = {});

// The same with RetryInfo: worth another try after `delay`.
absl::Status RetryableError(absl::StatusCode code, std::string_view reason,
                            std::string_view text,
                            const ErrorMetadata& metadata = {},
                            absl::Duration delay = absl::Seconds(1));

// INVALID_ARGUMENT BAD_FIELD with BadRequest{field, text}; the message is
// "FIELD: TEXT". `field` is the proto path in the request ("tensor.shape").
absl::Status BadFieldError(std::string_view field, std::string_view text,
                           const ErrorMetadata& metadata = {});

// The same status with one more detail; an OK status stays as it is. An
// ErrorInfo that is there already is replaced, field violations add up.
absl::Status WithReason(absl::Status status, std::string_view reason,
                        const ErrorMetadata& metadata = {});
absl::Status WithField(absl::Status status, std::string_view field,
                       std::string_view text);
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);
// Whether it has RetryInfo.
bool HasRetryDelay(const absl::Status& status);

// UNAVAILABLE DRAINING with RetryInfo: what every new call gets after SIGTERM.
absl::Status DrainingError();

// The reason of the ErrorInfo, or "" without one.
std::string ErrorReason(const absl::Status& status);
// The value of a metadata key of the ErrorInfo, or "".
std::string ErrorMetadataValue(const absl::Status& status,
                               std::string_view key);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_ERROR_H_

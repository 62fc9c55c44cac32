// What a user may have got wrong when there is no connection.
#ifndef QS_SERVICE_CLI_CONNECTION_HINT_H_
#define QS_SERVICE_CLI_CONNECTION_HINT_H_

#include <string>

#include "absl/status/status.h"
#include "service/cli/arguments.h"

namespace qs::cli {

// To go behind the text of `status`, which a command ended with; "" when it is
// about something else, or nothing is known. Thread: pure function.
std::string ConnectionHint(const absl::Status& status,
                           const ServerArguments& server);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_CONNECTION_HINT_H_

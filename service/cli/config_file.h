// The configuration that flags and --config give together.
#ifndef QS_SERVICE_CLI_CONFIG_FILE_H_
#define QS_SERVICE_CLI_CONFIG_FILE_H_

#include "absl/status/statusor.h"
#include "service/cli/config_arguments.h"

namespace qs::cli {

// The flags with what --config names. Errors: kUsage.
absl::StatusOr<ConfigArguments> WithConfigFile(ConfigArguments config);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_CONFIG_FILE_H_

// What --check-config looks at beside the options themselves.
#ifndef QS_SERVICE_SERVER_CONFIG_CHECK_H_
#define QS_SERVICE_SERVER_CONFIG_CHECK_H_

#include <string>

#include "absl/status/status.h"
#include "service/server/options.h"

namespace qs {

// That the files and directories that the options name are there, hold what
// they should, and can be written where they have to be. Makes file calls,
// changes nothing. Errors: INVALID_ARGUMENT and as they come; the text begins
// with the option.
absl::Status CheckConfigFiles(const ServerOptions& options);

// That --port-file would replace nothing but a regular file; a link, too, is
// none. Errors: INVALID_ARGUMENT, the text begins with the option.
absl::Status CheckPortFile(const std::string& path);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_CONFIG_CHECK_H_

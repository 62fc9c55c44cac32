#ifndef QS_SERVICE_CHECKPOINT_TEXT_FILE_H_
#define QS_SERVICE_CHECKPOINT_TEXT_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace qs {

// Writes a file complete or not at all. Errors: kOutput.
absl::Status WriteTextFile(const std::string& path, const std::string& text);

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_TEXT_FILE_H_

// openat2: the kernel resolves a path beneath a directory, or without links.
#ifndef QS_SERVICE_ACCESS_OPEN_BENEATH_H_
#define QS_SERVICE_ACCESS_OPEN_BENEATH_H_

#include <string>

#include "absl/status/status.h"
#include "quant/formats/posix_file.h"

namespace qs {

// Opens `path` ("." or relative) from the directory `root`, never leaving it
// and following no link of any kind. On failure the result holds -1 and errno
// says why: EXDEV or ELOOP where it would have left it or followed one.
UniqueFd OpenBeneath(int root, const std::string& path, int flags);
// The same for an absolute path from "/".
UniqueFd OpenWithoutLinks(const std::string& path, int flags);

// UNIMPLEMENTED when the kernel has no openat2, or forbids it.
absl::Status RequireOpenBeneath();

}  // namespace qs

#endif  // QS_SERVICE_ACCESS_OPEN_BENEATH_H_

// openat2: the kernel resolves a path beneath a directory, links included, or
// without links.
#ifndef QS_SERVICE_ACCESS_OPEN_BENEATH_H_
#define QS_SERVICE_ACCESS_OPEN_BENEATH_H_

#include <string>

#include "absl/status/status.h"
#include "quant/formats/posix_file.h"

namespace qs {

enum class Links {
  kRefused,
  kBeneath,  // symbolic ones that never leave the root on their way
};

// Opens `path` ("." or relative) from the directory `root`, never leaving it,
// also not by a link or for a moment. The links of /proc ("magic" ones) are
// never followed. On failure the result holds -1 and errno says why: EXDEV — it
// would have left the root, or an absolute link; ELOOP — a link that is
// refused, or too many; EAGAIN — renames everywhere left no time to tell.
UniqueFd OpenBeneath(int root, const std::string& path, int flags, Links links);
// An absolute path from "/", following no link of any kind; as OpenBeneath.
UniqueFd OpenWithoutLinks(const std::string& path, int flags);

// UNIMPLEMENTED when the kernel has no openat2, or forbids it.
absl::Status RequireOpenBeneath();

}  // namespace qs

#endif  // QS_SERVICE_ACCESS_OPEN_BENEATH_H_

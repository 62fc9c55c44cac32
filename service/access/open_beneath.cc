// Tested by tests/service/uri_roots_test.cc.
#include "service/access/open_beneath.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace qs {
namespace {

// glibc has no wrapper for it.
UniqueFd OpenAt2(int folder, const std::string& path, int flags,
                 uint64_t resolve) {
  struct open_how how = {};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.resolve = resolve;
  long fd = 0;
  // EAGAIN: something was renamed meanwhile, so that the kernel cannot tell.
  for (int tries = 0; tries < 1000; ++tries) {
    fd = syscall(SYS_openat2, folder, path.c_str(), &how, sizeof(how));
    if (fd >= 0 || (errno != EINTR && errno != EAGAIN)) break;
  }
  return UniqueFd(static_cast<int>(fd));
}

}  // namespace

UniqueFd OpenBeneath(int root, const std::string& path, int flags,
                     Links links) {
  return OpenAt2(root, path, flags,
                 RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS |
                     (links == Links::kRefused ? RESOLVE_NO_SYMLINKS : 0));
}

UniqueFd OpenWithoutLinks(const std::string& path, int flags) {
  return OpenAt2(AT_FDCWD, path, flags,
                 RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

absl::Status RequireOpenBeneath() {
  if (OpenWithoutLinks("/", O_PATH | O_DIRECTORY).get() >= 0) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrCat(
      "read-root and write-root: got a kernel that refuses openat2 (errno ",
      errno, "), allowed Linux 5.6 or later"));
}

}  // namespace qs

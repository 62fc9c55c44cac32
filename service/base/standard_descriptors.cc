// Tested by tests/e2e/quantctl_safety_test.py.
#include "service/base/standard_descriptors.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace qs {

void OpenStandardDescriptors() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (::syscall(SYS_fcntl, fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest that is free, so this one. The wrong way round, so that reads
    // and writes give EBADF: who prints to a closed descriptor has to hear it.
    const int flags = fd == STDIN_FILENO ? O_WRONLY : O_RDONLY;
    ::syscall(SYS_openat, AT_FDCWD, "/dev/null", flags);
  }
}

}  // namespace qs

// libc's rename for quantd_faulty, with failpoints before and after the names
// of an output change:
//
//   shard.before_rename    shard.after_rename      a shard has its name
//   config.before_rename   config.after_rename     config.json, after all
//   shards publish.before_rename  publish.after_rename    the directory as a
//   whole
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <string_view>

#include "service/store/failpoint.h"

namespace qs {
namespace {

// Empty: no failpoint.
std::string_view KindOf(std::string_view to) {
  if (to.ends_with(".safetensors")) return "shard";
  if (to.ends_with("/config.json")) return "config";
  return "";
}

int Rename(std::string_view kind, int from_folder, const char* from,
           int to_folder, const char* to, unsigned flags) {
  const std::string name(kind);
  if (!kind.empty()) {
    errno = QS_FAILPOINT((name + ".before_rename").c_str());
    if (errno != 0) return -1;
  }
  const long done =
      syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
  if (!kind.empty()) (void)QS_FAILPOINT((name + ".after_rename").c_str());
  return static_cast<int>(done);
}

}  // namespace
}  // namespace qs

extern "C" {

int rename(const char* from, const char* to) noexcept {
  return qs::Rename(qs::KindOf(to), AT_FDCWD, from, AT_FDCWD, to, 0);
}
int renameat2(int from_folder, const char* from, int to_folder, const char* to,
              unsigned flags) noexcept {
  return qs::Rename("publish", from_folder, from, to_folder, to, flags);
}

}  // extern "C"

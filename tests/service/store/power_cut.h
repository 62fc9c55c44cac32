// A disk that can lose power: while it watches a folder, every file call of the
// process below it is noted (the functions of libc stand in power_cut.cc again,
// before libc's own), and any moment can be had back as a power cut may have
// left it.
//
// What a cut leaves: of a file what it held at its last fsync or fdatasync, and
// of each 4 KiB page written since then the old or the new bytes, in no order;
// of a folder its names as of its last fsync, and of those made, taken away or
// changed since then the first few, or all. That is what POSIX promises, less
// than what a file system does.
//
// Thread: thread-safe. One in a process; nothing below the folder may be open
// when it begins.
#ifndef QS_TESTS_SERVICE_STORE_POWER_CUT_H_
#define QS_TESTS_SERVICE_STORE_POWER_CUT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace qs::testing {

class PowerCutDisk {
 public:
  // `folder`: absolute, there, empty, and as good as synced.
  explicit PowerCutDisk(const std::string& folder);
  ~PowerCutDisk();
  PowerCutDisk(const PowerCutDisk&) = delete;
  PowerCutDisk& operator=(const PowerCutDisk&) = delete;

  // Syncs of paths that it likes are not done: a program that forgets them.
  void Forget(std::function<bool(const std::string& path)> likes);

  // Calls noted so far: what was acknowledged now must survive a cut here.
  size_t now() const;
  // Makes `to`, as the folder is after a cut behind `calls` calls.
  void RestoreTo(const std::string& to, size_t calls, uint32_t seed) const;
};

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_STORE_POWER_CUT_H_

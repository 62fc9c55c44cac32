// FileWatch: notices when files were written, replaced or renamed into place,
// so that a running server takes new certificates and access rules.
//
// It looks at each file's identity, size and times every interval: this works
// for whatever changes files (editors, renames, the symbolic links of a mounted
// Kubernetes secret) and on every file system.
// Thread: Add from any thread; the callbacks run on the watch's own.
#ifndef QS_SERVICE_BASE_FILE_WATCH_H_
#define QS_SERVICE_BASE_FILE_WATCH_H_

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace qs {

class FileWatch {
 public:
  // Reads the files. False: what is there cannot be used (half written,
  // perhaps), so it is called again after the next interval in any case.
  using Changed = std::function<bool()>;

  explicit FileWatch(absl::Duration interval);
  // Waits for a callback that runs.
  ~FileWatch();
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

  // Calls `changed` when one of the files is another than at the last look,
  // and after the first interval: what was written between the caller's own
  // reading and this call is not missed.
  void Add(std::vector<std::string> paths, Changed changed);

 private:
  struct Watched {
    std::vector<std::string> paths;
    Changed changed;
    std::string seen;  // empty: look again
  };

  void Run();
  void Look(Watched* watched);

  const absl::Duration interval_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Watched> added_ ABSL_GUARDED_BY(mutex_);
  std::vector<Watched> watched_;  // the thread's own
  std::thread thread_;
};

}  // namespace qs

#endif  // QS_SERVICE_BASE_FILE_WATCH_H_

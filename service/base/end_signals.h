// EndSignals: SIGINT, SIGTERM and SIGHUP become numbers that one thread waits
// for, instead of ending the process.
//
// No signal mask is used: a library may start threads before main (OpenBLAS
// does) that block nothing, and a signal that such a thread takes must not be
// lost or end the process. The handler runs on whichever thread the kernel
// picks and writes to a pipe. A SIGHUP that is ignored (nohup) stays so.
#ifndef QS_SERVICE_BASE_END_SIGNALS_H_
#define QS_SERVICE_BASE_END_SIGNALS_H_

#include <csignal>
#include <optional>

#include "absl/time/time.h"

namespace qs {

// At most one a process at a time. While it lives the handlers are set; then
// those before it come back. Thread: make and destroy it on one thread; Wait
// on any one.
class EndSignals {
 public:
  EndSignals();
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  // The next signal that came, at most after `timeout`; none if none did.
  std::optional<int> Wait(absl::Duration timeout);

 private:
  int read_end_ = -1;
  struct sigaction before_[3];
};

}  // namespace qs

#endif  // QS_SERVICE_BASE_END_SIGNALS_H_

// LiveCalls: the streams of a service that may be long — how many there may be,
// the end of those whose client stalls, and of all when the server drains.
#ifndef QS_SERVICE_TENSORS_LIVE_CALLS_H_
#define QS_SERVICE_TENSORS_LIVE_CALLS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace qs {

class LiveCall {
 public:
  virtual ~LiveCall() = default;
  // The call ends with `status`, after it kept what it has. From any thread;
  // does not block.
  virtual void End(const absl::Status& status) = 0;
  // Since when it waits for its client; InfiniteFuture: it does not.
  virtual absl::Time waiting_since() const = 0;
};

// Thread: thread-safe.
class LiveCalls {
 public:
  // A client that neither sends nor takes anything for `idle_timeout` has
  // stalled.
  LiveCalls(int64_t most, absl::Duration idle_timeout)
      : most_(most), idle_timeout_(idle_timeout) {}

  // Remove must follow. Errors: UNAVAILABLE DRAINING; RESOURCE_EXHAUSTED
  // TOO_MANY_STREAMS.
  absl::Status Admit(const std::shared_ptr<LiveCall>& call);
  void Remove(const LiveCall* call);
  int64_t live() const;

  // New calls are refused with DRAINING.
  void StartDraining();
  bool draining() const;
  // Ends every call with DRAINING.
  void EndAll();
  // Ends those that have stalled with STREAM_STALLED.
  void EndStalled(absl::Time now);

 private:
  std::vector<std::shared_ptr<LiveCall>> Calls() const;

  const int64_t most_;
  const absl::Duration idle_timeout_;
  mutable absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<const LiveCall*, std::weak_ptr<LiveCall>> calls_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_LIVE_CALLS_H_

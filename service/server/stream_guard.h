// StreamGuard: ends connections whose client opens and resets streams faster
// than the server lets go of them ("rapid reset", CVE-2023-44487).
//
// gRPC 1.51 counts a stream against the 100 that a connection may have until
// the client resets it; its memory, some 20 KiB, stays until its call has gone
// through the server's threads. So a client can have any number of them: 10^5
// in two seconds, which is 2 GB. channelz counts what really is there, whatever
// the method, from the moment on in which the headers were read.
//
// A connection with more streams than `max_streams` is ended; with ten times as
// many on all together, one with more than a fifth. While the streams of those
// that were ended are more than twice `max_streams`, none is accepted.
// Thread: a thread of its own; destroy before the acceptor.
#ifndef QS_SERVICE_SERVER_STREAM_GUARD_H_
#define QS_SERVICE_SERVER_STREAM_GUARD_H_

#include <cstdint>
#include <set>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "service/server/acceptor.h"

namespace qs {

class StreamGuard {
 public:
  StreamGuard(int64_t max_streams, Acceptor& acceptor);
  ~StreamGuard();
  StreamGuard(const StreamGuard&) = delete;
  StreamGuard& operator=(const StreamGuard&) = delete;

 private:
  void Run();
  // Looks at every connection of a server when so many calls were started since
  // the last time that one connection may have too many.
  void Look(int64_t server_id, int64_t started);
  void LookAtAll(int64_t server_id);
  void LookAtOne(int64_t socket_id, int64_t allowed);
  // Accepts no connections while too much is left of those that were ended.
  void WaitForEnded();

  const int64_t max_streams_;
  Acceptor& acceptor_;
  int64_t seen_started_ = 0;  // at the last look
  int64_t live_streams_ = 0;  // then, of all connections
  absl::Time next_look_ = absl::InfinitePast();
  std::set<int64_t> ended_;  // sockets that still have streams
  bool paused_ = false;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace qs

#endif  // QS_SERVICE_SERVER_STREAM_GUARD_H_

// Acceptor: the accept loop, with a cap on open connections.
//
// gRPC 1.51's own loop never accepts again after accept() once failed with
// EMFILE (CVE-2023-4785), and has no cap. This one hands sockets over and goes
// on whatever happens: out of descriptors it closes the newest connection with
// a descriptor that it keeps for this.
// Thread: Start once; Stop once, from any thread.
#ifndef QS_SERVICE_SERVER_ACCEPTOR_H_
#define QS_SERVICE_SERVER_ACCEPTOR_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "service/base/metrics.h"
#include "service/server/listen_address.h"

namespace qs {

// Sets the soft limit of open descriptors to the hard one; returns it.
int64_t RaiseDescriptorLimit();

// The other end of a connection.
struct Peer {
  std::string ip;  // 4 or 16 bytes, network order; 4 also for mapped ones
  int port = 0;
  bool operator==(const Peer&) const = default;
};

class Acceptor {
 public:
  // Owns the socket from then on. Called on the acceptor's thread.
  using NewConnection = std::function<void(int listener_fd, int fd)>;

  // Owns the listener's descriptors. A connection whose client's process takes
  // nothing for `unread_limit` of what was sent to it is ended by the kernel: a
  // client that is stopped answers no frame, and gRPC waits for the write.
  Acceptor(Listener listener, int64_t max_connections,
           NewConnection new_connection,
           absl::Duration unread_limit = absl::InfiniteDuration());
  ~Acceptor() { Stop(); }
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  void Start();
  // Accepts nothing more, and closes the listening sockets.
  void Stop();

  int port() const { return listener_.port; }
  // Thread-safe.
  int64_t open_connections();
  // Ends the connection at once, with what of it was not read yet. False: there
  // is none. Thread-safe.
  bool Abort(const Peer& peer);
  // While paused it accepts none; they wait in the kernel. Thread-safe.
  void Pause(bool paused) { paused_ = paused; }

 private:
  void Run();
  // One connection; false when none is waiting.
  bool AcceptOne(int listener_fd);
  void Admit(int listener_fd, int fd);
  // Counts it as open; false: the cap is reached.
  bool Remember(int fd);
  // Makes room for one accept() and closes what it gave.
  void ShedOne(int listener_fd);
  // Forgets the connections that were closed; how many are left.
  int64_t CountOpen() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Listener listener_;
  const int64_t max_connections_;
  const NewConnection new_connection_;
  const absl::Duration unread_limit_;
  Counter& too_many_;
  Counter& no_descriptors_;
  // Handed-over sockets by descriptor, with the inode that tells whether the
  // descriptor is still that socket; looked through when the cap seems reached
  // and when somebody asks.
  absl::Mutex mutex_;
  std::map<int, ino_t> open_ ABSL_GUARDED_BY(mutex_);
  int spare_fd_ = -1;
  int wake_fd_ = -1;
  std::atomic<bool> paused_ = false;
  double last_warning_ = -1e9;
  std::thread thread_;
};

}  // namespace qs

#endif  // QS_SERVICE_SERVER_ACCEPTOR_H_

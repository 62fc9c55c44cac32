// SelfPing: a health check over the in-process channel every 400 ms.
//
// gRPC 1.51's callback threads sleep 100 ms at a time once a second has passed
// without events, so the first call after a pause would be answered about 50 ms
// late; with the ping they never get there.
// Thread: a thread of its own; destroy before the server shuts down.
#ifndef QS_SERVICE_SERVER_SELF_PING_H_
#define QS_SERVICE_SERVER_SELF_PING_H_

#include <grpcpp/server.h>

#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace qs {

class SelfPing {
 public:
  explicit SelfPing(grpc::Server* server);
  ~SelfPing();
  SelfPing(const SelfPing&) = delete;
  SelfPing& operator=(const SelfPing&) = delete;

 private:
  void Run();

  const std::shared_ptr<grpc::Channel> channel_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace qs

#endif  // QS_SERVICE_SERVER_SELF_PING_H_

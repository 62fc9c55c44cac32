// RunControl: the one place that knows whether a run goes on. The first
// failure ends it: it is kept, and every call in flight is cancelled.
#ifndef QS_SERVICE_CLI_RUN_CONTROL_H_
#define QS_SERVICE_CLI_RUN_CONTROL_H_

#include <grpcpp/client_context.h>

#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace qs::cli {

// Thread: thread-safe.
class RunControl {
 public:
  // REQUIRES: !status.ok(). The first call counts.
  void Fail(const absl::Status& status);
  bool failed() const;
  absl::Status status() const;  // OK while nothing failed
  // False when the run failed before the time was over.
  bool Sleep(absl::Duration time);

  // While it lives, a failure cancels the call; at once if there is one.
  class Call {
   public:
    Call(RunControl& control, grpc::ClientContext& context);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    RunControl& control_;
    grpc::ClientContext& context_;
  };

 private:
  mutable absl::Mutex mutex_;
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_RUN_CONTROL_H_

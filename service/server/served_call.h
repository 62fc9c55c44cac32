// ServedCall: what is known and written of one RPC, whichever it is: its trace,
// caller and bytes; at its end one log line, its duration and, when a limit
// refused it, the rejection.
//
// Every RPC's reactor has one, made before anything else.
// Thread: AddBytes from any thread; the rest from one at a time.
#ifndef QS_SERVICE_SERVER_SERVED_CALL_H_
#define QS_SERVICE_SERVER_SERVED_CALL_H_

#include <grpcpp/server_context.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/access/access.h"
#include "service/base/metrics.h"
#include "service/server/trace_context.h"

namespace qs {

class ServedCall {
 public:
  // `rpc`: "WriteTensor"; its name in logs and metrics.
  ServedCall(const char* rpc, const grpc::CallbackServerContext& call);
  // A call that was never ended counts as ended with UNKNOWN.
  ~ServedCall();
  ServedCall(const ServedCall&) = delete;
  ServedCall& operator=(const ServedCall&) = delete;

  // Authorize (service/access), and what it says goes into the log line.
  absl::StatusOr<Caller> Authorize(const AccessControl& access,
                                   const grpc::CallbackServerContext& call,
                                   Role needed);

  // Message bytes, both ways.
  void AddBytes(int64_t bytes) { bytes_ += bytes; }
  // The first call counts: with the status that the client gets.
  void End(const absl::Status& status);

  const TraceContext& trace() const { return trace_; }
  const std::string& project() const { return project_; }

 private:
  const char* const rpc_;
  const std::string peer_;
  const TraceContext trace_;
  const std::chrono::steady_clock::time_point started_ =
      std::chrono::steady_clock::now();
  Gauge& in_flight_;
  std::string project_;
  std::atomic<int64_t> bytes_{0};
  bool ended_ = false;
};

}  // namespace qs

#endif  // QS_SERVICE_SERVER_SERVED_CALL_H_

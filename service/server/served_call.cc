// Tested by tests/service/metrics_test.cc and trace_e2e_test.cc.
#include "service/server/served_call.h"

#include "service/server/error.h"
#include "service/server/log.h"

namespace qs {
namespace {

Gauge& InFlight(const char* rpc) {
  return GaugeOf("quantd_rpc_in_flight", "RPCs that run", {{"method", rpc}});
}

// A limit, a budget or the drain said no; another try may go well.
bool IsRejection(const absl::Status& status) {
  return status.code() == absl::StatusCode::kResourceExhausted ||
         status.code() == absl::StatusCode::kUnavailable;
}

}  // namespace

ServedCall::ServedCall(const char* rpc, const grpc::CallbackServerContext& call)
    : rpc_(rpc),
      peer_(call.peer()),
      trace_(TraceOf(call)),
      in_flight_(InFlight(rpc)) {
  in_flight_.Increment();
}

ServedCall::~ServedCall() { End(absl::UnknownError("the call was dropped")); }

absl::StatusOr<Caller> ServedCall::Authorize(
    const AccessControl& access, const grpc::CallbackServerContext& call,
    Role needed) {
  absl::StatusOr<Caller> caller = access.Identify(call);
  if (!caller.ok()) return caller;
  project_ = caller->project;
  const absl::Status allowed = RequireRole(*caller, needed);
  if (!allowed.ok()) return allowed;
  return caller;
}

void ServedCall::End(const absl::Status& status) {
  if (ended_) return;
  ended_ = true;
  in_flight_.Decrement();
  const std::chrono::duration<double> elapsed =
      std::chrono::steady_clock::now() - started_;
  HistogramOf(
      "quantd_rpc_server_duration_seconds",
      "Time from an RPC's start to its end", SecondsBuckets(),
      {{"method", rpc_}, {"code", absl::StatusCodeToString(status.code())}})
      .Observe(elapsed.count());
  const std::string reason = ErrorReason(status);
  if (IsRejection(status) && !reason.empty()) CountRejection(reason);
  LogRpc({rpc_, peer_, project_, trace_.trace_id, trace_.span_id}, status,
         bytes_, elapsed.count());
}

}  // namespace qs

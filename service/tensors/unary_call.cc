// Tested by tests/service/tensors/tensor_service_test.cc.
#include "service/tensors/unary_call.h"

#include "service/server/error.h"
#include "service/server/grpc_status.h"
#include "service/server/log.h"

namespace qs {
namespace {

using Clock = std::chrono::steady_clock;

struct Work {
  grpc::ServerUnaryReactor* reactor;
  const char* rpc;
  std::string peer;
  Clock::time_point started;
  Caller caller;
  UnaryBody body;
};

void Finish(const Work& work, const absl::Status& status) {
  const std::chrono::duration<double> elapsed = Clock::now() - work.started;
  LogRpc(work.rpc, work.peer, status, 0, elapsed.count());
  work.reactor->Finish(ToGrpcStatus(status));
}

absl::Status Identify(const grpc::CallbackServerContext& call,
                      const AccessControl& access, Role role, Caller* caller) {
  absl::StatusOr<Caller> found = access.Identify(call);
  if (!found.ok()) return found.status();
  *caller = *std::move(found);
  return RequireRole(*caller, role);
}

}  // namespace

absl::Status ServerBusyError() {
  return RetryableError(absl::StatusCode::kResourceExhausted, "SERVER_BUSY",
                        "calls: too many wait for the disk");
}

grpc::ServerUnaryReactor* RunUnary(grpc::CallbackServerContext* call,
                                   const char* rpc, const AccessControl& access,
                                   Role role, IoPool& pool, UnaryBody body) {
  grpc::ServerUnaryReactor* const reactor = call->DefaultReactor();
  Work work = {reactor,      rpc,      call->peer(),
               Clock::now(), Caller(), std::move(body)};
  const absl::Status allowed = Identify(*call, access, role, &work.caller);
  if (!allowed.ok()) {
    Finish(work, allowed);
  } else if (!pool.TryRun([work] { Finish(work, work.body(work.caller)); })) {
    Finish(work, ServerBusyError());
  }
  return reactor;
}

}  // namespace qs

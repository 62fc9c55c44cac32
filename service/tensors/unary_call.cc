// Tested by tests/service/tensors/tensor_service_test.cc.
#include "service/tensors/unary_call.h"

#include <memory>

#include "service/server/error.h"
#include "service/server/grpc_status.h"
#include "service/server/served_call.h"

namespace qs {
namespace {

struct Work {
  Work(grpc::CallbackServerContext* call, const char* rpc, UnaryBody what)
      : reactor(call->DefaultReactor()),
        served(rpc, *call),
        body(std::move(what)) {}

  grpc::ServerUnaryReactor* const reactor;
  ServedCall served;
  Caller caller;
  const UnaryBody body;
};

void Finish(Work& work, const absl::Status& status) {
  work.served.End(status);
  work.reactor->Finish(ToGrpcStatus(status));
}

}  // namespace

absl::Status ServerBusyError() {
  return RetryableError(absl::StatusCode::kResourceExhausted, "SERVER_BUSY",
                        "calls: too many wait for the disk");
}

grpc::ServerUnaryReactor* RunUnary(grpc::CallbackServerContext* call,
                                   const char* rpc, const AccessControl& access,
                                   Role role, IoPool& pool, UnaryBody body) {
  const auto work = std::make_shared<Work>(call, rpc, std::move(body));
  // gRPC's from the moment on in which the work may be done.
  grpc::ServerUnaryReactor* const reactor = work->reactor;
  absl::StatusOr<Caller> caller = work->served.Authorize(access, *call, role);
  if (!caller.ok()) {
    Finish(*work, caller.status());
    return reactor;
  }
  work->caller = *std::move(caller);
  if (!pool.TryRun([work] { Finish(*work, work->body(work->caller)); })) {
    Finish(*work, ServerBusyError());
  }
  return reactor;
}

}  // namespace qs

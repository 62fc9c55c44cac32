// Tested by tests/service/server_test.cc.
#include "service/server/quantize_service.h"

#include "service/server/grpc_status.h"
#include "service/server/log.h"
#include "service/server/refused_stream.h"
#include "service/server/workers.h"
#include "service/stream/quantize_reactor.h"

namespace qs {
namespace {

// A call that was let in writes its line when it ends.
void LogRefused(const char* rpc, const grpc::CallbackServerContext& call,
                const absl::Status& why) {
  LogRpc(rpc, call.peer(), why, 0, 0);
}

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>*
QuantizeServiceImpl::Quantize(grpc::CallbackServerContext* call) {
  const absl::StatusOr<Caller> caller = Authorize(access_, *call, Role::kUser);
  if (!caller.ok()) {
    LogRefused("Quantize", *call, caller.status());
    return new RefusedStream<grpc::ByteBuffer, grpc::ByteBuffer>(
        caller.status());
  }
  return NewQuantizeReactor(context_, call);
}

PlanReactor* QuantizeServiceImpl::PlanCheckpoint(
    grpc::CallbackServerContext* call) {
  const auto caller = Authorize(access_, *call, Role::kReader);
  if (!caller.ok()) {
    LogRefused("PlanCheckpoint", *call, caller.status());
    return new RefusedStream<quant::v1::PlanCheckpointRequest,
                             quant::v1::PlanCheckpointResponse>(
        caller.status());
  }
  return NewPlanReactor(plans_, context_, call);
}

grpc::ServerUnaryReactor* QuantizeServiceImpl::GetCapabilities(
    grpc::CallbackServerContext* call, const quant::v1::GetCapabilitiesRequest*,
    quant::v1::Capabilities* response) {
  grpc::ServerUnaryReactor* const reactor = call->DefaultReactor();
  const auto caller = Authorize(access_, *call, Role::kReader);
  if (!caller.ok()) {
    LogRefused("GetCapabilities", *call, caller.status());
    reactor->Finish(ToGrpcStatus(caller.status()));
    return reactor;
  }
  *response = capabilities_;
  int cpu = 0;
  for (const Backend* backend : context_.pool().backends()) {
    *response->add_devices() = DescribeWorker(*backend, cpu, host_threads_);
    if (backend->name() == "cpu") ++cpu;
  }
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace qs

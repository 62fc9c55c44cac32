// Tested by tests/service/server_test.cc.
#include "service/server/quantize_service.h"

#include <memory>
#include <utility>

#include "service/server/grpc_status.h"
#include "service/server/refused_stream.h"
#include "service/server/served_call.h"
#include "service/server/workers.h"
#include "service/stream/quantize_reactor.h"

namespace qs {

BytesReactor* QuantizeServiceImpl::Quantize(grpc::CallbackServerContext* call) {
  auto served = std::make_unique<ServedCall>("Quantize", *call);
  const auto caller = served->Authorize(access_, *call, Role::kUser);
  if (caller.ok()) return NewQuantizeReactor(context_, call, std::move(served));
  served->End(caller.status());
  return new RefusedStream(caller.status());
}

BytesReactor* QuantizeServiceImpl::PlanCheckpoint(
    grpc::CallbackServerContext* call) {
  auto served = std::make_unique<ServedCall>("PlanCheckpoint", *call);
  const auto caller = served->Authorize(access_, *call, Role::kReader);
  if (caller.ok()) return NewPlanReactor(plans_, context_, std::move(served));
  served->End(caller.status());
  return new RefusedStream(caller.status());
}

grpc::ServerUnaryReactor* QuantizeServiceImpl::GetCapabilities(
    grpc::CallbackServerContext* call,
    const quant::v1::GetCapabilitiesRequest* request,
    quant::v1::Capabilities* response) {
  ServedCall served("GetCapabilities", *call);
  const absl::Status status =
      served.Authorize(access_, *call, Role::kReader).status();
  if (status.ok()) FillCapabilities(response);
  served.AddBytes(static_cast<int64_t>(request->ByteSizeLong()) +
                  static_cast<int64_t>(response->ByteSizeLong()));
  served.End(status);
  grpc::ServerUnaryReactor* const reactor = call->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

void QuantizeServiceImpl::FillCapabilities(quant::v1::Capabilities* out) const {
  *out = capabilities_;
  const std::vector<const Backend*> backends = context_.pool().backends();
  const std::vector<WorkerPool::DeviceClaims> claims =
      context_.pool().device_claims();
  int cpu = 0;
  for (size_t i = 0; i < backends.size(); ++i) {
    *out->add_devices() =
        DescribeWorker(*backends[i], claims[i], cpu, host_threads_);
    if (backends[i]->name() == "cpu") ++cpu;
  }
}

}  // namespace qs

// Tested by tests/service/server_test.cc.
#include "service/server/quantize_service.h"

#include "service/server/workers.h"
#include "service/stream/quantize_reactor.h"

namespace qs {

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>*
QuantizeServiceImpl::Quantize(grpc::CallbackServerContext* call) {
  return NewQuantizeReactor(context_, call);
}

PlanReactor* QuantizeServiceImpl::PlanCheckpoint(
    grpc::CallbackServerContext* call) {
  return NewPlanReactor(plans_, context_, call);
}

grpc::ServerUnaryReactor* QuantizeServiceImpl::GetCapabilities(
    grpc::CallbackServerContext* call, const quant::v1::GetCapabilitiesRequest*,
    quant::v1::Capabilities* response) {
  *response = capabilities_;
  int cpu = 0;
  for (const Backend* backend : context_.pool().backends()) {
    *response->add_devices() = DescribeWorker(*backend, cpu, host_threads_);
    if (backend->name() == "cpu") ++cpu;
  }
  grpc::ServerUnaryReactor* const reactor = call->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace qs

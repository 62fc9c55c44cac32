// QuantizeServiceImpl: the RPCs of quant.v1.QuantizeService, each handed to the
// class that implements it. Readers may plan and look at capabilities, users
// may quantize. Nothing here blocks.
#ifndef QS_SERVICE_SERVER_QUANTIZE_SERVICE_H_
#define QS_SERVICE_SERVER_QUANTIZE_SERVICE_H_

#include "quant/v1/quantization.grpc.pb.h"
#include "service/access/access.h"
#include "service/server/plan_call.h"
#include "service/stream/quantize_context.h"

namespace qs {

// Streams through raw byte buffers, the rest through messages.
using QuantizeServiceBase =
    quant::v1::QuantizeService::WithRawCallbackMethod_Quantize<
        quant::v1::QuantizeService::WithRawCallbackMethod_PlanCheckpoint<
            quant::v1::QuantizeService::WithCallbackMethod_GetCapabilities<
                quant::v1::QuantizeService::Service>>>;

class QuantizeServiceImpl final : public QuantizeServiceBase {
 public:
  // `access` and the contexts outlive the gRPC server.
  // `host_threads`: of each worker.
  QuantizeServiceImpl(const AccessControl& access, QuantizeContext& context,
                      PlanContext& plans, quant::v1::Capabilities capabilities,
                      int host_threads)
      : access_(access),
        context_(context),
        plans_(plans),
        capabilities_(std::move(capabilities)),
        host_threads_(host_threads) {}

  BytesReactor* Quantize(grpc::CallbackServerContext* call) override;
  BytesReactor* PlanCheckpoint(grpc::CallbackServerContext* call) override;
  grpc::ServerUnaryReactor* GetCapabilities(
      grpc::CallbackServerContext* call,
      const quant::v1::GetCapabilitiesRequest* request,
      quant::v1::Capabilities* response) override;

 private:
  void FillCapabilities(quant::v1::Capabilities* out) const;

  const AccessControl& access_;
  QuantizeContext& context_;
  PlanContext& plans_;
  const quant::v1::Capabilities capabilities_;  // without devices
  const int host_threads_;
};

}  // namespace qs

#endif  // QS_SERVICE_SERVER_QUANTIZE_SERVICE_H_

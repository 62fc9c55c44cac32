// Tested by tests/kernels/cuda_backend_test.cc.
#include <utility>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/staged_ops.h"
#include "kernels/gptq_check.h"

namespace qs::cuda {
namespace {

class StagedGram final : public GramOps {
 public:
  StagedGram(DeviceSession& session, std::unique_ptr<GramOps> device,
             GramOps& host)
      : session_(session), device_(std::move(device)), host_(host) {}

  absl::Status Accumulate(const GramAccumulateArgs& host,
                          Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckGramAccumulate(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          GramAccumulateArgs args = host;
          const int64_t inputs = host.activations.cols;
          args.activations = call.In(host.activations);
          args.sum = call.InOut(host.sum, inputs * inputs);
          args.abs_sum = call.InOut(host.abs_sum, inputs);
          args.first_non_finite = call.Out(host.first_non_finite, 1);
          return call.RunSteps(
              [&](Stream& s) { return device_->Accumulate(args, s); });
        },
        [&] { return host_.Accumulate(host, stream); });
  }

  absl::Status Finish(const GramFinishArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckGramFinish(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          GramFinishArgs args = host;
          const int64_t elements = host.inputs * host.inputs;
          args.sum = call.In(host.sum, elements);
          args.abs_sum = call.In(host.abs_sum, host.inputs);
          args.second_moment = call.Out(host.second_moment, elements);
          args.abs_sum_f32 = call.Out(host.abs_sum_f32, host.inputs);
          return call.RunSteps(
              [&](Stream& s) { return device_->Finish(args, s); });
        },
        [&] { return host_.Finish(host, stream); });
  }

 private:
  DeviceSession& session_;
  const std::unique_ptr<GramOps> device_;
  GramOps& host_;
};

}  // namespace

std::unique_ptr<GramOps> StageGram(DeviceSession& session,
                                   std::unique_ptr<GramOps> device,
                                   GramOps& host) {
  return std::make_unique<StagedGram>(session, std::move(device), host);
}

}  // namespace qs::cuda

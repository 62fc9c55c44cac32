// GramOps for host memory on the emulated device.
#ifndef QS_TESTS_TESTING_EMULATED_GRAM_H_
#define QS_TESTS_TESTING_EMULATED_GRAM_H_

#include <memory>

#include "kernels/cuda/gram_cuda.h"
#include "tests/testing/emulated_solver.h"

namespace qs::cuda {

class EmulatedGram final : public GramOps {
 public:
  EmulatedGram() : ops_(NewGramCuda(solver_.workspace(), solver_.blas())) {}

  absl::Status Accumulate(const GramAccumulateArgs& host, Stream&) override {
    return solver_.Do([&](StagedCall& call) {
      GramAccumulateArgs args = host;
      const int64_t n = host.activations.cols;
      args.activations = call.In(host.activations);
      args.sum = call.InOut(host.sum, n * n);
      args.abs_sum = call.InOut(host.abs_sum, n);
      args.first_non_finite = call.Out(host.first_non_finite, 1);
      return call.RunSteps(
          [&](Stream& s) { return ops_->Accumulate(args, s); });
    });
  }

  absl::Status Finish(const GramFinishArgs& host, Stream&) override {
    return solver_.Do([&](StagedCall& call) {
      GramFinishArgs args = host;
      const int64_t n = host.inputs;
      args.sum = call.In(host.sum, n * n);
      args.abs_sum = call.In(host.abs_sum, n);
      args.second_moment = call.Out(host.second_moment, n * n);
      args.abs_sum_f32 = call.Out(host.abs_sum_f32, n);
      return call.RunSteps([&](Stream& s) { return ops_->Finish(args, s); });
    });
  }

 private:
  EmulatedSolver solver_;
  const std::unique_ptr<GramOps> ops_;
};

}  // namespace qs::cuda

#endif  // QS_TESTS_TESTING_EMULATED_GRAM_H_

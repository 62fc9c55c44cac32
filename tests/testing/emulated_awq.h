// AwqOps for host memory on the emulated device.
#ifndef QS_TESTS_TESTING_EMULATED_AWQ_H_
#define QS_TESTS_TESTING_EMULATED_AWQ_H_

#include <memory>
#include <utility>
#include <vector>

#include "kernels/cuda/awq_cuda.h"
#include "tests/testing/emulated_solver.h"

namespace qs::cuda {

class EmulatedAwq final : public AwqOps {
 public:
  explicit EmulatedAwq(std::unique_ptr<Blas> blas = NewEmulatedBlas())
      : solver_(std::move(blas)),
        ops_(NewAwqCuda(solver_.workspace(), solver_.blas())) {}

  absl::Status Statistics(const AwqStatisticsArgs& host, Stream&) override {
    return solver_.Do([&](StagedCall& call) {
      AwqStatisticsArgs args = host;
      const std::vector<TensorView> weights = In(call, host.weights);
      args.weights = weights;
      return call.RunSteps(
          [&](Stream& s) { return ops_->Statistics(args, s); });
    });
  }

  absl::Status ScaleLosses(const AwqScaleLossArgs& host, Stream&) override {
    return solver_.Do([&](StagedCall& call) {
      AwqScaleLossArgs args = host;
      const std::vector<TensorView> weights = In(call, host.weights);
      args.weights = weights;
      const int64_t cols = weights.empty() ? 0 : weights.front().cols;
      args.second_moment = call.In(host.second_moment, cols * cols);
      args.factor = call.In(host.factor, cols * cols);
      args.curvature = call.In(host.curvature, cols);
      return call.RunSteps(
          [&](Stream& s) { return ops_->ScaleLosses(args, s); });
    });
  }

  absl::Status ClipSearch(const AwqClipArgs& host, Stream&) override {
    return solver_.Do([&](StagedCall& call) {
      AwqClipArgs args = host;
      const int64_t cols = host.weight.cols;
      const int64_t groups = host.weight.num_elements() / host.grid.group_size;
      args.weight = call.In(host.weight);
      args.second_moment = call.In(host.second_moment, cols * cols);
      args.low = call.Out(host.low, groups);
      args.high = call.Out(host.high, groups);
      return call.RunSteps(
          [&](Stream& s) { return ops_->ClipSearch(args, s); });
    });
  }

  absl::Status Quantize(const AwqQuantizeArgs& host, Stream&) override {
    return solver_.Do([&](StagedCall& call) {
      AwqQuantizeArgs args = host;
      const int64_t count = host.weight.num_elements();
      const int64_t groups = count / host.grid.group_size;
      args.weight = call.In(host.weight);
      args.low = call.In(host.low, groups);
      args.high = call.In(host.high, groups);
      args.codes = call.Out(host.codes, count);
      args.group_scales = call.OutBytes(
          host.group_scales, groups * DTypeBytes(host.grid.scale_dtype));
      args.zero_points = call.Out(host.zero_points, groups);
      args.decoded = call.Out(host.decoded, count);
      return call.RunSteps([&](Stream& s) { return ops_->Quantize(args, s); });
    });
  }

 private:
  static std::vector<TensorView> In(StagedCall& call,
                                    std::span<const TensorView> host) {
    std::vector<TensorView> weights;
    for (const TensorView& weight : host) weights.push_back(call.In(weight));
    return weights;
  }

  EmulatedSolver solver_;
  const std::unique_ptr<AwqOps> ops_;
};

}  // namespace qs::cuda

#endif  // QS_TESTS_TESTING_EMULATED_AWQ_H_

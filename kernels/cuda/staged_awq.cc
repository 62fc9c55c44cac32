// Pieces of rows are one matrix on the device: with what a list of pieces has
// of one type in one product, results depend on the rows and not on the pieces.
// Tested by tests/kernels/cuda_backend_test.cc.
#include <utility>
#include <vector>

#include "kernels/awq_check.h"
#include "kernels/awq_pieces.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/staged_ops.h"

namespace qs::cuda {
namespace {

std::vector<TensorView> InAll(StagedCall& call,
                              std::span<const TensorView> host, bool join) {
  std::vector<TensorView> views;
  ForAwqRuns(host, join, [&](std::span<const TensorView> run, int64_t) {
    views.push_back(call.InRows(run));
  });
  return views;
}

// Scales, losses and w_mean stay on the host (awq_ops.h).
class StagedAwq final : public AwqOps {
 public:
  StagedAwq(DeviceSession& session, std::unique_ptr<AwqOps> device,
            AwqOps& host)
      : session_(session), device_(std::move(device)), host_(host) {}

  absl::Status Statistics(const AwqStatisticsArgs& host,
                          Stream& stream) override {
    QS_RETURN_IF_ERROR(
        CheckAwqWeights(host.weights, {.group_size = host.group_size}));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          AwqStatisticsArgs args = host;
          const std::vector<TensorView> weights =
              InAll(call, host.weights, /*join=*/true);
          args.weights = weights;
          return call.RunSteps(
              [&](Stream& s) { return device_->Statistics(args, s); });
        },
        [&] { return host_.Statistics(host, stream); });
  }

  absl::Status ScaleLosses(const AwqScaleLossArgs& host,
                           Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckAwqScaleLosses(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          AwqScaleLossArgs args = host;
          // A stride begins anew in each piece.
          const std::vector<TensorView> weights =
              InAll(call, host.weights, host.row_stride == 1);
          const int64_t cols = weights.front().cols;
          args.weights = weights;
          const ContentId id = host.matrix_id;
          args.second_moment = call.In(host.second_moment, cols * cols, id);
          args.factor = call.In(host.factor, cols * cols, id);
          args.curvature = call.In(host.curvature, cols);
          return call.RunSteps(
              [&](Stream& s) { return device_->ScaleLosses(args, s); });
        },
        [&] { return host_.ScaleLosses(host, stream); });
  }

  absl::Status ClipSearch(const AwqClipArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckAwqGrid(host.weight, host.grid));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          AwqClipArgs args = host;
          const int64_t cols = host.weight.cols;
          const int64_t groups =
              host.weight.num_elements() / host.grid.group_size;
          args.weight = call.In(host.weight);
          args.second_moment =
              call.In(host.second_moment, cols * cols, host.second_moment_id);
          args.low = call.Out(host.low, groups);
          args.high = call.Out(host.high, groups);
          return call.RunSteps(
              [&](Stream& s) { return device_->ClipSearch(args, s); });
        },
        [&] { return host_.ClipSearch(host, stream); });
  }

  absl::Status Quantize(const AwqQuantizeArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckAwqGrid(host.weight, host.grid));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          AwqQuantizeArgs args = host;
          const int64_t n = host.weight.num_elements();
          const int64_t groups = n / host.grid.group_size;
          args.weight = call.In(host.weight);
          args.low = call.In(host.low, groups);
          args.high = call.In(host.high, groups);
          args.codes = call.Out(host.codes, n);
          args.group_scales = call.OutBytes(
              host.group_scales, groups * DTypeBytes(host.grid.scale_dtype));
          args.zero_points = call.Out(host.zero_points, groups);
          args.decoded = call.Out(host.decoded, n);
          return call.RunSteps(
              [&](Stream& s) { return device_->Quantize(args, s); });
        },
        [&] { return host_.Quantize(host, stream); });
  }

 private:
  DeviceSession& session_;
  const std::unique_ptr<AwqOps> device_;
  AwqOps& host_;
};

}  // namespace

std::unique_ptr<AwqOps> StageAwq(DeviceSession& session,
                                 std::unique_ptr<AwqOps> device, AwqOps& host) {
  return std::make_unique<StagedAwq>(session, std::move(device), host);
}

}  // namespace qs::cuda

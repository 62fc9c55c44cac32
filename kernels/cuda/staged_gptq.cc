// Tested by tests/kernels/cuda_backend_test.cc.
#include <utility>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/staged_ops.h"
#include "kernels/gptq_check.h"

namespace qs::cuda {
namespace {

class StagedGptq final : public GptqOps {
 public:
  StagedGptq(DeviceSession& session, std::unique_ptr<GptqOps> device,
             GptqOps& host)
      : session_(session), device_(std::move(device)), host_(host) {}

  // An order is checked here: on the device it is trusted.
  absl::Status Factor(const GptqFactorArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckGptqFactor(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          GptqFactorArgs args = host;
          const int64_t elements = host.size * host.size;
          args.order = call.In(host.order, host.size);
          if (host.factor == host.hessian) {
            args.hessian = args.factor = call.InOut(host.factor, elements);
          } else {
            args.hessian = call.In(host.hessian, elements);
            args.factor = call.Out(host.factor, elements);
          }
          return call.RunSteps(
              [&](Stream& s) { return device_->Factor(args, s); });
        },
        [&] { return host_.Factor(host, stream); });
  }

  absl::Status Solve(const GptqSolveArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckGptqSolve(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          GptqSolveArgs args = host;
          const int64_t rows = host.weight.rows;
          const int64_t cols = host.weight.cols;
          const int64_t groups = rows * CeilDiv(cols, host.grid.group_size);
          const bool given = host.range == GptqRange::kGiven;
          const int64_t scale_bytes =
              groups * DTypeBytes(host.grid.scale_dtype);
          args.weight = call.In(host.weight);
          args.factor = call.In(host.factor, cols * cols, host.factor_id);
          args.order = call.In(host.order, cols);
          args.group_index = call.In(host.group_index, cols);
          args.zeroed = call.In(host.zeroed, cols);
          args.codes = call.Out(host.codes, rows * cols);
          args.scales = given ? call.InOutBytes(host.scales, scale_bytes)
                              : call.OutBytes(host.scales, scale_bytes);
          args.zero_points = given ? call.InOut(host.zero_points, groups)
                                   : call.Out(host.zero_points, groups);
          args.row_loss = call.Out(host.row_loss, rows);
          args.first_non_finite = call.Out(host.first_non_finite, 1);
          return call.RunSteps(
              [&](Stream& s) { return device_->Solve(args, s); });
        },
        [&] { return host_.Solve(host, stream); });
  }

  absl::Status Refine(const GptqRefineArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckGptqRefine(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          GptqRefineArgs args = host;
          const int64_t rows = host.weight.rows;
          const int64_t cols = host.weight.cols;
          const int64_t groups = rows * CeilDiv(cols, host.grid.group_size);
          args.weight = call.In(host.weight);
          args.hessian = call.In(host.hessian, cols * cols, host.hessian_id);
          args.codes = call.InOut(host.codes, rows * cols);
          args.scales = call.InOutBytes(
              host.scales, groups * DTypeBytes(host.grid.scale_dtype));
          args.zero_points = call.In(host.zero_points, groups);
          args.row_error = call.Out(host.row_error, rows);
          return call.RunSteps(
              [&](Stream& s) { return device_->Refine(args, s); });
        },
        [&] { return host_.Refine(host, stream); });
  }

  absl::Status Decode(const GptqDecodeArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckGptqDecode(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          GptqDecodeArgs args = host;
          const int64_t rows = host.weight.rows;
          const int64_t cols = host.weight.cols;
          const int64_t groups = rows * CeilDiv(cols, host.grid.group_size);
          args.codes = call.In(host.codes, rows * cols);
          args.scales = call.InBytes(
              host.scales, groups * DTypeBytes(host.grid.scale_dtype));
          args.zero_points = call.In(host.zero_points, groups);
          args.group_index = call.In(host.group_index, cols);
          args.weight = call.Out(host.weight);
          return call.RunSteps(
              [&](Stream& s) { return device_->Decode(args, s); });
        },
        [&] { return host_.Decode(host, stream); });
  }

  absl::Status OutputError(const GptqErrorArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckGptqError(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          GptqErrorArgs args = host;
          const int64_t rows = host.weight.rows;
          const int64_t cols = host.weight.cols;
          args.weight = call.In(host.weight);
          args.decoded = call.In(host.decoded);
          args.hessian = call.In(host.hessian, cols * cols, host.hessian_id);
          args.error = call.Out(host.error, rows);
          args.signal = call.Out(host.signal, rows);
          return call.RunSteps(
              [&](Stream& s) { return device_->OutputError(args, s); });
        },
        [&] { return host_.OutputError(host, stream); });
  }

 private:
  DeviceSession& session_;
  const std::unique_ptr<GptqOps> device_;
  GptqOps& host_;
};

}  // namespace

std::unique_ptr<GptqOps> StageGptq(DeviceSession& session,
                                   std::unique_ptr<GptqOps> device,
                                   GptqOps& host) {
  return std::make_unique<StagedGptq>(session, std::move(device), host);
}

}  // namespace qs::cuda

// Tested by tests/service/gpu_workers_test.cc.
#include <utility>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/staged_ops.h"
#include "kernels/stats_check.h"

namespace qs::cuda {
namespace {

class StagedStats final : public StatsOps {
 public:
  StagedStats(DeviceSession& session, std::unique_ptr<StatsOps> device,
              StatsOps& host)
      : session_(session), device_(std::move(device)), host_(host) {}

  absl::Status Errors(const ErrorSumsArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckErrorSums(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          ErrorSumsArgs args = host;
          const int64_t groups =
              CeilDiv(host.weight.num_elements(), host.group_size);
          args.weight = call.In(host.weight);
          args.decoded = call.In(host.decoded);
          args.steps = call.In(host.steps, groups);
          args.sums = call.Out(host.sums, 1);
          args.group_squared_error = call.Out(host.group_squared_error, groups);
          args.rtn = call.Out(host.rtn, 1);
          return call.Run([&](Stream& s) { return device_->Errors(args, s); });
        },
        [&] { return host_.Errors(host, stream); });
  }

 private:
  DeviceSession& session_;
  const std::unique_ptr<StatsOps> device_;
  StatsOps& host_;
};

}  // namespace

std::unique_ptr<StatsOps> StageStats(DeviceSession& session,
                                     std::unique_ptr<StatsOps> device,
                                     StatsOps& host) {
  return std::make_unique<StagedStats>(session, std::move(device), host);
}

}  // namespace qs::cuda

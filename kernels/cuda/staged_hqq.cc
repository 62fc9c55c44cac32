// Tested by tests/kernels/cuda_backend_test.cc.
#include <utility>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/staged_ops.h"
#include "kernels/hqq_check.h"

namespace qs::cuda {
namespace {

class StagedHqq final : public HqqOps {
 public:
  StagedHqq(DeviceSession& session, std::unique_ptr<HqqOps> device,
            HqqOps& host)
      : session_(session), device_(std::move(device)), host_(host) {}

  absl::Status Encode(const HqqEncodeArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckHqqEncode(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          HqqEncodeArgs args = host;
          const int64_t n = host.weight.num_elements();
          const int64_t groups = n / host.group_size;
          const int64_t stored = groups * DTypeBytes(host.stored);
          args.weight = call.In(host.weight);
          args.codes = call.Out(host.codes, n);
          args.scales = call.OutBytes(host.scales, stored);
          args.zeros = call.OutBytes(host.zeros, stored);
          args.zero_points = call.Out(host.zero_points, groups);
          args.first_non_finite = call.Out(host.first_non_finite, 1);
          return call.Run([&](Stream& s) { return device_->Encode(args, s); });
        },
        [&] { return host_.Encode(host, stream); });
  }

  absl::Status Decode(const HqqDecodeArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckHqqGroups(host.weight, host.group_size, host.axis));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          HqqDecodeArgs args = host;
          const int64_t n = host.weight.num_elements();
          const int64_t stored =
              n / host.group_size * DTypeBytes(host.weight.dtype);
          args.codes = call.In(host.codes, n);
          args.scales = call.InBytes(host.scales, stored);
          args.zeros = call.InBytes(host.zeros, stored);
          args.weight = call.Out(host.weight);
          return call.Run([&](Stream& s) { return device_->Decode(args, s); });
        },
        [&] { return host_.Decode(host, stream); });
  }

 private:
  DeviceSession& session_;
  const std::unique_ptr<HqqOps> device_;
  HqqOps& host_;
};

}  // namespace

std::unique_ptr<HqqOps> StageHqq(DeviceSession& session,
                                 std::unique_ptr<HqqOps> device, HqqOps& host) {
  return std::make_unique<StagedHqq>(session, std::move(device), host);
}

}  // namespace qs::cuda

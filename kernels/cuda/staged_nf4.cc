// Tested by tests/kernels/cuda_session_test.cc.
#include <utility>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/staged_ops.h"
#include "kernels/nf4_check.h"

namespace qs::cuda {
namespace {

class StagedNf4 final : public Nf4Ops {
 public:
  StagedNf4(DeviceSession& session, std::unique_ptr<Nf4Ops> device,
            Nf4Ops& host)
      : session_(session), device_(std::move(device)), host_(host) {}

  absl::Status Encode(const Nf4EncodeArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckNf4Encode(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          Nf4EncodeArgs args = host;
          const int64_t n = host.weight.num_elements();
          args.weight = call.In(host.weight);
          args.packed = call.Out(host.packed, (n + 1) / 2);
          args.absmax = call.Out(host.absmax, CeilDiv(n, host.block_size));
          args.first_non_finite = call.Out(host.first_non_finite, 1);
          return call.Run([&](Stream& s) { return device_->Encode(args, s); });
        },
        [&] { return host_.Encode(host, stream); });
  }

  absl::Status Decode(const Nf4DecodeArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckNf4Block(host.weight.dtype, host.block_size));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          Nf4DecodeArgs args = host;
          const int64_t n = host.weight.num_elements();
          args.packed = call.In(host.packed, (n + 1) / 2);
          args.absmax = call.In(host.absmax, CeilDiv(n, host.block_size));
          args.weight = call.Out(host.weight);
          return call.Run([&](Stream& s) { return device_->Decode(args, s); });
        },
        [&] { return host_.Decode(host, stream); });
  }

  absl::Status NestedEncode(const NestedEncodeArgs& host,
                            Stream& stream) override {
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          NestedEncodeArgs args = host;
          args.absmax = call.In(host.absmax, host.num_blocks);
          args.codes = call.Out(host.codes, host.num_blocks);
          args.nested_absmax = call.Out(
              host.nested_absmax, CeilDiv(host.num_blocks, kNestedBlockSize));
          args.offset = call.Out(host.offset, 1);
          return call.Run(
              [&](Stream& s) { return device_->NestedEncode(args, s); });
        },
        [&] { return host_.NestedEncode(host, stream); });
  }

  absl::Status NestedDecode(const NestedDecodeArgs& host,
                            Stream& stream) override {
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          NestedDecodeArgs args = host;
          args.codes = call.In(host.codes, host.num_blocks);
          args.nested_absmax = call.In(
              host.nested_absmax, CeilDiv(host.num_blocks, kNestedBlockSize));
          args.offset = call.In(host.offset, 1);
          args.absmax = call.Out(host.absmax, host.num_blocks);
          return call.Run(
              [&](Stream& s) { return device_->NestedDecode(args, s); });
        },
        [&] { return host_.NestedDecode(host, stream); });
  }

  absl::Status NestedRefine(const NestedRefineArgs& host,
                            Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckNestedRefine(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          NestedRefineArgs args = host;
          const int64_t n = host.weight.num_elements();
          const int64_t blocks = CeilDiv(n, host.block_size);
          args.weight = call.In(host.weight);
          args.nested_absmax =
              call.In(host.nested_absmax,
                      CeilDiv(host.first_block + blocks, kNestedBlockSize));
          args.offset = call.In(host.offset, 1);
          args.codes = call.InOut(host.codes, blocks);
          args.absmax = call.InOut(host.absmax, blocks);
          args.packed = call.InOut(host.packed, (n + 1) / 2);
          args.coded_by = call.Out(host.coded_by, blocks);
          return call.Run(
              [&](Stream& s) { return device_->NestedRefine(args, s); });
        },
        [&] { return host_.NestedRefine(host, stream); });
  }

 private:
  DeviceSession& session_;
  const std::unique_ptr<Nf4Ops> device_;
  Nf4Ops& host_;
};

}  // namespace

std::unique_ptr<Nf4Ops> StageNf4(DeviceSession& session,
                                 std::unique_ptr<Nf4Ops> device, Nf4Ops& host) {
  return std::make_unique<StagedNf4>(session, std::move(device), host);
}

}  // namespace qs::cuda

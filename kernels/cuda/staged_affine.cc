// Tested by tests/kernels/cuda_backend_test.cc.
#include <algorithm>
#include <utility>

#include "kernels/affine_check.h"
#include "kernels/base/buffer.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/staged_ops.h"

namespace qs::cuda {
namespace {

constexpr int64_t kWordBytes = 4;

// Words that the caller has in `lines` pieces of a larger matrix, to or from
// memory in which they are one.
void CopyLines(const uint32_t* from, int64_t lines, int64_t words,
               int64_t from_stride, uint32_t* to, int64_t to_stride) {
  for (int64_t i = 0; i < lines; ++i) {
    std::copy_n(from + i * from_stride, words, to + i * to_stride);
  }
}

// Words of a row, or of a column, of `count` codes.
int64_t Words(int64_t count, int bits) { return CeilDiv(count * bits, 32); }

class StagedAffine final : public AffineOps {
 public:
  StagedAffine(DeviceSession& session, std::unique_ptr<AffineOps> device,
               AffineOps& host)
      : session_(session), device_(std::move(device)), host_(host) {}

  absl::Status Encode(const AffineEncodeArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckAffineEncode(host));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          AffineEncodeArgs args = host;
          const int64_t n = host.weight.num_elements();
          const int64_t groups = n / host.group_size;
          args.weight = call.In(host.weight);
          args.codes = call.Out(host.codes, n);
          args.scales = call.OutBytes(host.scales,
                                      groups * DTypeBytes(host.weight.dtype));
          args.zero_points = call.Out(host.zero_points, groups);
          args.first_non_finite = call.Out(host.first_non_finite, 1);
          return call.Run([&](Stream& s) { return device_->Encode(args, s); });
        },
        [&] { return host_.Encode(host, stream); });
  }

  absl::Status Decode(const AffineDecodeArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(
        CheckAffineGroups(host.weight, host.bits, host.group_size));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          AffineDecodeArgs args = host;
          const int64_t n = host.weight.num_elements();
          const int64_t groups = n / host.group_size;
          args.codes = call.In(host.codes, n);
          args.scales =
              call.InBytes(host.scales, groups * DTypeBytes(host.weight.dtype));
          args.zero_points = call.In(host.zero_points, groups);
          args.weight = call.Out(host.weight);
          return call.Run([&](Stream& s) { return device_->Decode(args, s); });
        },
        [&] { return host_.Decode(host, stream); });
  }

  absl::Status PackRows(const PackRowsArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckPackShape(host.rows, host.cols, host.bits));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          PackRowsArgs args = host;
          args.codes = call.In(host.codes, host.rows * host.cols);
          args.words =
              call.Out(host.words, host.rows * Words(host.cols, host.bits));
          return call.Run(
              [&](Stream& s) { return device_->PackRows(args, s); });
        },
        [&] { return host_.PackRows(host, stream); });
  }

  absl::Status UnpackRows(const UnpackRowsArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckPackShape(host.rows, host.cols, host.bits));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          UnpackRowsArgs args = host;
          args.words =
              call.In(host.words, host.rows * Words(host.cols, host.bits));
          args.codes = call.Out(host.codes, host.rows * host.cols);
          return call.Run(
              [&](Stream& s) { return device_->UnpackRows(args, s); });
        },
        [&] { return host_.UnpackRows(host, stream); });
  }

  absl::Status PackColumns(const PackColumnsArgs& host,
                           Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckPackShape(host.rows, host.cols, host.bits));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          PackColumnsArgs args = host;
          args.codes = call.In(host.codes, host.rows * host.cols);
          args.words =
              call.Out(host.words, Words(host.rows, host.bits) * host.cols);
          return call.Run(
              [&](Stream& s) { return device_->PackColumns(args, s); });
        },
        [&] { return host_.PackColumns(host, stream); });
  }

  absl::Status UnpackColumns(const UnpackColumnsArgs& host,
                             Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckPackShape(host.rows, host.cols, host.bits));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          UnpackColumnsArgs args = host;
          args.words =
              call.In(host.words, Words(host.rows, host.bits) * host.cols);
          args.codes = call.Out(host.codes, host.rows * host.cols);
          return call.Run(
              [&](Stream& s) { return device_->UnpackColumns(args, s); });
        },
        [&] { return host_.UnpackColumns(host, stream); });
  }

  absl::Status PackAwq(const PackAwqArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckPackAwq(host.rows, host.cols, host.stride));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) -> absl::Status {
          PackAwqArgs args = host;
          args.stride = host.rows / 8;
          const int64_t words = host.cols * args.stride;
          QS_ASSIGN_OR_RETURN(Buffer dense,
                              Buffer::Allocate(words * kWordBytes));
          args.codes = call.In(host.codes, host.rows * host.cols);
          args.words = call.Out(dense.As<uint32_t>(), words);
          QS_RETURN_IF_ERROR(
              call.Run([&](Stream& s) { return device_->PackAwq(args, s); }));
          CopyLines(dense.As<uint32_t>(), host.cols, args.stride, args.stride,
                    host.words, host.stride);
          return absl::OkStatus();
        },
        [&] { return host_.PackAwq(host, stream); });
  }

  absl::Status UnpackAwq(const UnpackAwqArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckPackAwq(host.rows, host.cols, host.stride));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) -> absl::Status {
          UnpackAwqArgs args = host;
          args.stride = host.rows / 8;
          const int64_t words = host.cols * args.stride;
          QS_ASSIGN_OR_RETURN(Buffer dense,
                              Buffer::Allocate(words * kWordBytes));
          CopyLines(host.words, host.cols, args.stride, host.stride,
                    dense.As<uint32_t>(), args.stride);
          args.words = call.In(dense.As<uint32_t>(), words);
          args.codes = call.Out(host.codes, host.rows * host.cols);
          return call.Run(
              [&](Stream& s) { return device_->UnpackAwq(args, s); });
        },
        [&] { return host_.UnpackAwq(host, stream); });
  }

  absl::Status PackParts(const PackPartsArgs& host, Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckPackParts(host.count, host.part, host.bits));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          PackPartsArgs args = host;
          args.codes = call.In(host.codes, host.count);
          args.packed = call.OutBytes(host.packed,
                                      host.part * PackedPartBytes(host.bits));
          return call.Run(
              [&](Stream& s) { return device_->PackParts(args, s); });
        },
        [&] { return host_.PackParts(host, stream); });
  }

  absl::Status UnpackParts(const UnpackPartsArgs& host,
                           Stream& stream) override {
    QS_RETURN_IF_ERROR(CheckPackParts(host.count, host.part, host.bits));
    return session_.Do(
        DeviceBytesOf(host),
        [&](StagedCall& call) {
          UnpackPartsArgs args = host;
          args.packed =
              call.InBytes(host.packed, host.part * PackedPartBytes(host.bits));
          args.codes = call.Out(host.codes, host.count);
          return call.Run(
              [&](Stream& s) { return device_->UnpackParts(args, s); });
        },
        [&] { return host_.UnpackParts(host, stream); });
  }

 private:
  DeviceSession& session_;
  const std::unique_ptr<AffineOps> device_;
  AffineOps& host_;
};

}  // namespace

std::unique_ptr<AffineOps> StageAffine(DeviceSession& session,
                                       std::unique_ptr<AffineOps> device,
                                       AffineOps& host) {
  return std::make_unique<StagedAffine>(session, std::move(device), host);
}

}  // namespace qs::cuda

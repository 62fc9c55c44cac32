// AffineOps for host memory on the emulated device: copies in, runs the CUDA
// kernels, copies out.
#ifndef QS_TESTS_TESTING_EMULATED_AFFINE_H_
#define QS_TESTS_TESTING_EMULATED_AFFINE_H_

#include <algorithm>
#include <memory>

#include "kernels/base/checked_math.h"
#include "kernels/cuda/affine_cuda.h"
#include "tests/testing/emulated_copies.h"

namespace qs {

class EmulatedAffine final : public AffineOps {
 public:
  explicit EmulatedAffine(uint64_t seed)
      : copies_(seed), ops_(NewAffineCuda()) {
    cuda::EmulatedDevice::Get().Seed(seed);
  }

  absl::Status Encode(const AffineEncodeArgs& host, Stream& stream) override {
    AffineEncodeArgs args = host;
    const int64_t n = host.weight.num_elements();
    const int64_t groups = n / host.group_size;
    const int64_t element = DTypeBytes(host.weight.dtype);
    copies_.Begin();
    args.weight.data =
        copies_.InBytes(host.weight.data, host.weight.num_bytes(), element);
    args.codes = copies_.Out(host.codes, n);
    args.scales = copies_.OutBytes(host.scales, groups * element, element);
    args.zero_points = copies_.Out(host.zero_points, groups);
    args.first_non_finite = copies_.Out(host.first_non_finite, 1);
    return copies_.End(ops_->Encode(args, stream));
  }

  absl::Status Decode(const AffineDecodeArgs& host, Stream& stream) override {
    AffineDecodeArgs args = host;
    const int64_t n = host.weight.num_elements();
    const int64_t groups = n / host.group_size;
    const int64_t element = DTypeBytes(host.weight.dtype);
    copies_.Begin();
    args.codes = copies_.In(host.codes, n);
    args.scales = copies_.InBytes(host.scales, groups * element, element);
    args.zero_points = copies_.In(host.zero_points, groups);
    args.weight.data = copies_.OutBytes(host.weight.data, n * element, element);
    return copies_.End(ops_->Decode(args, stream));
  }

  absl::Status PackRows(const PackRowsArgs& host, Stream& stream) override {
    PackRowsArgs args = host;
    copies_.Begin();
    args.codes = copies_.In(host.codes, host.rows * host.cols);
    args.words =
        copies_.Out(host.words, host.rows * Words(host.cols, host.bits));
    return copies_.End(ops_->PackRows(args, stream));
  }

  absl::Status UnpackRows(const UnpackRowsArgs& host, Stream& stream) override {
    UnpackRowsArgs args = host;
    copies_.Begin();
    args.words =
        copies_.In(host.words, host.rows * Words(host.cols, host.bits));
    args.codes = copies_.Out(host.codes, host.rows * host.cols);
    return copies_.End(ops_->UnpackRows(args, stream));
  }

  absl::Status PackColumns(const PackColumnsArgs& host,
                           Stream& stream) override {
    PackColumnsArgs args = host;
    copies_.Begin();
    args.codes = copies_.In(host.codes, host.rows * host.cols);
    args.words =
        copies_.Out(host.words, Words(host.rows, host.bits) * host.cols);
    return copies_.End(ops_->PackColumns(args, stream));
  }

  absl::Status UnpackColumns(const UnpackColumnsArgs& host,
                             Stream& stream) override {
    UnpackColumnsArgs args = host;
    copies_.Begin();
    args.words =
        copies_.In(host.words, Words(host.rows, host.bits) * host.cols);
    args.codes = copies_.Out(host.codes, host.rows * host.cols);
    return copies_.End(ops_->UnpackColumns(args, stream));
  }

  // Words between those of two columns go in and out.
  absl::Status PackAwq(const PackAwqArgs& host, Stream& stream) override {
    PackAwqArgs args = host;
    copies_.Begin();
    args.codes = copies_.In(host.codes, host.rows * host.cols);
    args.words = copies_.Out(host.words, AwqWords(host));
    std::copy_n(host.words, AwqWords(host), args.words);
    return copies_.End(ops_->PackAwq(args, stream));
  }

  absl::Status UnpackAwq(const UnpackAwqArgs& host, Stream& stream) override {
    UnpackAwqArgs args = host;
    copies_.Begin();
    args.words = copies_.In(host.words, AwqWords(host));
    args.codes = copies_.Out(host.codes, host.rows * host.cols);
    return copies_.End(ops_->UnpackAwq(args, stream));
  }

  absl::Status PackParts(const PackPartsArgs& host, Stream& stream) override {
    PackPartsArgs args = host;
    const int64_t element = PackedPartBytes(host.bits);
    copies_.Begin();
    args.codes = copies_.In(host.codes, host.count);
    args.packed = copies_.OutBytes(host.packed, host.part * element, element);
    return copies_.End(ops_->PackParts(args, stream));
  }

  absl::Status UnpackParts(const UnpackPartsArgs& host,
                           Stream& stream) override {
    UnpackPartsArgs args = host;
    const int64_t element = PackedPartBytes(host.bits);
    copies_.Begin();
    args.packed = copies_.InBytes(host.packed, host.part * element, element);
    args.codes = copies_.Out(host.codes, host.count);
    return copies_.End(ops_->UnpackParts(args, stream));
  }

 private:
  static int64_t Words(int64_t count, int bits) {
    return CeilDiv(count * bits, 32);
  }
  // From the first to the last.
  template <class Args>
  static int64_t AwqWords(const Args& args) {
    return (args.cols - 1) * args.stride + args.rows / 8;
  }

  EmulatedCopies copies_;
  const std::unique_ptr<AffineOps> ops_;
};

}  // namespace qs

#endif  // QS_TESTS_TESTING_EMULATED_AFFINE_H_

// HqqOps for host memory on the emulated device: copies in, runs the CUDA
// kernels, copies out.
#ifndef QS_TESTS_TESTING_EMULATED_HQQ_H_
#define QS_TESTS_TESTING_EMULATED_HQQ_H_

#include <memory>

#include "kernels/cuda/hqq_cuda.h"
#include "tests/testing/emulated_copies.h"

namespace qs {

class EmulatedHqq final : public HqqOps {
 public:
  explicit EmulatedHqq(uint64_t seed)
      : copies_(seed), ops_(NewHqqCuda(scratch_)) {
    cuda::EmulatedDevice::Get().Seed(seed);
  }

  absl::Status Encode(const HqqEncodeArgs& host, Stream& stream) override {
    HqqEncodeArgs args = host;
    const int64_t n = host.weight.num_elements();
    const int64_t groups = n / host.group_size;
    const int64_t stored = DTypeBytes(host.stored);
    copies_.Begin();
    args.weight.data =
        copies_.InBytes(host.weight.data, host.weight.num_bytes(),
                        DTypeBytes(host.weight.dtype));
    args.codes = copies_.Out(host.codes, n);
    args.scales = copies_.OutBytes(host.scales, groups * stored, stored);
    args.zeros = copies_.OutBytes(host.zeros, groups * stored, stored);
    args.zero_points = copies_.Out(host.zero_points, groups);
    args.first_non_finite = copies_.Out(host.first_non_finite, 1);
    return copies_.End(ops_->Encode(args, stream));
  }

  absl::Status Decode(const HqqDecodeArgs& host, Stream& stream) override {
    HqqDecodeArgs args = host;
    const int64_t n = host.weight.num_elements();
    const int64_t groups = n / host.group_size;
    const int64_t element = DTypeBytes(host.weight.dtype);
    copies_.Begin();
    args.codes = copies_.In(host.codes, n);
    args.scales = copies_.InBytes(host.scales, groups * element, element);
    args.zeros = copies_.InBytes(host.zeros, groups * element, element);
    args.weight.data = copies_.OutBytes(host.weight.data, n * element, element);
    return copies_.End(ops_->Decode(args, stream));
  }

 private:
  EmulatedScratch scratch_;
  EmulatedCopies copies_;
  const std::unique_ptr<HqqOps> ops_;
};

}  // namespace qs

#endif  // QS_TESTS_TESTING_EMULATED_HQQ_H_

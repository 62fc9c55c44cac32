// StatsOps for host memory on the emulated device: copies in, runs the CUDA
// kernels, copies out.
#ifndef QS_TESTS_TESTING_EMULATED_STATS_H_
#define QS_TESTS_TESTING_EMULATED_STATS_H_

#include <memory>

#include "kernels/base/checked_math.h"
#include "kernels/cuda/stats_cuda.h"
#include "tests/testing/emulated_copies.h"

namespace qs {

class EmulatedStats final : public StatsOps {
 public:
  explicit EmulatedStats(uint64_t seed)
      : copies_(seed), ops_(NewStatsCuda(scratch_)) {
    cuda::EmulatedDevice::Get().Seed(seed);
  }

  absl::Status Errors(const ErrorSumsArgs& host, Stream& stream) override {
    ErrorSumsArgs args = host;
    const int64_t n = host.weight.num_elements();
    const int64_t groups = CeilDiv(n, host.group_size);
    const int64_t element = DTypeBytes(host.weight.dtype);
    copies_.Begin();
    args.weight.data = copies_.InBytes(host.weight.data, n * element, element);
    args.decoded.data =
        copies_.InBytes(host.decoded.data, n * element, element);
    args.steps = copies_.In(host.steps, groups);
    args.sums = copies_.Out(host.sums, 1);
    args.group_squared_error = copies_.Out(host.group_squared_error, groups);
    args.rtn = copies_.Out(host.rtn, 1);
    return copies_.End(ops_->Errors(args, stream));
  }

 private:
  EmulatedScratch scratch_;
  EmulatedCopies copies_;
  const std::unique_ptr<StatsOps> ops_;
};

}  // namespace qs

#endif  // QS_TESTS_TESTING_EMULATED_STATS_H_

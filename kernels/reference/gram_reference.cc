// The definition of second moments: one product after the other, in F64.
// Tested by tests/kernels/gram_test.cc.
#include <cmath>

#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/factories.h"
#include "kernels/gptq_check.h"

namespace qs {
namespace {

class GramReference final : public GramOps {
 public:
  absl::Status Accumulate(const GramAccumulateArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckGramAccumulate(args));
    const TensorView& x = args.activations;
    const auto at = [&](int64_t i) {
      return static_cast<double>(LoadAsFloat(x.data, x.dtype, i));
    };
    *args.first_non_finite = -1;
    for (int64_t i = 0; i < x.num_elements(); ++i) {
      if (std::isfinite(at(i))) continue;
      *args.first_non_finite = i;
      return absl::OkStatus();
    }
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t i = 0; i < x.cols; ++i) {
        const double xi = at(t * x.cols + i);
        args.abs_sum[i] += std::abs(xi);
        for (int64_t j = i; j < x.cols; ++j) {
          args.sum[i * x.cols + j] += xi * at(t * x.cols + j);
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status Finish(const GramFinishArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckGramFinish(args));
    const int64_t n = args.inputs;
    for (int64_t i = 0; i < n; ++i) {
      args.abs_sum_f32[i] = static_cast<float>(args.abs_sum[i]);
      for (int64_t j = i; j < n; ++j) {
        const auto value = static_cast<float>(args.sum[i * n + j]);
        args.second_moment[i * n + j] = value;
        args.second_moment[j * n + i] = value;
      }
    }
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<GramOps> NewGramReference() {
  return std::make_unique<GramReference>();
}

}  // namespace qs

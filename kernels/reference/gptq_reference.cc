// The definition of the GPTQ family: its parts in one interface, and the
// smallest of them. Tested by tests/kernels/gptq_reference_test.cc.
#include "kernels/reference/gptq_reference.h"

#include "kernels/base/checked_math.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/factories.h"
#include "kernels/gptq_check.h"

namespace qs {
namespace {

// d H d^T.
double QuadraticForm(const std::vector<double>& d, const float* hessian) {
  const size_t n = d.size();
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    double product = 0;
    for (size_t j = 0; j < n; ++j) {
      product += static_cast<double>(hessian[i * n + j]) * d[j];
    }
    sum += d[i] * product;
  }
  return sum;
}

class GptqReference final : public GptqOps {
 public:
  absl::Status Factor(const GptqFactorArgs& args, Stream&) override {
    return gptq::FactorReference(args);
  }
  absl::Status Solve(const GptqSolveArgs& args, Stream&) override {
    return gptq::SolveReference(args);
  }
  absl::Status Refine(const GptqRefineArgs& args, Stream&) override {
    return gptq::RefineReference(args);
  }

  absl::Status Decode(const GptqDecodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckGptqDecode(args));
    const int64_t cols = args.weight.cols;
    const int64_t groups = CeilDiv(cols, args.grid.group_size);
    for (int64_t i = 0; i < args.weight.num_elements(); ++i) {
      const int64_t c = i % cols;
      const int64_t group = args.group_index == nullptr
                                ? c / args.grid.group_size
                                : args.group_index[c];
      const int64_t at = i / cols * groups + group;
      const int zero = args.zero_points == nullptr ? 1 << (args.grid.bits - 1)
                                                   : args.zero_points[at];
      StoreFromFloat(args.weight.data, args.weight.dtype, i,
                     static_cast<float>(args.codes[i] - zero) *
                         LoadAsFloat(args.scales, args.grid.scale_dtype, at));
    }
    return absl::OkStatus();
  }

  absl::Status OutputError(const GptqErrorArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckGptqError(args));
    const int64_t cols = args.weight.cols;
    for (int64_t row = 0; row < args.weight.rows; ++row) {
      std::vector<double> w, d;
      for (int64_t i = row * cols; i < (row + 1) * cols; ++i) {
        w.push_back(LoadAsFloat(args.weight.data, args.weight.dtype, i));
        d.push_back(w.back() - static_cast<double>(LoadAsFloat(
                                   args.decoded.data, args.decoded.dtype, i)));
      }
      args.error[row] = QuadraticForm(d, args.hessian);
      if (args.signal != nullptr) {
        args.signal[row] = QuadraticForm(w, args.hessian);
      }
    }
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<GptqOps> NewGptqReference() {
  return std::make_unique<GptqReference>();
}

}  // namespace qs

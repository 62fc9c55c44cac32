// The definition of the error statistics: plain loops, double sums.
// Tested by tests/kernels/stats_test.cc.
#include <algorithm>
#include <cmath>

#include "kernels/base/checked_math.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/factories.h"
#include "kernels/stats_check.h"

namespace qs {
namespace {

// The histogram's bin is F32 arithmetic, so that it is the same everywhere.
size_t BinOf(float w, float v, float step) {
  if (!(step > 0)) return 0;
  const float per_step =
      std::min(static_cast<float>(kHistogramBins) / step, 0x1.fffffep127f);
  const float bin = std::fabs(w - v) * per_step;
  return bin < kHistogramBins ? static_cast<size_t>(bin) : kHistogramBins - 1;
}

void AddOne(float weight, float decoded, ErrorSums* sums) {
  const double w = weight;
  const double v = decoded;
  const double d = w - v;
  ++sums->count;
  sums->squared_error += d * d;
  sums->absolute_error += std::fabs(d);
  sums->max_absolute_error = std::max(sums->max_absolute_error, std::fabs(d));
  sums->weight_squared += w * w;
  sums->decoded_squared += v * v;
  sums->dot += w * v;
}

class StatsReference final : public StatsOps {
 public:
  absl::Status Errors(const ErrorSumsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckErrorSums(args));
    const int64_t n = args.weight.num_elements();
    if (args.group_squared_error != nullptr) {
      std::fill_n(args.group_squared_error, CeilDiv(n, args.group_size), 0.0);
    }
    *args.sums = ErrorSums();
    for (int64_t begin = 0; begin < n; begin += kStatsRun) {
      ErrorSums run;
      for (int64_t i = begin; i < std::min(n, begin + kStatsRun); ++i) {
        Element(args, i, &run);
      }
      args.sums->Add(run);
    }
    if (args.rtn != nullptr) RtnErrors(args);
    return absl::OkStatus();
  }

 private:
  static void RtnErrors(const ErrorSumsArgs& args) {
    const TensorView& weight = args.weight;
    const int64_t n = weight.num_elements();
    *args.rtn = ErrorSums();
    for (int64_t begin = 0; begin < n; begin += args.group_size) {
      const int64_t end = std::min(n, begin + args.group_size);
      float absmax = 0;
      for (int64_t i = begin; i < end; ++i) {
        absmax = std::max(absmax,
                          std::fabs(LoadAsFloat(weight.data, weight.dtype, i)));
      }
      const float half = std::ldexp(1.0f, args.rtn_bits - 1);
      const float scale = absmax / (half - 0.5f);
      ErrorSums group;
      for (int64_t i = begin; i < end; ++i) {
        const float w = LoadAsFloat(weight.data, weight.dtype, i);
        // A scale below the normal numbers leaves nothing but zeros.
        const float inv_scale = scale >= 0x1p-126f ? 1.0f / scale : 0.0f;
        const float code =
            std::nearbyint(std::clamp(w * inv_scale, -half, half - 1));
        AddOne(w, code * scale, &group);
      }
      args.rtn->Add(group);
    }
  }

  static void Element(const ErrorSumsArgs& args, int64_t i, ErrorSums* run) {
    const float w = LoadAsFloat(args.weight.data, args.weight.dtype, i);
    const float v = LoadAsFloat(args.decoded.data, args.decoded.dtype, i);
    const int64_t group = i / args.group_size;
    AddOne(w, v, run);
    if (args.steps != nullptr) ++run->histogram[BinOf(w, v, args.steps[group])];
    if (args.group_squared_error != nullptr) {
      const double d = static_cast<double>(w) - static_cast<double>(v);
      args.group_squared_error[group] += d * d;
    }
  }
};

}  // namespace

std::unique_ptr<StatsOps> NewStatsReference() {
  return std::make_unique<StatsReference>();
}

}  // namespace qs

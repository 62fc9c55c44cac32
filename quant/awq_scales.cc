// Tested by tests/quant/awq_golden_test.cc and tests/quant/awq_group_test.cc.
#include "quant/awq_scales.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/base/status_macros.h"
#include "quant/awq_judge.h"

namespace qs {
namespace {

constexpr float kLeastScale = 1e-4f;
// Rows of all weights together that BEST judges candidates by; the best is
// judged by all rows.
constexpr int64_t kSearchedRows = 512;
// Golden section steps around the best ratio.
constexpr int kRefinements = 4;
constexpr double kGolden = 0.6180339887498949;

float Rounded(DType dtype, double x) {
  alignas(float) unsigned char storage[sizeof(float)];
  StoreFromFloat(storage, dtype, 0, static_cast<float>(x));
  return LoadAsFloat(storage, dtype, 0);
}

// A power as F32 arithmetic gives it, the exponent (as torch has it) and the
// result rounded to the dtype.
float Power(DType dtype, float x, double exponent) {
  return Rounded(dtype, std::pow(x, Rounded(dtype, exponent)));
}

void Normalize(DType dtype, std::vector<float>* s) {
  const auto [least, most] = std::minmax_element(s->begin(), s->end());
  const float product = Rounded(dtype, *most * *least);
  const float middle = Rounded(dtype, std::sqrt(product));
  for (float& v : *s) {
    v = Rounded(dtype, v / middle);
    if (!std::isfinite(v) || v <= 0) v = 1;
  }
}

void Cap(double ratio, std::vector<float>* s) {
  if (ratio <= 0) return;
  const float most = *std::max_element(s->begin(), s->end());
  const float least = static_cast<float>(most / ratio);
  for (float& v : *s) v = std::max(v, least);
}

class Search {
 public:
  Search(AwqSearchArgs args, Backend& backend)
      : args_(std::move(args)), backend_(backend) {}

  absl::StatusOr<AwqScales> Reference() {
    std::vector<AwqScales> candidates;
    for (int i = 0; i < args_.spec.grid; ++i) {
      const double ratio = i / static_cast<double>(args_.spec.grid);
      candidates.push_back(Make(ratio, args_.spec.duo_scaling));
    }
    QS_ASSIGN_OR_RETURN(const std::vector<double> losses,
                        Losses(candidates, 1));
    return candidates[Least(losses)];
  }

  absl::StatusOr<AwqScales> Best() {
    QS_ASSIGN_OR_RETURN(AwqScales rounded, BestOfGrid());
    if (!args_.spec.solve_codes) return NotWorse(std::move(rounded));
    args_.factor = Buffer();
    const AwqJudgeArgs judge = JudgeArgs();
    QS_ASSIGN_OR_RETURN(curvature_, Curvature(judge, backend_));
    QS_ASSIGN_OR_RETURN(AwqScales solved, BestOfGrid());
    std::vector<AwqScales> finalists = {Identity(), std::move(rounded),
                                        std::move(solved)};
    QS_ASSIGN_OR_RETURN(const std::vector<double> losses,
                        SolvedLosses(judge, finalists, backend_));
    return std::move(finalists[Least(losses)]);
  }

 private:
  DType Arithmetic() const {
    return args_.profile == Profile::kReference ? args_.weights.front().dtype
                                                : DType::kF32;
  }

  AwqJudgeArgs JudgeArgs() const {
    AwqJudgeArgs judge;
    judge.spec = args_.spec;
    judge.grid = args_.grid;
    judge.weights = args_.weights;
    judge.second_moment = args_.second_moment;
    judge.inputs = static_cast<int64_t>(args_.x_mean.size());
    judge.checkpoint = args_.checkpoint;
    return judge;
  }

  // By rounding, or once there is a curvature by solving.
  absl::StatusOr<AwqScales> BestOfGrid() {
    std::vector<AwqScales> candidates = {Identity()};
    for (bool duo : {false, true}) {
      if (duo && !args_.spec.duo_scaling) continue;
      for (int i = duo ? 0 : 1; i <= args_.spec.grid; ++i) {
        candidates.push_back(
            Make(i / static_cast<double>(args_.spec.grid), duo));
      }
    }
    QS_ASSIGN_OR_RETURN(const std::vector<double> losses,
                        Losses(candidates, Stride()));
    const size_t at = Least(losses);
    AwqScales best = std::move(candidates[at]);
    if (at != 0) QS_RETURN_IF_ERROR(Refine(losses[at], &best));
    return best;
  }

  AwqScales Identity() const {
    return {std::vector<float>(args_.x_mean.size(), 1.0f), 0, false};
  }

  AwqScales Make(double ratio, bool duo) const {
    AwqScales made;
    made.values =
        AwqCandidate(args_.x_mean, args_.w_mean, ratio, duo, Arithmetic());
    made.exponent = ratio;
    made.duo = duo;
    if (args_.profile == Profile::kBest) {
      Cap(args_.spec.max_scale_ratio, &made.values);
      Normalize(DType::kF32, &made.values);
    }
    if (args_.adjust != nullptr) args_.adjust(made.values);
    return made;
  }

  int64_t Stride() const {
    int64_t rows = 0;
    for (const TensorView& weight : args_.weights) rows += weight.rows;
    return std::max<int64_t>(1, rows / kSearchedRows);
  }

  absl::StatusOr<std::vector<double>> Losses(
      std::span<const AwqScales> candidates, int64_t stride) {
    std::vector<float> scales;
    for (const AwqScales& c : candidates) {
      scales.insert(scales.end(), c.values.begin(), c.values.end());
    }
    std::vector<double> losses(candidates.size());
    AwqScaleLossArgs args;
    args.weights = args_.weights;
    args.grid = args_.grid;
    args.scales = scales.data();
    args.candidates = static_cast<int64_t>(candidates.size());
    if (!curvature_.empty()) {
      args.curvature = curvature_.data();
    } else if (args_.factor.size() > 0) {
      args.factor = args_.factor.As<float>();
    } else {
      args.second_moment = args_.second_moment;
    }
    args.row_stride = stride;
    args.checkpoint = args_.checkpoint;
    args.losses = losses.data();
    QS_RETURN_IF_ERROR(backend_.awq().ScaleLosses(args, backend_.stream()));
    return losses;
  }

  // The first of the least; a NaN is never it unless all are.
  static size_t Least(std::span<const double> losses) {
    size_t at = 0;
    for (size_t i = 1; i < losses.size(); ++i) {
      if (losses[i] < losses[at] || std::isnan(losses[at])) at = i;
    }
    return at;
  }

  // Golden section over the ratio, one grid step to each side.
  absl::Status Refine(double loss, AwqScales* best) {
    const double step = 1.0 / args_.spec.grid;
    double low = std::max(0.0, best->exponent - step);
    double high = std::min(1.0, best->exponent + step);
    for (int i = 0; i < kRefinements; ++i) {
      const std::vector<AwqScales> two = {
          Make(high - kGolden * (high - low), best->duo),
          Make(low + kGolden * (high - low), best->duo)};
      QS_ASSIGN_OR_RETURN(const std::vector<double> losses,
                          Losses(two, Stride()));
      const size_t at = Least(losses);
      if (at == 0) {
        high = two[1].exponent;
      } else {
        low = two[0].exponent;
      }
      if (losses[at] < loss) {
        loss = losses[at];
        *best = two[at];
      }
    }
    return absl::OkStatus();
  }

  // `best` where it is below no scaling on all rows.
  absl::StatusOr<AwqScales> NotWorse(AwqScales best) {
    const std::vector<AwqScales> two = {Identity(), std::move(best)};
    QS_ASSIGN_OR_RETURN(const std::vector<double> losses, Losses(two, 1));
    return two[losses[1] < losses[0] ? 1 : 0];
  }

  AwqSearchArgs args_;
  Backend& backend_;
  std::vector<float> curvature_;
};

}  // namespace

std::vector<float> AwqCandidate(std::span<const float> x_mean,
                                std::span<const float> w_mean, double ratio,
                                bool duo, DType dtype) {
  const float least = Rounded(dtype, kLeastScale);
  std::vector<float> s(x_mean.size());
  for (size_t k = 0; k < s.size(); ++k) {
    s[k] = Power(dtype, x_mean[k], ratio);
    if (duo) {
      const float w =
          Rounded(dtype, Power(dtype, w_mean[k], 1 - ratio) + kLeastScale);
      s[k] = Rounded(dtype, s[k] / w);
    }
    s[k] = std::max(s[k], least);
  }
  Normalize(dtype, &s);
  return s;
}

absl::StatusOr<AwqScales> SearchAwqScales(AwqSearchArgs args,
                                          Backend& backend) {
  const bool reference = args.profile == Profile::kReference;
  Search search(std::move(args), backend);
  return reference ? search.Reference() : search.Best();
}

}  // namespace qs

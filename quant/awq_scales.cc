// Tested by tests/quant/awq_golden_test.cc, tests/quant/awq_group_test.cc and
// tests/quant/awq_scales_test.cc.
#include "quant/awq_scales.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/awq_judge.h"
#include "quant/group_parts.h"

namespace qs {
namespace {

constexpr float kLeastScale = 1e-4f;
// Rows of all weights together that BEST judges candidates by; the best is
// judged by all rows.
constexpr int64_t kSearchedRows = 512;
// Golden section steps around the best ratio.
constexpr int kRefinements = 4;
// Parts of the rows after which a candidate may be given up.
constexpr int64_t kLossParts = 8;
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

// Rows of all weights, at even distances, next to each other: products of few
// rows at a time would mostly pack the other matrix.
class Sample {
 public:
  explicit Sample(std::span<const TensorView> weights) {
    int64_t rows = 0;
    for (const TensorView& weight : weights) rows += weight.rows;
    const int64_t stride = std::max<int64_t>(1, rows / kSearchedRows);
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      Gather(weights, dtype, stride);
    }
  }
  std::span<const TensorView> views() const { return views_; }

 private:
  void Gather(std::span<const TensorView> weights, DType dtype,
              int64_t stride) {
    std::vector<uint8_t> bytes;
    for (const TensorView& weight : weights) {
      if (weight.dtype != dtype) continue;
      const auto* data = static_cast<const uint8_t*>(weight.data);
      const int64_t row_bytes = weight.cols * DTypeBytes(dtype);
      for (int64_t r = 0; r < weight.rows; r += stride) {
        bytes.insert(bytes.end(), data + r * row_bytes,
                     data + (r + 1) * row_bytes);
      }
    }
    if (bytes.empty()) return;
    const int64_t cols = weights.front().cols;
    rows_.push_back(std::move(bytes));
    views_.push_back(
        {rows_.back().data(), dtype,
         static_cast<int64_t>(rows_.back().size()) / (cols * DTypeBytes(dtype)),
         cols});
  }

  std::vector<std::vector<uint8_t>> rows_;  // moved, their bytes stay in place
  std::vector<TensorView> views_;
};

class Search {
 public:
  Search(AwqSearchArgs args, Backend& backend)
      : args_(std::move(args)),
        backend_(backend),
        sample_(args_.weights),
        checkpoint_(args_.checkpoint) {}

  absl::StatusOr<AwqScales> Reference() {
    std::vector<AwqScales> candidates;
    for (int i = 0; i < args_.spec.grid; ++i) {
      const double ratio = i / static_cast<double>(args_.spec.grid);
      candidates.push_back(Make(ratio, args_.spec.duo_scaling));
    }
    // A device has losses of all rows sooner than it has the rows.
    if (!backend_.prefers_large()) return LeastOfAllRows(candidates);
    QS_ASSIGN_OR_RETURN(const std::vector<double> losses,
                        Losses(candidates, args_.weights));
    return candidates[Least(losses)];
  }

  absl::StatusOr<AwqScales> Best() {
    std::vector<AwqScales> finalists = {Identity()};
    if (args_.by_rounding) {
      Begin(0, args_.spec.solve_codes ? 0.3 : 1);
      QS_ASSIGN_OR_RETURN(finalists.emplace_back(), BestOfGrid());
      if (!args_.spec.solve_codes) return NotWorse(std::move(finalists[1]));
      args_.factor = Buffer();
    }
    Begin(0.3, 0.5);
    QS_ASSIGN_OR_RETURN(curvature_, Curvature(JudgeArgs(), backend_));
    Begin(0.5, 0.6);
    QS_ASSIGN_OR_RETURN(finalists.emplace_back(), BestOfGrid());
    // Most of a loud input may follow from the others, and then costs little.
    std::vector<float> unexplained;
    for (float c : curvature_) unexplained.push_back(std::sqrt(c));
    args_.x_mean = unexplained;
    Begin(0.6, 0.7);
    QS_ASSIGN_OR_RETURN(finalists.emplace_back(), BestOfGrid());
    Begin(0.7, 1);
    QS_ASSIGN_OR_RETURN(const std::vector<double> losses,
                        SolvedLosses(JudgeArgs(), finalists, backend_));
    return std::move(finalists[Least(losses)]);
  }

 private:
  // What comes is about this part of the search.
  void Begin(double begin, double end) {
    checkpoint_ = PartOf(args_.checkpoint, begin, end);
  }

  DType Arithmetic() const {
    return args_.profile == Profile::kReference ? args_.weights.front().dtype
                                                : DType::kF32;
  }

  // The candidate with the least loss on all rows, the first of equals. Rows
  // only add to a loss: a candidate is given up as soon as some of them cost
  // more than all rows cost the best so far. Those that look best on few rows
  // come first.
  absl::StatusOr<AwqScales> LeastOfAllRows(
      std::span<const AwqScales> candidates) {
    constexpr double kSampled = 0.3;  // of the time, about
    Begin(0, kSampled);
    QS_ASSIGN_OR_RETURN(const std::vector<double> sampled,
                        SampledLosses(candidates));
    std::vector<size_t> order(candidates.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return sampled[a] < sampled[b];
    });
    size_t best = order.front();
    double least = INFINITY;
    const double each = (1 - kSampled) / static_cast<double>(order.size());
    double begin = kSampled;
    for (size_t at : order) {
      Begin(begin, begin + each);
      begin += each;
      QS_ASSIGN_OR_RETURN(const double loss, LossUpTo(candidates[at], least));
      if (loss < least || (loss == least && at < best)) {
        best = at;
        least = loss;
      }
    }
    return candidates[best];
  }

  // The loss on all rows, or what some cost when that is above `most`.
  absl::StatusOr<double> LossUpTo(const AwqScales& candidate, double most) {
    const std::span<const TensorView> all = args_.weights;
    const auto part = static_cast<size_t>(
        CeilDiv(static_cast<int64_t>(all.size()), kLossParts));
    double loss = 0;
    for (size_t first = 0; first < all.size() && !(loss > most);
         first += part) {
      QS_ASSIGN_OR_RETURN(
          const std::vector<double> some,
          Losses({&candidate, 1},
                 all.subspan(first, std::min(part, all.size() - first))));
      loss += some.front();
    }
    return loss;
  }

  AwqJudgeArgs JudgeArgs() const {
    AwqJudgeArgs judge;
    judge.spec = args_.spec;
    judge.grid = args_.grid;
    judge.weights = args_.weights;
    judge.second_moment = args_.second_moment;
    judge.inputs = static_cast<int64_t>(args_.x_mean.size());
    judge.checkpoint = checkpoint_;
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
                        SampledLosses(candidates));
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

  absl::StatusOr<std::vector<double>> SampledLosses(
      std::span<const AwqScales> candidates) {
    return Losses(candidates, sample_.views());
  }
  absl::StatusOr<std::vector<double>> Losses(
      std::span<const AwqScales> candidates,
      std::span<const TensorView> weights) {
    std::vector<float> scales;
    for (const AwqScales& c : candidates) {
      scales.insert(scales.end(), c.values.begin(), c.values.end());
    }
    std::vector<double> losses(candidates.size());
    AwqScaleLossArgs args;
    args.weights = weights;
    args.grid = args_.grid;
    args.scales = scales.data();
    args.candidates = static_cast<int64_t>(candidates.size());
    if (!curvature_.empty()) {
      args.curvature = curvature_.data();
    } else if (args_.factor.size() > 0) {
      args.factor = args_.factor.As<float>();
      args.matrix_id = args_.factor_id;
    } else {
      args.second_moment = args_.second_moment;
      args.matrix_id = args_.second_moment_id;
    }
    args.checkpoint = checkpoint_;
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
      QS_ASSIGN_OR_RETURN(const std::vector<double> losses, SampledLosses(two));
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
    QS_ASSIGN_OR_RETURN(const std::vector<double> losses,
                        Losses(two, args_.weights));
    return two[losses[1] < losses[0] ? 1 : 0];
  }

  AwqSearchArgs args_;
  Backend& backend_;
  const Sample sample_;
  PanelCheck checkpoint_;  // of what is done now
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

void AddFacts(const AwqScales& scales, SolverFacts* facts) {
  facts->scale_exponent = scales.exponent;
  facts->scale_duo = scales.duo;
  const auto [least, most] =
      std::minmax_element(scales.values.begin(), scales.values.end());
  facts->scale_min = *least;
  facts->scale_max = *most;
}

}  // namespace qs

// The definition of the AWQ family: one group after the other, every sum in
// double, nothing shared with the fast versions but constants.
// Tested by tests/kernels/awq_golden_test.cc and
// tests/kernels/awq_differential_test.cc.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/awq_check.h"
#include "kernels/awq_math.h"
#include "kernels/base/dtype.h"
#include "kernels/factories.h"

namespace qs {
namespace {

using Floats = std::vector<float>;

// Arithmetic in a dtype: every operation in F32, then rounded to it.
float Rounded(DType dtype, float x) {
  alignas(float) unsigned char storage[sizeof(float)];
  StoreFromFloat(storage, dtype, 0, x);
  return LoadAsFloat(storage, dtype, 0);
}

float RoundedEven(float x) { return std::nearbyint(x); }

struct Group {
  Floats decoded;  // Q
  Floats codes;    // unsigned
  float scale = 0;
  float zero = 0;
};

Group QuantizeAutoAwq(const AwqGridSpec& spec, const Floats& w) {
  const DType t = spec.scale_dtype;
  const float top_code = std::ldexp(1.0f, spec.bits) - 1;
  const float middle = std::ldexp(1.0f, spec.bits - 1);
  const float least = Rounded(t, 1e-5f);
  const auto [low, high] = std::minmax_element(w.begin(), w.end());
  Group group;
  if (spec.symmetric) {
    const float top = std::max(std::fabs(*low), std::fabs(*high));
    group.scale = std::max(spec.min_scale,
                           Rounded(t, std::max(top, least) / (middle - 1)));
    group.zero = middle;
  } else {
    const float width = std::max(Rounded(t, *high - *low), least);
    group.scale = std::max(spec.min_scale, Rounded(t, width / top_code));
    const float zero = -RoundedEven(Rounded(t, *low / group.scale));
    group.zero = std::clamp(zero, 0.0f, top_code);
  }
  for (float x : w) {
    const float steps = RoundedEven(Rounded(t, x / group.scale));
    const float code =
        spec.symmetric
            ? std::clamp(steps, -middle, middle - 1) + middle
            : std::clamp(Rounded(t, steps + group.zero), 0.0f, top_code);
    group.codes.push_back(code);
    group.decoded.push_back(Rounded(t, (code - group.zero) * group.scale));
  }
  return group;
}

Group QuantizeBest(const AwqGridSpec& spec, const Floats& w) {
  const DType t = spec.scale_dtype;
  const float top_code = std::ldexp(1.0f, spec.bits) - 1;
  const float low = std::min(0.0f, *std::min_element(w.begin(), w.end()));
  const float high = std::max(0.0f, *std::max_element(w.begin(), w.end()));
  Group group;
  group.scale =
      Rounded(t, (spec.symmetric ? std::max(-low, high) / (top_code / 2)
                                 : (high - low) / top_code));
  const float normal = std::ldexp(1.0f, t == DType::kF16 ? -14 : -126);
  group.scale =
      std::max(group.scale, spec.min_scale > 0 ? spec.min_scale : normal);
  group.zero =
      spec.symmetric
          ? (top_code + 1) / 2
          : RoundedEven(std::clamp(-low / group.scale, 0.0f, top_code));
  for (float x : w) {
    const float code =
        std::clamp(RoundedEven(x / group.scale) + group.zero, 0.0f, top_code);
    group.codes.push_back(code);
    group.decoded.push_back((code - group.zero) * group.scale);
  }
  return group;
}

// The group's scaled weights, rounded as the rule says.
Floats ScaledGroup(const AwqGridSpec& spec, const TensorView& weight,
                   const float* scales, int64_t row, int64_t group) {
  Floats w;
  for (int64_t i = 0; i < spec.group_size; ++i) {
    const int64_t col = group * spec.group_size + i;
    const float x =
        LoadAsFloat(weight.data, weight.dtype, row * weight.cols + col) *
        (scales == nullptr ? 1.0f : scales[col]);
    w.push_back(spec.rule == AwqRule::kAutoAwq ? Rounded(weight.dtype, x) : x);
  }
  return w;
}

Group QuantizeClamped(const AwqGridSpec& spec, Floats w, float low,
                      float high) {
  for (float& x : w) x = std::clamp(x, low, high);
  if (spec.rule == AwqRule::kBest) return QuantizeBest(spec, w);
  for (float& x : w) x = Rounded(spec.scale_dtype, x);
  return QuantizeAutoAwq(spec, w);
}

// tr(D H D^T) of one row.
double RowLoss(const std::vector<double>& d, const AwqScaleLossArgs& args) {
  const size_t n = d.size();
  double loss = 0;
  for (size_t j = 0; j < n; ++j) {
    double sum = 0;
    if (args.factor != nullptr) {
      for (size_t i = 0; i <= j; ++i) sum += d[i] * args.factor[i * n + j];
      loss += sum * sum;
    } else {
      for (size_t i = 0; i < n; ++i) {
        sum += d[i] * args.second_moment[i * n + j];
      }
      loss += sum * d[j];
    }
  }
  return loss;
}

// What solved codes of a row can be expected to leave.
double ExpectedLoss(const AwqScaleLossArgs& args, const TensorView& weight,
                    const float* scales, int64_t row) {
  const int64_t size = args.grid.group_size;
  double loss = 0;
  for (int64_t g = 0; g < weight.cols / size; ++g) {
    const Group group = QuantizeClamped(
        args.grid, ScaledGroup(args.grid, weight, scales, row, g), -INFINITY,
        INFINITY);
    double cost = 0;
    for (int64_t k = g * size; k < (g + 1) * size; ++k) {
      cost += static_cast<double>(args.curvature[k]) / scales[k] / scales[k];
    }
    loss += static_cast<double>(group.scale) * group.scale / 12 * cost;
  }
  return loss;
}

std::vector<double> RowDelta(const AwqGridSpec& spec, const TensorView& weight,
                             const float* scales, int64_t row) {
  std::vector<double> delta;
  for (int64_t g = 0; g < weight.cols / spec.group_size; ++g) {
    const Group group = QuantizeClamped(
        spec, ScaledGroup(spec, weight, scales, row, g), -INFINITY, INFINITY);
    for (int64_t i = 0; i < spec.group_size; ++i) {
      const int64_t col = g * spec.group_size + i;
      float value = group.decoded[static_cast<size_t>(i)] / scales[col];
      if (spec.rule == AwqRule::kAutoAwq) value = Rounded(weight.dtype, value);
      delta.push_back(
          static_cast<double>(value) -
          LoadAsFloat(weight.data, weight.dtype, row * weight.cols + col));
    }
  }
  return delta;
}

// The clip search of one group.
class Clipper {
 public:
  Clipper(const AwqClipArgs& args, int64_t row, int64_t group)
      : args_(args),
        first_col_(group * args.grid.group_size),
        w_(ScaledGroup(args.grid, args.weight, args.scales, row, group)) {
    const auto [low, high] = std::minmax_element(w_.begin(), w_.end());
    range_ = {std::min(0.0f, *low), std::max(0.0f, *high)};
  }

  awq::Limits Search() {
    FirstRound();
    if (args_.grid.rule == AwqRule::kBest) {
      for (int round = 1; round < awq::kClipRounds; ++round) LaterRound(round);
    }
    return best_;
  }

 private:
  void FirstRound() {
    const float top = std::max(-range_.low, range_.high);
    const bool even =
        args_.grid.symmetric || args_.grid.rule == AwqRule::kAutoAwq;
    for (int i = 0; i < awq::kClipSteps; ++i) {
      const auto factor = static_cast<float>(1.0 - i / awq::kClipGrid);
      awq::Limits limits = {range_.low * factor, range_.high * factor};
      if (even) limits = {-(top * factor), top * factor};
      if (args_.grid.rule == AwqRule::kAutoAwq) {
        limits.high = Rounded(args_.weight.dtype, limits.high);
        limits.low = -limits.high;
      }
      Offer(limits);
    }
  }

  void LaterRound(int round) {
    const awq::Limits start = best_;
    const float top = std::max(-range_.low, range_.high);
    const float width = range_.high - range_.low;
    for (int k = 0; k < awq::kClipMoves; ++k) {
      awq::Limits limits = start;
      if (args_.grid.symmetric) {
        const float move = awq::ClipFineMove(k) / (round == 1 ? 1.0f : 4.0f);
        limits.high = std::clamp(start.high + move * top, 0.0f, top);
        limits.low = -limits.high;
      } else if (round == 1) {
        limits.low =
            std::clamp(start.low + awq::ClipMove(k) * width, range_.low, 0.0f);
      } else {
        limits.high = std::clamp(start.high + awq::ClipMove(k) * width, 0.0f,
                                 range_.high);
      }
      Offer(limits);
    }
  }

  void Offer(const awq::Limits& limits) {
    const Group group =
        QuantizeClamped(args_.grid, w_, limits.low, limits.high);
    std::vector<double> d;
    for (size_t i = 0; i < w_.size(); ++i) {
      d.push_back(static_cast<double>(group.decoded[i]) - w_[i]);
    }
    const double error = Error(d);
    if (!offered_ || error < best_error_) {
      offered_ = true;
      best_error_ = error;
      best_ = limits;
    }
  }

  double Error(const std::vector<double>& d) const {
    double error = 0;
    for (size_t i = 0; i < d.size(); ++i) {
      for (size_t j = 0; j < d.size(); ++j) {
        error += d[i] * Moment(i, j) * d[j];
      }
    }
    return error;
  }

  // Of the scaled input.
  double Moment(size_t i, size_t j) const {
    const int64_t row = first_col_ + static_cast<int64_t>(i);
    const int64_t col = first_col_ + static_cast<int64_t>(j);
    const double h = args_.second_moment[row * args_.weight.cols + col];
    if (args_.scales == nullptr) return h;
    return h / args_.scales[row] / args_.scales[col];
  }

  const AwqClipArgs& args_;
  const int64_t first_col_;
  const Floats w_;
  awq::Limits range_;
  awq::Limits best_;
  double best_error_ = INFINITY;
  bool offered_ = false;
};

class AwqReference final : public AwqOps {
 public:
  absl::Status Statistics(const AwqStatisticsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(
        CheckAwqWeights(args.weights, {.group_size = args.group_size}));
    const int64_t cols = args.weights.front().cols;
    std::vector<double> sums(static_cast<size_t>(cols));
    int64_t rows = 0;
    for (const TensorView& weight : args.weights) {
      rows += weight.rows;
      for (int64_t row = 0; row < weight.rows; ++row) {
        AddRow(weight, row, args.group_size, &sums);
      }
    }
    for (int64_t col = 0; col < cols; ++col) {
      const double mean =
          sums[static_cast<size_t>(col)] / static_cast<double>(rows);
      args.w_mean[col] =
          Rounded(args.weights.front().dtype, static_cast<float>(mean));
    }
    return absl::OkStatus();
  }

  absl::Status ScaleLosses(const AwqScaleLossArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckAwqScaleLosses(args));
    const int64_t cols = args.weights.front().cols;
    for (int64_t c = 0; c < args.candidates; ++c) {
      QS_RETURN_IF_ERROR(Check(args.checkpoint, c, args.candidates));
      double loss = 0;
      for (const TensorView& weight : args.weights) {
        for (int64_t row = 0; row < weight.rows; row += args.row_stride) {
          const float* scales = args.scales + c * cols;
          loss += args.curvature != nullptr
                      ? ExpectedLoss(args, weight, scales, row)
                      : RowLoss(RowDelta(args.grid, weight, scales, row), args);
        }
      }
      args.losses[c] = loss;
    }
    return absl::OkStatus();
  }

  absl::Status ClipSearch(const AwqClipArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckAwqGrid(args.weight, args.grid));
    const int64_t groups = args.weight.cols / args.grid.group_size;
    for (int64_t i = 0; i < args.weight.rows * groups; ++i) {
      QS_RETURN_IF_ERROR(Check(args.checkpoint, i, args.weight.rows * groups));
      const awq::Limits limits = Clipper(args, i / groups, i % groups).Search();
      args.low[i] = limits.low;
      args.high[i] = limits.high;
    }
    return absl::OkStatus();
  }

  absl::Status Quantize(const AwqQuantizeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckAwqGrid(args.weight, args.grid));
    const int64_t groups = args.weight.cols / args.grid.group_size;
    for (int64_t i = 0; i < args.weight.rows * groups; ++i) {
      const Group group =
          QuantizeClamped(args.grid,
                          ScaledGroup(args.grid, args.weight, args.scales,
                                      i / groups, i % groups),
                          args.low == nullptr ? -INFINITY : args.low[i],
                          args.high == nullptr ? INFINITY : args.high[i]);
      StoreFromFloat(args.group_scales, args.grid.scale_dtype, i, group.scale);
      args.zero_points[i] = static_cast<uint8_t>(group.zero);
      for (int64_t j = 0; j < args.grid.group_size; ++j) {
        const int64_t at = i * args.grid.group_size + j;
        const auto from = static_cast<size_t>(j);
        args.codes[at] = static_cast<uint8_t>(group.codes[from]);
        if (args.decoded != nullptr) args.decoded[at] = group.decoded[from];
      }
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status Check(const PanelCheck& checkpoint, int64_t done,
                            int64_t all) {
    if (checkpoint == nullptr) return absl::OkStatus();
    return checkpoint(static_cast<double>(done) / static_cast<double>(all));
  }

  static void AddRow(const TensorView& weight, int64_t row, int64_t group_size,
                     std::vector<double>* sums) {
    const DType t = weight.dtype;
    const auto at = [&](int64_t col) {
      return std::fabs(LoadAsFloat(weight.data, t, row * weight.cols + col));
    };
    for (int64_t first = 0; first < weight.cols; first += group_size) {
      float top = 0;
      for (int64_t i = 0; i < group_size; ++i) {
        top = std::max(top, at(first + i));
      }
      const float divisor = Rounded(t, top + 1e-6f);
      for (int64_t i = 0; i < group_size; ++i) {
        (*sums)[static_cast<size_t>(first + i)] +=
            Rounded(t, at(first + i) / divisor);
      }
    }
  }
};

}  // namespace

std::unique_ptr<AwqOps> NewAwqReference() {
  return std::make_unique<AwqReference>();
}

}  // namespace qs

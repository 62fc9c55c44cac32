// Tested by tests/quant/awq_quality_test.cc.
#include "quant/awq_judge.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/gptq_factor.h"
#include "quant/group_parts.h"

namespace qs {
namespace {

constexpr int64_t kF32 = sizeof(float);

// The rows that are judged, scaled: rows 0, stride, 2 stride, ... of each.
std::vector<float> JudgedRows(const AwqJudgeArgs& args,
                              std::span<const float> scales) {
  int64_t rows = 0;
  for (const TensorView& weight : args.weights) rows += weight.rows;
  const int64_t stride =
      CeilDiv(rows, kJudgedRows - static_cast<int64_t>(std::min<size_t>(
                                      args.weights.size(), kJudgedRows / 2)));
  std::vector<float> out;
  for (const TensorView& weight : args.weights) {
    for (int64_t r = 0; r < weight.rows; r += stride) {
      for (int64_t k = 0; k < weight.cols; ++k) {
        out.push_back(
            LoadAsFloat(weight.data, weight.dtype, r * weight.cols + k) *
            scales[static_cast<size_t>(k)]);
      }
    }
  }
  return out;
}

class Judge {
 public:
  Judge(const AwqJudgeArgs& args, Backend& backend)
      : args_(args), backend_(backend), n_(args.inputs) {}

  absl::Status AllocateAll() {
    QS_ASSIGN_OR_RETURN(square_, AllocateSquare(n_));
    return absl::OkStatus();
  }

  absl::StatusOr<double> Loss(std::span<const float> scales,
                              const PanelCheck& checkpoint) {
    auto* const square = square_.As<float>();
    ScaleMoment(args_.second_moment, scales, square);
    const std::vector<int32_t> order = GptqOrder(
        ColumnOrder::kActOrderStatic, args_.grid.group_size, square, n_, 0);
    GptqFactorFacts facts;
    GptqFactorArgs factor;
    factor.hessian = square;
    factor.size = n_;
    factor.order = order.data();
    factor.damping = args_.spec.damping;
    factor.checkpoint = PartOf(checkpoint, 0, 0.5);
    factor.factor = square;
    factor.facts = &facts;
    QS_RETURN_IF_ERROR(backend_.gptq().Factor(factor, backend_.stream()));
    const std::vector<float> weight = JudgedRows(args_, scales);
    QS_ASSIGN_OR_RETURN(
        const std::vector<float> decoded,
        Solved(weight, order, square, PartOf(checkpoint, 0.5, 1)));
    // Scaling again is cheaper than a place beside the factor.
    ScaleMoment(args_.second_moment, scales, square);
    const auto rows = static_cast<int64_t>(weight.size()) / n_;
    return Error({weight.data(), DType::kF32, rows, n_},
                 {decoded.data(), DType::kF32, rows, n_}, square);
  }

 private:
  // What the solved codes of `weight` stand for.
  absl::StatusOr<std::vector<float>> Solved(const std::vector<float>& weight,
                                            const std::vector<int32_t>& order,
                                            const float* factor,
                                            const PanelCheck& checkpoint) {
    const int64_t rows = static_cast<int64_t>(weight.size()) / n_;
    const int64_t groups = n_ / args_.grid.group_size;
    std::vector<uint8_t> codes(weight.size());
    std::vector<uint8_t> zero_points(static_cast<size_t>(rows * groups));
    std::vector<float> scales(zero_points.size());
    std::vector<float> decoded(weight.size());
    int64_t first_non_finite = -1;
    GptqSolveArgs solve;
    solve.weight = {weight.data(), DType::kF32, rows, n_};
    solve.factor = factor;
    solve.order = order.data();
    solve.grid = {.bits = args_.spec.bits,
                  .group_size = args_.grid.group_size,
                  .symmetric = args_.spec.symmetric,
                  .scale_dtype = args_.grid.scale_dtype,
                  .min_scale = args_.grid.min_scale};
    solve.range = args_.spec.clip ? GptqRange::kCurvature : GptqRange::kMinMax;
    solve.checkpoint = checkpoint;
    solve.codes = codes.data();
    solve.scales = scales.data();
    solve.zero_points = args_.spec.symmetric ? nullptr : zero_points.data();
    solve.first_non_finite = &first_non_finite;
    QS_RETURN_IF_ERROR(backend_.gptq().Solve(solve, backend_.stream()));
    GptqDecodeArgs decode;
    decode.codes = codes.data();
    decode.scales = scales.data();
    decode.zero_points = solve.zero_points;
    decode.grid = solve.grid;
    decode.weight = {decoded.data(), DType::kF32, rows, n_};
    QS_RETURN_IF_ERROR(backend_.gptq().Decode(decode, backend_.stream()));
    return decoded;
  }

  absl::StatusOr<double> Error(const TensorView& weight,
                               const TensorView& decoded, const float* moment) {
    std::vector<double> errors(static_cast<size_t>(weight.rows));
    GptqErrorArgs args;
    args.weight = weight;
    args.decoded = decoded;
    args.hessian = moment;
    args.error = errors.data();
    QS_RETURN_IF_ERROR(backend_.gptq().OutputError(args, backend_.stream()));
    return std::accumulate(errors.begin(), errors.end(), 0.0);
  }

  const AwqJudgeArgs& args_;
  Backend& backend_;
  const int64_t n_;
  Buffer square_;  // S^-1 H S^-1, then its factor, then it again
};

}  // namespace

absl::StatusOr<Buffer> AllocateSquare(int64_t size) {
  return Buffer::Allocate(size * size * kF32);
}

void ScaleMoment(const float* moment, std::span<const float> scales,
                 float* out) {
  const size_t n = scales.size();
  std::vector<double> inverse;
  for (float s : scales) inverse.push_back(1.0 / static_cast<double>(s));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      // One product for both triangles, so that they stay equal.
      out[i * n + j] = static_cast<float>(
          static_cast<double>(moment[i * n + j]) * (inverse[i] * inverse[j]));
    }
  }
}

absl::StatusOr<std::vector<float>> Curvature(const AwqJudgeArgs& args,
                                             Backend& backend) {
  QS_ASSIGN_OR_RETURN(Buffer factor, AllocateSquare(args.inputs));
  const std::vector<int32_t> order =
      GptqOrder(ColumnOrder::kActOrderStatic, args.grid.group_size,
                args.second_moment, args.inputs, 0);
  GptqFactorFacts facts;
  GptqFactorArgs make;
  make.hessian = args.second_moment;
  make.size = args.inputs;
  make.order = order.data();
  make.damping = args.spec.damping;
  make.checkpoint = args.checkpoint;
  make.factor = factor.As<float>();
  make.facts = &facts;
  QS_RETURN_IF_ERROR(backend.gptq().Factor(make, backend.stream()));
  std::vector<float> curvature(order.size());
  for (size_t p = 0; p < order.size(); ++p) {
    const float r = factor.As<float>()[p * order.size() + p];
    curvature[static_cast<size_t>(order[p])] = r * r;
  }
  return curvature;
}

absl::StatusOr<std::vector<double>> SolvedLosses(
    const AwqJudgeArgs& args, std::span<const AwqScales> candidates,
    Backend& backend) {
  Judge judge(args, backend);
  QS_RETURN_IF_ERROR(judge.AllocateAll());
  std::vector<double> losses;
  const auto count = static_cast<double>(candidates.size());
  for (size_t i = 0; i < candidates.size(); ++i) {
    const auto at = static_cast<double>(i);
    QS_ASSIGN_OR_RETURN(
        losses.emplace_back(),
        judge.Loss(candidates[i].values,
                   PartOf(args.checkpoint, at / count, (at + 1) / count)));
  }
  return losses;
}

}  // namespace qs

// The families made of matrix products: second moments, GPTQ, AWQ.
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/awq_cuda.h"
#include "kernels/cuda/gptq_cuda.h"
#include "kernels/cuda/gram_cuda.h"
#include "tests/gpu/bench_problem.h"
#include "tests/gpu/bench_rows.h"

namespace qs::cuda {
namespace {

constexpr int kRatios = 20;  // of AutoAWQ

double Product(double a, double b, double c) { return a * b * c; }

// Another's products, without a library's factorisation.
class ProductsOf final : public Blas {
 public:
  explicit ProductsOf(Blas& blas) : blas_(blas) {}
  std::string description() const override { return blas_.description(); }
  absl::Status Gemm(const GemmArgs& args, cudaStream_t stream) override {
    return blas_.Gemm(args, stream);
  }
  absl::Status Syrk(const SyrkArgs& args, cudaStream_t stream) override {
    return blas_.Syrk(args, stream);
  }
  absl::Status Trsm(const TrsmArgs& args, cudaStream_t stream) override {
    return blas_.Trsm(args, stream);
  }

 private:
  Blas& blas_;
};

// GPTQ of [rows, cols] on the device, by parts.
class GptqRows {
 public:
  GptqRows(const BenchShapes& shapes, int64_t cols, BenchMachine& machine)
      : machine_(machine),
        memory_(machine),
        rows_(shapes.rows),
        cols_(cols),
        weights_(memory_, rows_, cols),
        factor_(memory_.New<float>(cols * cols)),
        codes_(memory_.New<uint8_t>(rows_ * cols)),
        scales_(memory_.New<uint16_t>(rows_ * CeilDiv(cols, shapes.group))),
        error_(memory_.New<double>(rows_)),
        bad_(memory_.New<int64_t>(1)),
        ops_(NewGptqCuda(machine.workspace(), machine.blas())),
        products_(machine.blas()),
        own_(NewGptqCuda(machine.workspace(), products_)) {
    grid_.group_size = shapes.group;
    grid_.scale_dtype = DType::kBF16;
    grid_.decoded_dtype = DType::kBF16;
  }

  absl::Status Run(const Asked& asked, BenchTable& table) {
    QS_RETURN_IF_ERROR(memory_.status());
    QS_ASSIGN_OR_RETURN(const BenchMoment moment,
                        MakeBenchMoment(machine_, memory_, cols_));
    hessian_ = moment.device;
    order_ = memory_.Copy(moment.order.data(), cols_);
    QS_RETURN_IF_ERROR(memory_.status());
    const auto r = static_cast<double>(rows_);
    const auto c = static_cast<double>(cols_);
    const double factor = Product(c, c, c) / 3;
    const double solve = Product(r, c, c);
    const auto add = [&](const char* part, double work, const Asked& ask,
                         const std::function<absl::Status(int64_t)>& body) {
      return table.Add({.kernel = absl::StrCat("GPTQ ", part),
                        .shape = ShapeText(rows_, cols_),
                        .ceiling = Ceiling::kF32,
                        .work = work,
                        .asked = ask},
                       body);
    };
    const auto given_h = [&](int64_t call) -> absl::Status {
      QS_RETURN_IF_ERROR(Factor(*ops_));
      return Solve(call, GptqRange::kCurvature);
    };
    const auto best = [&](int64_t call) -> absl::Status {
      QS_RETURN_IF_ERROR(Solve(call, GptqRange::kCurvature));
      return Refine(call);
    };
    QS_RETURN_IF_ERROR(
        add("given H: factor, ranges, codes", factor + solve, asked, given_h));
    QS_RETURN_IF_ERROR(
        add("factor", factor, {}, [&](int64_t) { return Factor(*ops_); }));
    QS_RETURN_IF_ERROR(
        add("factor in F64 (reference)", factor, {},
            [&](int64_t) { return Factor(*ops_, /*in_f64=*/true); }));
    QS_RETURN_IF_ERROR(add("factor without cuSOLVER", factor, {},
                           [&](int64_t) { return Factor(*own_); }));
    QS_RETURN_IF_ERROR(
        add("codes, min-max ranges", solve, {},
            [&](int64_t call) { return Solve(call, GptqRange::kMinMax); }));
    QS_RETURN_IF_ERROR(
        add("codes, curvature ranges", solve, {},
            [&](int64_t call) { return Solve(call, GptqRange::kCurvature); }));
    QS_RETURN_IF_ERROR(add("codes, then descent (best)", 3 * solve, {}, best));
    return add("output error", 2 * solve, {},
               [&](int64_t call) { return OutputError(call); });
  }

 private:
  Stream& stream() { return machine_.workspace().stream(); }

  absl::Status Factor(GptqOps& ops, bool in_f64 = false) {
    GptqFactorFacts facts;
    GptqFactorArgs args;
    args.hessian = hessian_;
    args.size = cols_;
    args.order = order_;
    args.in_f64 = in_f64;
    args.factor = factor_;
    args.facts = &facts;
    return ops.Factor(args, stream());
  }

  absl::Status Solve(int64_t call, GptqRange range) {
    GptqSolveArgs args;
    args.weight = weights_.At(call);
    args.factor = factor_;
    args.order = order_;
    args.grid = grid_;
    args.range = range;
    args.codes = codes_;
    args.scales = scales_;
    args.first_non_finite = bad_;
    return ops_->Solve(args, stream());
  }

  absl::Status Refine(int64_t call) {
    GptqRefineArgs args;
    args.weight = weights_.At(call);
    args.hessian = hessian_;
    args.grid = grid_;
    args.codes = codes_;
    args.scales = scales_;
    args.row_error = error_;
    return ops_->Refine(args, stream());
  }

  // Of the weights and a copy: what the values are does not matter.
  absl::Status OutputError(int64_t call) {
    GptqErrorArgs args;
    args.weight = weights_.At(call);
    args.decoded = weights_.At(call + 1);
    args.hessian = hessian_;
    args.error = error_;
    return ops_->OutputError(args, stream());
  }

  BenchMachine& machine_;
  BenchMemory memory_;
  const int64_t rows_;
  const int64_t cols_;
  const TurningWeights weights_;
  float* const factor_;
  uint8_t* const codes_;
  uint16_t* const scales_;
  double* const error_;
  int64_t* const bad_;
  const std::unique_ptr<GptqOps> ops_;
  ProductsOf products_;
  const std::unique_ptr<GptqOps> own_;
  GptqGrid grid_;
  const float* hessian_ = nullptr;
  const int32_t* order_ = nullptr;
};

}  // namespace

absl::Status BenchGram(const BenchShapes& shapes, BenchMachine& machine,
                       BenchTable& table) {
  BenchMemory memory(machine);
  const int64_t cols = shapes.cols;
  const int64_t tokens = shapes.tokens_a_call;
  const Buffer host = LikeActivations(tokens, cols, 4);
  const uint16_t* const x = memory.Copy(host.As<uint16_t>(), tokens * cols);
  auto* const sum = memory.New<double>(cols * cols);
  auto* const abs_sum = memory.New<double>(cols);
  auto* const bad = memory.New<int64_t>(1);
  auto* const moment = memory.New<float>(cols * cols);
  auto* const abs_f32 = memory.New<float>(cols);
  memory.Zero(sum, cols * cols * 8);
  memory.Zero(abs_sum, cols * 8);
  QS_RETURN_IF_ERROR(memory.status());
  const auto ops = NewGramCuda(machine.workspace(), machine.blas());
  Stream& stream = machine.workspace().stream();

  const auto all = [&](int64_t) -> absl::Status {
    for (int64_t done = 0; done < shapes.tokens; done += tokens) {
      QS_RETURN_IF_ERROR(ops->Accumulate(
          {{x, DType::kBF16, tokens, cols}, sum, abs_sum, bad}, stream));
      machine.workspace().GiveBack();
    }
    return absl::OkStatus();
  };
  QS_RETURN_IF_ERROR(table.Add(
      {.kernel = absl::StrCat("second moments, ", tokens, " tokens a call"),
       .shape = ShapeText(shapes.tokens, cols),
       .ceiling = Ceiling::kBf16,
       .work =
           2 * Product(static_cast<double>(shapes.tokens),
                       static_cast<double>(cols), static_cast<double>(cols)),
       .asked = {.least_share = 0.5}},
      all));
  return table.Add(
      {.kernel = "second moments, finish",
       .shape = ShapeText(cols, cols),
       .work = static_cast<double>(cols * cols) * (8 + 4)},
      [&](int64_t) {
        return ops->Finish({sum, abs_sum, cols, moment, abs_f32}, stream);
      });
}

absl::Status BenchGptq(const BenchShapes& shapes, BenchMachine& machine,
                       BenchTable& table) {
  QS_RETURN_IF_ERROR(GptqRows(shapes, shapes.cols, machine)
                         .Run({.most_ms = 10, .goal_ms = 4}, table));
  machine.workspace().Trim();
  return GptqRows(shapes, shapes.wide, machine).Run({.most_ms = 60}, table);
}

absl::Status BenchAwq(const BenchShapes& shapes, BenchMachine& machine,
                      BenchTable& table) {
  BenchMemory memory(machine);
  const int64_t rows = shapes.rows;
  const int64_t cols = shapes.cols;
  const int64_t groups = cols / shapes.group;
  const TurningWeights weights(memory, rows, cols);
  auto* const factor = memory.New<float>(cols * cols);
  auto* const low = memory.New<float>(rows * groups);
  auto* const high = memory.New<float>(rows * groups);
  auto* const codes = memory.New<uint8_t>(rows * cols);
  auto* const group_scales = memory.New<uint16_t>(rows * groups);
  auto* const points = memory.New<uint8_t>(rows * groups);
  QS_RETURN_IF_ERROR(memory.status());
  QS_ASSIGN_OR_RETURN(const BenchMoment moment,
                      MakeBenchMoment(machine, memory, cols));
  Stream& stream = machine.workspace().stream();
  QS_RETURN_IF_ERROR(FactorBenchMoment(machine, moment, cols, factor));

  const auto ops = NewAwqCuda(machine.workspace(), machine.blas());
  std::vector<float> w_mean(static_cast<size_t>(cols));
  const auto statistics = [&](int64_t call) {
    const TensorView weight = weights.At(call);
    return ops->Statistics({{&weight, 1}, shapes.group, w_mean.data()}, stream);
  };
  QS_RETURN_IF_ERROR(statistics(0));
  machine.workspace().GiveBack();
  const std::vector<float> scales =
      BenchAwqCandidates(moment.x_mean, w_mean, kRatios);
  std::vector<double> lost(kRatios);
  const AwqGridSpec grid = {4, shapes.group, false, AwqRule::kAutoAwq,
                            DType::kBF16};
  const auto losses = [&](int64_t call) {
    const TensorView weight = weights.At(call);
    AwqScaleLossArgs args;
    args.weights = {&weight, 1};
    args.grid = grid;
    args.scales = scales.data();
    args.candidates = kRatios;
    args.factor = factor;
    args.losses = lost.data();
    return ops->ScaleLosses(args, stream);
  };
  const auto clip = [&](int64_t call, AwqRule rule) {
    AwqClipArgs args;
    args.weight = weights.At(call);
    args.grid = grid;
    args.grid.rule = rule;
    args.scales = scales.data();
    args.second_moment = moment.device;
    args.low = low;
    args.high = high;
    return ops->ClipSearch(args, stream);
  };
  const std::string shape = ShapeText(rows, cols);
  const double loss_work =
      kRatios * Product(static_cast<double>(rows), static_cast<double>(cols),
                        static_cast<double>(cols));
  const double clip_work =
      2 * Product(static_cast<double>(rows), static_cast<double>(cols),
                  static_cast<double>(shapes.group));
  const auto search = [&](int64_t call) -> absl::Status {
    QS_RETURN_IF_ERROR(statistics(call));
    QS_RETURN_IF_ERROR(losses(call));
    return clip(call, AwqRule::kAutoAwq);
  };
  QS_RETURN_IF_ERROR(
      table.Add({.kernel = absl::StrCat("AWQ ", kRatios, " losses and clip"),
                 .shape = shape,
                 .ceiling = Ceiling::kTf32,
                 .work = loss_work + 10 * clip_work,
                 .asked = {.most_ms = 12, .goal_ms = 8}},
                search));
  QS_RETURN_IF_ERROR(
      table.Add({.kernel = absl::StrCat("AWQ ", kRatios, " losses (factor)"),
                 .shape = shape,
                 .ceiling = Ceiling::kTf32,
                 .work = loss_work},
                losses));
  QS_RETURN_IF_ERROR(
      table.Add({.kernel = "AWQ clip, 10 limits",
                 .shape = shape,
                 .ceiling = Ceiling::kF32,
                 .work = 10 * clip_work},
                [&](int64_t call) { return clip(call, AwqRule::kAutoAwq); }));
  QS_RETURN_IF_ERROR(
      table.Add({.kernel = "AWQ clip (best), 18 limits",
                 .shape = shape,
                 .ceiling = Ceiling::kF32,
                 .work = 18 * clip_work},
                [&](int64_t call) { return clip(call, AwqRule::kBest); }));
  QS_RETURN_IF_ERROR(table.Add({.kernel = "AWQ weight means",
                                .shape = shape,
                                .work = 2.0 * static_cast<double>(rows * cols)},
                               statistics));
  return table.Add({.kernel = "AWQ quantize",
                    .shape = shape,
                    .work = 3.0 * static_cast<double>(rows * cols)},
                   [&](int64_t call) {
                     AwqQuantizeArgs args;
                     args.weight = weights.At(call);
                     args.grid = grid;
                     args.scales = scales.data();
                     args.low = low;
                     args.high = high;
                     args.codes = codes;
                     args.group_scales = group_scales;
                     args.zero_points = points;
                     return ops->Quantize(args, stream);
                   });
}

}  // namespace qs::cuda

#include "tests/gpu/bench_problem.h"

#include <algorithm>
#include <numeric>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/gptq_cuda.h"
#include "kernels/cuda/gram_cuda.h"
#include "quant/awq_scales.h"

namespace qs::cuda {
namespace {

// Tokens of one call, so that no tensor of activations is larger than H.
constexpr int64_t kTokens = 2 * kGramRunTokens;

std::vector<int32_t> ByFallingDiagonal(const std::vector<float>& h,
                                       int64_t inputs) {
  std::vector<int32_t> order(static_cast<size_t>(inputs));
  std::iota(order.begin(), order.end(), 0);
  const auto diagonal = [&](int32_t i) {
    return h[static_cast<size_t>(i * (inputs + 1))];
  };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return diagonal(a) > diagonal(b);
  });
  return order;
}

}  // namespace

absl::StatusOr<BenchMoment> MakeBenchMoment(BenchMachine& machine,
                                            BenchMemory& memory,
                                            int64_t inputs) {
  Workspace& workspace = machine.workspace();
  auto* const h = memory.New<float>(inputs * inputs);
  auto* const abs_f32 = memory.New<float>(inputs);
  BenchMemory sums(machine);
  const int64_t calls = std::max<int64_t>(2 * inputs / kTokens, 1);
  const int64_t tokens = std::min(kTokens, 2 * inputs);
  auto* const x = sums.New<uint16_t>(tokens * inputs);
  auto* const sum = sums.New<double>(inputs * inputs);
  auto* const abs_sum = sums.New<double>(inputs);
  auto* const bad = sums.New<int64_t>(1);
  sums.Zero(sum, inputs * inputs * 8);
  sums.Zero(abs_sum, inputs * 8);
  const auto gram = NewGramCuda(workspace, machine.blas());
  for (int64_t call = 0; call < calls; ++call) {
    const Buffer host =
        LikeActivations(tokens, inputs, 10 + static_cast<uint64_t>(call));
    sums.CopyIn(x, host.data(), host.size());
    QS_RETURN_IF_ERROR(memory.status());
    QS_RETURN_IF_ERROR(sums.status());
    QS_RETURN_IF_ERROR(
        gram->Accumulate({{x, DType::kBF16, tokens, inputs}, sum, abs_sum, bad},
                         workspace.stream()));
    workspace.GiveBack();
  }
  QS_RETURN_IF_ERROR(
      gram->Finish({sum, abs_sum, inputs, h, abs_f32}, workspace.stream()));
  BenchMoment moment;
  moment.device = h;
  moment.host.resize(static_cast<size_t>(inputs * inputs));
  moment.x_mean.resize(static_cast<size_t>(inputs));
  QS_RETURN_IF_ERROR(
      workspace.CopyOut(moment.host.data(), h, inputs * inputs * 4));
  QS_RETURN_IF_ERROR(
      workspace.CopyOut(moment.x_mean.data(), abs_f32, inputs * 4));
  for (float& value : moment.x_mean) {
    value /= static_cast<float>(calls * tokens);
  }
  moment.order = ByFallingDiagonal(moment.host, inputs);
  return moment;
}

absl::Status FactorBenchMoment(BenchMachine& machine, const BenchMoment& moment,
                               int64_t inputs, float* factor) {
  GptqFactorFacts facts;
  GptqFactorArgs args;
  args.hessian = moment.device;
  args.size = inputs;
  args.damping = 1e-7;  // as quant/ has it for AWQ's losses
  args.factor = factor;
  args.facts = &facts;
  const auto ops = NewGptqCuda(machine.workspace(), machine.blas());
  const absl::Status status = ops->Factor(args, machine.workspace().stream());
  machine.workspace().GiveBack();
  return status;
}

std::vector<float> BenchAwqCandidates(std::span<const float> x_mean,
                                      std::span<const float> w_mean,
                                      int ratios) {
  std::vector<float> all;
  for (int i = 0; i < ratios; ++i) {
    const double ratio = static_cast<double>(i) / ratios;
    const std::vector<float> scales =
        AwqCandidate(x_mean, w_mean, ratio, /*duo=*/true, DType::kBF16);
    all.insert(all.end(), scales.begin(), scales.end());
  }
  return all;
}

}  // namespace qs::cuda

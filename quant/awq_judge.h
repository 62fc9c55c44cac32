// Choosing between scales by what solving the codes leaves, on a few rows; and
// the pieces of solving that the group and the judge share.
#ifndef QS_QUANT_AWQ_JUDGE_H_
#define QS_QUANT_AWQ_JUDGE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "quant/awq_solution.h"
#include "quant/quant_spec.h"

namespace qs {

// F32 [size, size]. Errors: RESOURCE_EXHAUSTED.
absl::StatusOr<Buffer> AllocateSquare(int64_t size);

// out = S^-1 H S^-1, both [n, n], n the number of scales.
void ScaleMoment(const float* moment, std::span<const float> scales,
                 float* out);

struct AwqJudgeArgs {
  AwqSpec spec;
  AwqGridSpec grid;
  std::span<const TensorView> weights;  // of all linears that read the site
  const float* second_moment = nullptr;
  int64_t inputs = 0;
  PanelCheck checkpoint;
};

// R_jj^2 of each column, R the factor of H, most active columns first.
absl::StatusOr<std::vector<float>> Curvature(const AwqJudgeArgs& args,
                                             Backend& backend);

// tr(D H D^T) of at most kJudgedRows rows, spread over the weights, with codes
// solved inside the grid of the weights scaled by each candidate.
constexpr int64_t kJudgedRows = 256;
absl::StatusOr<std::vector<double>> SolvedLosses(
    const AwqJudgeArgs& args, std::span<const AwqScales> candidates,
    Backend& backend);

}  // namespace qs

#endif  // QS_QUANT_AWQ_JUDGE_H_

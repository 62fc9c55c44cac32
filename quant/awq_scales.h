// The scale search of AWQ for one site: candidates from how active an input is
// and how large the weights that read it are, and the one with the least loss.
#ifndef QS_QUANT_AWQ_SCALES_H_
#define QS_QUANT_AWQ_SCALES_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "quant/awq_solution.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"

namespace qs {

// s = x^r / (w^(1 - r) + 1e-4) with duo, else x^r; at least 1e-4; divided by
// sqrt(max s * min s); what is not finite is 1. Every operation rounded to
// `dtype`, as AutoAWQ 0.2.9 does (F32: none).
std::vector<float> AwqCandidate(std::span<const float> x_mean,
                                std::span<const float> w_mean, double ratio,
                                bool duo, DType dtype);

struct AwqSearchArgs {
  AwqSpec spec;
  Profile profile = Profile::kBest;
  AwqGridSpec grid;
  std::span<const TensorView> weights;  // of all linears that read the site
  std::span<const float> x_mean;        // [inputs]
  std::span<const float> w_mean;
  // BEST: whether the scales that serve rounding best are a candidate, too.
  // REQUIRES: true without solve_codes.
  bool by_rounding = true;
  const float* second_moment = nullptr;  // H
  ContentId second_moment_id = 0;
  // Its factor, as in AwqScaleLossArgs; empty where H cannot be factored well.
  // Freed as soon as it is not needed.
  Buffer factor;
  ContentId factor_id = 0;
  // What the fold demands of scales, done to every candidate; null: nothing.
  std::function<void(std::vector<float>&)> adjust;
  PanelCheck checkpoint;
};

// REFERENCE: the least of `grid` candidates, ratios i / grid, the first of
// equals; on a backend that prefers large operations all of them in one, else
// one after the other, given up as soon as it is above the best. BEST: no
// scaling, ratios with and without the weights, both ends included, then golden
// section around the best; largest / smallest capped; never a loss above that
// of no scaling. With solve_codes also the best by what solved codes can be
// expected to leave, from how active inputs are and from how much of them the
// others do not explain, and then the one of all that really leaves the least
// on some rows. Errors: those of AwqOps; `checkpoint`'s.
absl::StatusOr<AwqScales> SearchAwqScales(AwqSearchArgs args, Backend& backend);

// What the report says of them.
void AddFacts(const AwqScales& scales, SolverFacts* facts);

}  // namespace qs

#endif  // QS_QUANT_AWQ_SCALES_H_

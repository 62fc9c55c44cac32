// GptqFactor: what all tensors that read one input share in GPTQ — the order of
// the columns and the triangular factor of the second moment in that order.
#ifndef QS_QUANT_GPTQ_FACTOR_H_
#define QS_QUANT_GPTQ_FACTOR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "kernels/base/content_id.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"
#include "quant/site.h"

namespace qs {

struct GptqFactor {
  Buffer r;                       // F32 [inputs, inputs], upper
  std::vector<int32_t> order;     // [inputs]: column at each position
  std::vector<int32_t> group_of;  // [inputs]: group of each column
  std::vector<uint8_t> dead;      // [inputs]: 1 where H_jj == 0
  GptqFactorFacts facts;
  // Of r, and of the moment that it is the factor of.
  const ContentId id = NewContentId();
  const ContentId moment_id = NewContentId();
};

// The order of the columns by the diagonal of H; equal ones stay as stored.
// `dead_diagonal` stands for 0.
std::vector<int32_t> GptqOrder(ColumnOrder order, int64_t group_size,
                               const float* hessian, int64_t inputs,
                               double dead_diagonal);

// A second moment and how many tokens are in it.
struct MomentView {
  const float* second_moment = nullptr;  // F32 [inputs, inputs]
  int64_t inputs = 0;
  int64_t tokens = 0;
};

// What `spec` and `profile` make of a moment. `group_size` > 0.
// REFERENCE counts a dead column as 1 in 2 / tokens * H, as the libraries do;
// BEST leaves the damping alone there, and raises it to kFewTokensDamping where
// the input has seen fewer than 4 tokens for each of its elements.
// REQUIRES: SiteMoments::Check passed. Errors: `checkpoint`'s.
constexpr double kFewTokensDamping = 0.01;
absl::StatusOr<std::shared_ptr<const GptqFactor>> MakeGptqFactor(
    const GptqSpec& spec, Profile profile, int64_t group_size,
    const MomentView& moment, const PanelCheck& checkpoint, Backend& backend);

// The site's, made by the first that asks, with that one's backend. `clock`
// (may be null) is in kFactor while this caller makes it, else in kWait.
// Errors: INVALID_ARGUMENT — SiteMoments::Check's; `checkpoint`'s.
absl::StatusOr<std::shared_ptr<const GptqFactor>> SharedGptqFactor(
    const GptqSpec& spec, Profile profile, int64_t group_size, Site& site,
    const PanelCheck& checkpoint, Backend& backend,
    PhaseClock* clock = nullptr);

// What the report says of it.
void AddFacts(const GptqFactor& factor, SolverFacts* facts);

}  // namespace qs

#endif  // QS_QUANT_GPTQ_FACTOR_H_

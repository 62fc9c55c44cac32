// PlanSchemes: the different configurations of a plan with overrides. Two rules
// with equal ones are one scheme.
//
// Thread: immutable after construction.
#ifndef QS_SERVICE_CHECKPOINT_PLAN_SCHEMES_H_
#define QS_SERVICE_CHECKPOINT_PLAN_SCHEMES_H_

#include <cstddef>
#include <string>
#include <vector>

#include "quant/v1/quantization.pb.h"

namespace qs {

class PlanSchemes {
 public:
  // `plan` must outlive it.
  explicit PlanSchemes(const quant::v1::PlanSummary& plan);

  // The plan's own first.
  const std::vector<const quant::v1::QuantizationConfig*>& all() const {
    return all_;
  }
  // Place in all(). Of what a rule skips nobody asks: 0.
  size_t Of(const quant::v1::PlanEntry& entry) const;
  // Whether its method cannot do without second moments.
  bool NeedsMoments(size_t scheme) const;

 private:
  std::vector<const quant::v1::QuantizationConfig*> all_;
  std::vector<size_t> of_rule_;
};

// "gptq" or "awq", of the first configuration whose method cannot do without
// second moments; empty: there is none.
std::string CalibratedMethod(const quant::v1::PlanSummary& plan);

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_PLAN_SCHEMES_H_

// PlanAnswer: what PlanCheckpoint answers, put together. Plain data.
#ifndef QS_SERVICE_CHECKPOINT_PLAN_ANSWER_H_
#define QS_SERVICE_CHECKPOINT_PLAN_ANSWER_H_

#include <vector>

#include "quant/v1/quantization.pb.h"

namespace qs {

struct PlanAnswer {
  std::vector<quant::v1::PlanEntry> entries;  // see PlannedCheckpoint
  std::vector<quant::v1::PlanFile> files;
  std::vector<quant::v1::Finding> findings;
  std::vector<quant::v1::PlanSite> sites;  // when they were asked for
  quant::v1::PlanSummary summary;
};

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_PLAN_ANSWER_H_

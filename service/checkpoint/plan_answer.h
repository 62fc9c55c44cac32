// PlanAnswer: what PlanCheckpoint answers, put together.
#ifndef QS_SERVICE_CHECKPOINT_PLAN_ANSWER_H_
#define QS_SERVICE_CHECKPOINT_PLAN_ANSWER_H_

#include <vector>

#include "quant/formats/checkpoint.h"
#include "quant/v1/quantization.pb.h"

namespace qs {

struct PlanAnswer {
  std::vector<quant::v1::PlanEntry> entries;  // see PlannedCheckpoint
  std::vector<quant::v1::PlanFile> files;
  std::vector<quant::v1::Finding> findings;
  std::vector<quant::v1::PlanSite> sites;  // when they were asked for
  quant::v1::PlanSummary summary;
};

// The next response of a plan.
void AddTo(quant::v1::PlanCheckpointResponse response, PlanAnswer* answer);
// What is no file cannot be in the plan's answer, but is not to be forgotten.
void AddLeftOut(const Checkpoint& checkpoint, PlanAnswer* answer);

// Every file of the checkpoint, as a plan is asked about them.
std::vector<CheckpointSideFile> AllFiles(const Checkpoint& checkpoint);

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_PLAN_ANSWER_H_

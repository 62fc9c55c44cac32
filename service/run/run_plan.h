// RunPlan: everything about a run that is known before work begins.
#ifndef QS_SERVICE_RUN_RUN_PLAN_H_
#define QS_SERVICE_RUN_RUN_PLAN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/checkpoint.h"
#include "quant/group_info.h"
#include "quant/plan/plan.h"
#include "quant/quant_spec.h"
#include "quant/tensor_quantizer.h"
#include "service/checkpoint/plan_answer.h"
#include "service/checkpoint/planned_checkpoint.h"
#include "service/checkpoint/shard_source.h"
#include "service/checkpoint/work_batch.h"
#include "service/run/checkpoint_run.h"
#include "service/run/run_input.h"
#include "service/run/run_work.h"

namespace qs {

// Thread: immutable after Make.
struct RunPlan {
  // Errors: CheckpointRun::Prepare's.
  static absl::StatusOr<std::unique_ptr<const RunPlan>> Make(
      CheckpointRunSpec spec);

  CheckpointRunSpec spec;
  std::vector<QuantSpec> quants;  // by rule, see SpecsByRule
  PlanAnswer answer;
  // Of a checkpoint; nullopt of blobs.
  std::optional<Checkpoint> checkpoint;
  std::optional<PlannedCheckpoint> planned;
  std::unique_ptr<RunInput> input;
  std::unique_ptr<ShardSource> shards;
  // As of spec.moments.
  std::shared_ptr<const RunWork> work;
  BatchTotals totals;
  RunSize size;
  std::string fingerprint;

  // The work as of `moments`: spec.moments with more of its sites sealed.
  // Blocks. Errors: as Make, for what only the numbers tell.
  absl::StatusOr<std::shared_ptr<const RunWork>> Renewed(
      const RunWork& before,
      std::shared_ptr<const CalibrationSource> moments) const;
  const QuantSpec& SpecOf(const WorkBatch& batch) const {
    return quants[static_cast<size_t>(batch.rule)];
  }
  TensorInfo InfoOf(size_t tensor) const;
  // REQUIRES: the batch has sites. Errors: ValidateGroup's.
  absl::StatusOr<GroupInfo> GroupOf(const WorkBatch& batch) const;
  // How its tensors are quantized, but for what belongs to a run.
  QuantizeOptions Options() const;
  // Upper bound of the memory that it takes, with `workers` at it.
  absl::StatusOr<int64_t> BytesOf(const WorkBatch& batch, int workers) const;
  // What a task of it takes of a GPU's memory, at most.
  absl::StatusOr<int64_t> DeviceBytesOf(const WorkBatch& batch) const;
  // Of one core, about.
  double SecondsOf(const WorkBatch& batch) const;

 private:
  RunPlan() = default;
  absl::Status OpenInput();
  absl::StatusOr<PlanRequest> RequestOf() const;
  absl::Status Plan(PlanRequest request);
  absl::Status PlanCheckpoint();
  absl::Status PlanBlobs();
  bool has_calibration() const {
    return spec.moments != nullptr || !spec.calibration.empty();
  }
  absl::StatusOr<std::optional<Calibration>> OpenMoments() const;
  absl::Status MakeWork();
  std::string Algorithms() const;
  int64_t FileBytes() const;
  absl::StatusOr<std::string> CalibrationIdentity() const;
  absl::Status Fingerprint();
};

// An error of a run with the .proto's reason for it.
absl::Status RunError(const absl::Status& status);

}  // namespace qs

#endif  // QS_SERVICE_RUN_RUN_PLAN_H_

// WorkBatch: what is sent together — one tensor by itself, or a solve group
// with its sites — and how a plan falls into batches.
// Thread: pure functions and plain data.
#ifndef QS_SERVICE_CHECKPOINT_WORK_BATCH_H_
#define QS_SERVICE_CHECKPOINT_WORK_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/calibration/calibration_index.h"
#include "quant/v1/quantization.pb.h"
#include "service/checkpoint/plan_answer.h"
#include "service/checkpoint/planned_checkpoint.h"

namespace qs {

// A calibration and what of it serves a plan.
struct Calibration {
  CalibrationIndex index;
  CalibrationMatch match;
};

struct BatchSite {
  quant::v1::GroupSite declared;
  SiteMatch match;  // what of the calibration it is
};

struct BatchTensor {
  size_t tensor = 0;  // index into PlannedCheckpoint::tensors()
  std::string site;   // of the batch; empty: it reads none
  // Comes back changed under its own name, in place of the carried tensor.
  bool fold_only = false;
};

struct WorkBatch {
  std::string name;
  std::vector<BatchSite> sites;  // empty: a tensor by itself
  std::vector<BatchTensor> tensors;
  // Of the plan's overrides one whose configuration all of them have; 0: they
  // have the plan's own.
  int rule = 0;
};

// What a run sends.
struct BatchTotals {
  int64_t bytes = 0;
  int64_t tensors = 0;
  std::set<size_t> fold_only;  // tensors
};
BatchTotals TotalsOf(const std::vector<WorkBatch>& batches,
                     const std::vector<PlannedTensor>& tensors);

// Tensors in one group, at most, where a method solves each by itself, or
// could: more only hold memory.
constexpr size_t kMaxGroupTensors = 16;

// Whether the plan's method, or one of its overrides, cannot do without second
// moments.
bool NeedsCalibration(const quant::v1::PlanSummary& plan);

// kUsage — the plan's method needs a calibration and `path` is empty.
absl::Status CheckCalibrationGiven(const std::string& path,
                                   const PlanAnswer& plan);
// Errors: kInput — the file is malformed, or lacks sites that the method
// needs, or serves none at all.
absl::StatusOr<Calibration> OpenCalibration(
    const std::string& path, const PlanAnswer& plan,
    std::shared_ptr<const FileOpener> opener = nullptr);
// The same for one that is open already. Errors: also DATA_LOSS, as it comes.
absl::StatusOr<Calibration> MatchCalibration(CalibrationIndex index,
                                             const PlanAnswer& plan);
// What reading moments met: kInput, but DATA_LOSS stays as it is — a store's
// damage is nobody's input.
absl::Status MomentsFault(const absl::Status& status);

// Every tensor that the plan quantizes, once, and the fold-only ones, in the
// order of their first tensors. `calibration` may be null.
// Errors: kUnexpected — the plan names a tensor that is not there.
absl::StatusOr<std::vector<WorkBatch>> MakeBatches(
    const PlanAnswer& plan, const Calibration* calibration);

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_WORK_BATCH_H_

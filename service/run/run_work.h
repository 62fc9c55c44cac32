// RunWork: the batches of a run, and which of them wait for sites of the
// calibration that are open.
#ifndef QS_SERVICE_RUN_RUN_WORK_H_
#define QS_SERVICE_RUN_RUN_WORK_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "service/checkpoint/plan_answer.h"
#include "service/checkpoint/work_batch.h"

namespace qs {

// Thread: immutable after MakeRunWork.
struct RunWork {
  std::optional<Calibration> calibration;
  std::vector<WorkBatch> batches;
  // As `batches`: places of the open sites that each reads, ascending. One that
  // reads none is as it will be when all sites are sealed: numbers of others do
  // not change it.
  std::vector<std::vector<size_t>> open;

  // Of all of them, ascending.
  std::vector<size_t> OpenSites() const;
  // The different ones of `open`. Empty: a batch has no open site.
  std::vector<std::vector<size_t>> FirstSites() const;
};

// Errors: MakeBatches'.
absl::StatusOr<std::shared_ptr<const RunWork>> MakeRunWork(
    const PlanAnswer& plan, std::optional<Calibration> calibration);

}  // namespace qs

#endif  // QS_SERVICE_RUN_RUN_WORK_H_

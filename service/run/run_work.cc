// Tested by tests/service/open_sites_run_test.cc.
#include "service/run/run_work.h"

#include <set>
#include <utility>

#include "kernels/base/status_macros.h"

namespace qs {
namespace {

// A site that saw few tokens also reads its pool, which the batch then has.
std::vector<size_t> OpenSitesOf(const WorkBatch& batch,
                                const std::vector<CalibrationSite>& sites) {
  std::set<size_t> open;
  for (const BatchSite& site : batch.sites) {
    for (const size_t source : site.match.sources) {
      if (sites[source].open) open.insert(source);
    }
  }
  return {open.begin(), open.end()};
}

}  // namespace

std::vector<size_t> RunWork::OpenSites() const {
  std::set<size_t> all;
  for (const std::vector<size_t>& one : open)
    all.insert(one.begin(), one.end());
  return {all.begin(), all.end()};
}

std::vector<std::vector<size_t>> RunWork::FirstSites() const {
  std::set<std::vector<size_t>> sets(open.begin(), open.end());
  if (sets.contains({})) return {};
  return {sets.begin(), sets.end()};
}

absl::StatusOr<std::shared_ptr<const RunWork>> MakeRunWork(
    const PlanAnswer& plan, std::optional<Calibration> calibration) {
  auto work = std::make_shared<RunWork>();
  work->calibration = std::move(calibration);
  const Calibration* const from =
      work->calibration ? &*work->calibration : nullptr;
  QS_ASSIGN_OR_RETURN(work->batches, MakeBatches(plan, from));
  for (const WorkBatch& batch : work->batches) {
    work->open.push_back(
        from == nullptr ? std::vector<size_t>()
                        : OpenSitesOf(batch, from->index.source().sites()));
  }
  return work;
}

}  // namespace qs
